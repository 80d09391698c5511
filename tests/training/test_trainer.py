"""A step is the same step however its cases are put into micro-batches."""

from collections.abc import Callable

import pytest
import torch
from helpers.commands import TinyRuns

from medexp.config.changes import change_values
from medexp.config.schema import Device, Engine, RunConfig
from medexp.data import loading as data_loading
from medexp.data.encoding import make_vocabulary
from medexp.data.preparation import Prepared, prepare
from medexp.data.split import split_cases
from medexp.errors import MedexpError
from medexp.models import backend, weights
from medexp.models import loading as model_loading
from medexp.models.adapter_model import AdapterModel
from medexp.models.tokenizer import load_tokenizer
from medexp.planning import planner
from medexp.planning.step_memory import count_attended_tokens
from medexp.system import machine
from medexp.training import trainer
from medexp.training.preflight import find_largest_micro_batch

STEPS = [
    "training.plan=manual",
    "training.accumulation=3",
    "training.max_steps=2",
    "lora.dropout=0",
    "hardware.dtype=float32",
    "training.group_by_length=false",
]


class Steps:
    """A few steps of the tiny model, and how many cases and tokens went through it together."""

    def __init__(self, tiny_runs: TinyRuns, *overrides: str):
        self.run = tiny_runs.run(*STEPS, *overrides)
        modules, found = (
            backend.load_backend(self.run.hardware, machine.cache_dir()),
            weights.find_weights(self.run.model),
        )
        self.tuned: AdapterModel = model_loading.load_model(
            self.run, found, load_tokenizer(found, modules), modules
        )
        sides = split_cases(data_loading.load_cases(self.run.dataset).cases, self.run.dataset)
        self.ready: Prepared = prepare(
            self.run, sides, make_vocabulary(self.tuned.tokenizer, self.run.prompt)
        )
        self.metrics: list[dict[str, float]] = []
        self.sizes: list[tuple[int, int]] = []
        self.tuned.network.register_forward_pre_hook(self.saw, with_kwargs=True)
        self.fitted = trainer.fit(self.tuned, self.ready.rows, self.run, None, None, [self])

    def saw(self, _network: object, _args: object, inputs: dict) -> None:
        self.sizes.append(tuple(inputs["input_ids"].shape))

    def on_step_end(self, _step: int, metrics: dict[str, float]) -> None:
        self.metrics.append(metrics)


@pytest.fixture
def steps(tiny_runs: TinyRuns) -> Callable[..., Steps]:
    return lambda *overrides: Steps(tiny_runs, *overrides)


def test_a_step_does_not_depend_on_its_micro_batches(steps: Callable[..., Steps]) -> None:
    one_by_one = steps(
        "training.micro_batch=1", "training.accumulation=6", "training.batch_by=cases"
    )
    full = steps("training.micro_batch=2", "training.batch_by=tokens")
    assert [cases for cases, _ in one_by_one.sizes] == [1] * 12
    assert len(full.sizes) < len(one_by_one.sizes)
    for key in ("train/loss", "train/grad_norm"):
        assert [step[key] for step in full.metrics] == pytest.approx(
            [step[key] for step in one_by_one.metrics], rel=1e-5
        )
    assert full.fitted.tokens == one_by_one.fitted.tokens


def test_an_adapter_on_four_bit_weights_is_trained_in_float32(steps: Callable[..., Steps]) -> None:
    """As after a resume. TRL casts it to bfloat16, in which 1 + 2e-3 is 1."""
    in_four_bits = steps("model.quantisation=nf4", "training.learning_rate=1e-6")
    trained = [each for each in in_four_bits.tuned.network.parameters() if each.requires_grad]
    assert {each.dtype for each in trained} == {torch.float32}
    assert all(each.to(torch.bfloat16).to(torch.float32).ne(each).any() for each in trained)


def test_no_micro_batch_is_larger_than_planned_and_the_probe_takes_the_largest(
    steps: Callable[..., Steps],
) -> None:
    full = steps("training.micro_batch=2", "training.batch_by=tokens")
    assert (
        max(cases * tokens for cases, tokens in full.sizes) <= 2 * full.run.training.max_seq_tokens
    )
    probed = find_largest_micro_batch(full.run, full.ready.rows)
    most = max(count_attended_tokens(cases, tokens) for cases, tokens in full.sizes)
    assert count_attended_tokens(len(probed), max(len(row.input_ids) for row in probed)) == most


def test_full_cases_take_as_long_as_planned_and_short_ones_less(
    resolved: Callable[..., RunConfig],
) -> None:
    run = resolved(
        "hardware=rtx4050_6gb",
        "training.plan=manual",
        "hardware.offload_layers=20",
        "hardware.offload_embedding=true",
    )
    plan = planner.choose_plan(run)[0]
    run = planner.apply_plan(run, plan)
    assert trainer.predict_step_s(run, [run.training.max_seq_tokens] * 8) == pytest.approx(
        plan.step_s, rel=0.05
    )
    assert trainer.predict_step_s(run, [256] * 8) < plan.step_s / 4


def test_a_second_card_is_left_alone(
    steps: Callable[..., Steps], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = steps("training.max_steps=1")
    made.run = change_values(made.run, {"hardware.device": Device.cuda})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    arguments = trainer._arguments(made.run, made.tuned, 1, None)
    assert arguments.n_gpu == 1
    assert (
        arguments.train_batch_size == made.run.training.micro_batch * made.run.training.accumulation
    )


def test_a_step_asks_the_card_for_no_number_before_its_optimizer_has_run(
    steps: Callable[..., Steps],
) -> None:
    """The token count and a look for NaN did: 1 to 2 % of a step on an H100 (benchmarks/train)."""
    made = steps("training.max_steps=1")
    arguments = trainer._arguments(made.run, made.tuned, 1, None)
    assert (arguments.include_num_input_tokens_seen, arguments.logging_nan_inf_filter) == (
        "no",
        False,
    )
    rows = [{"input_ids": [1, 2, 3], "labels": [1, 2, 3]}, {"input_ids": [4], "labels": [4]}]
    whole = trainer._make_collator(made.run, 0)(rows)
    together = whole[trainer.MICRO_BATCHES]
    assert [
        token for batch in together for row in batch["input_ids"].tolist() for token in row if token
    ] == [1, 2, 3, 4]
    assert whole[trainer.TOKENS] == 4
    assert all("attention_mask" not in batch for batch in together)
    with_unsloth = change_values(made.run, {"hardware.engine": Engine.unsloth})
    masked = trainer._make_collator(with_unsloth, 0)(rows)
    assert masked["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    # A card's loader pins them, which torch refuses where rows share their numbers.
    for step in (whole, masked):
        assert all(tensor.is_contiguous() for tensor in step.values() if hasattr(tensor, "shape"))


UNSLOTHS_DEFAULTS = {  # of its SFTConfig, unsloth/models/rl.py
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "weight_decay": 0.001,
    "seed": 3407,
    "optim": "adamw_8bit",
    "learning_rate": 5e-5,
    "warmup_steps": 0.1,
    "logging_steps": 1,
}


def test_other_defaults_of_the_trainers_settings_change_no_step(
    steps: Callable[..., Steps], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = steps("training.max_steps=1")
    plain, config = (
        trainer._arguments(made.run, made.tuned, 1, None),
        made.tuned.stack.trl.SFTConfig,
    )
    monkeypatch.setattr(
        made.tuned.stack.trl, "SFTConfig", lambda **options: config(**UNSLOTHS_DEFAULTS | options)
    )
    arguments = trainer._arguments(made.run, made.tuned, 1, None)
    assert {key: getattr(arguments, key) for key in UNSLOTHS_DEFAULTS} == {
        key: getattr(plain, key) for key in UNSLOTHS_DEFAULTS
    }
    assert (
        arguments.train_batch_size * arguments.gradient_accumulation_steps
        == made.run.training.cases_a_step
    )


def test_a_step_on_other_rows_than_its_own_ends_the_run(
    steps: Callable[..., Steps], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = trainer._arguments

    def doubled(*args: object) -> object:
        found = arguments(*args)
        found.gradient_accumulation_steps = 2
        return found

    monkeypatch.setattr(trainer, "_arguments", doubled)
    with pytest.raises(
        MedexpError, match=r"step 1 was trained on [\d,]+ tokens and its cases have [\d,]+: "
    ):
        steps()
