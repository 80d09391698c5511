"""What each lever of adapter and optimizer does to real steps of the tiny model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.commands import TinyRuns

from medexp.config.changes import change_values
from medexp.config.schema import RunConfig
from medexp.data import loading as data_loading
from medexp.data.encoding import make_vocabulary
from medexp.data.preparation import Prepared, prepare
from medexp.data.split import split_cases
from medexp.evaluation.losses import measure_case_losses
from medexp.evaluation.record import mean_loss
from medexp.models import backend, weights
from medexp.models import loading as model_loading
from medexp.models.adapter_model import AdapterModel
from medexp.models.tokenizer import load_tokenizer
from medexp.system import machine
from medexp.training import trainer

PLAIN = [
    "training.plan=manual",
    "training.micro_batch=1",
    "training.accumulation=1",
    "training.batch_by=cases",
    "training.max_steps=4",
    "training.warmup_steps=0",
    "training.save_steps=2",
    "training.learning_rate=1e-3",
    "hardware.dtype=float32",
]
Checkpoint = dict[str, Any]


class Fit:
    """Steps of the tiny model with `overrides`, kept in `folder`."""

    def __init__(self, tiny_runs: TinyRuns, folder: Path, *overrides: str):
        self.run: RunConfig = tiny_runs.run(*PLAIN, *overrides)
        self.folder = folder
        modules = backend.load_backend(self.run.hardware, machine.cache_dir())
        found = weights.find_weights(self.run.model)
        self.tuned: AdapterModel = model_loading.load_model(
            self.run, found, load_tokenizer(found, modules), modules
        )
        sides = split_cases(data_loading.load_cases(self.run.dataset).cases, self.run.dataset)
        vocabulary = make_vocabulary(self.tuned.tokenizer, self.run.prompt)
        self.ready: Prepared = prepare(self.run, sides, vocabulary)
        self.metrics: list[dict[str, float]] = []
        self.held_out: list[float] = []

    def train(self, resume_from: Path | None = None) -> "Fit":
        trainer.fit(self.tuned, self.ready.rows, self.run, self.folder, resume_from, [self])
        return self

    def on_step_end(self, _step: int, metrics: dict[str, float]) -> None:
        self.metrics.append(metrics)
        self.held_out.append(self.measure())

    def measure(self) -> float:
        cases = self.ready.held_out.encoded[:2]
        return mean_loss(measure_case_losses(self.tuned, cases, 2))

    def read(self, step: int, name: str) -> Checkpoint:
        return torch.load(self.folder / f"checkpoint-{step}" / name, weights_only=False)

    def matrices(self, which: str) -> list[torch.Tensor]:
        named = self.tuned.network.named_parameters()
        return [value.detach() for name, value in named if f".lora_{which}." in name]


@pytest.fixture
def fits(tiny_runs: TinyRuns, tmp_path: Path) -> Callable[..., Fit]:
    """fits(*overrides, name="checkpoints"): a model that is loaded and ready to train."""
    return lambda *overrides, name="checkpoints": Fit(tiny_runs, tmp_path / name, *overrides)


def largest(matrices: list[torch.Tensor]) -> float:
    return max(float(matrix.abs().max()) for matrix in matrices)


def test_b_learns_faster_by_the_ratio(fits: Callable[..., Fit]) -> None:
    one_step = ["training.max_steps=1", "training.schedule=constant", "training.weight_decay=0.1"]
    plain = fits(*one_step, name="plain").train()
    faster = fits(*one_step, "training.loraplus_lr_ratio=16", name="faster").train()
    # B begins at zero, and Adam's first step is as long as the rate.
    assert largest(plain.matrices("B")) == pytest.approx(1e-3, rel=1e-3)
    assert largest(faster.matrices("B")) == pytest.approx(16e-3, rel=1e-3)
    torch.testing.assert_close(faster.matrices("A"), plain.matrices("A"))
    groups = [group for group in faster.read(1, "optimizer.pt")["param_groups"] if group["params"]]
    of_a, of_b = len(faster.matrices("A")), len(faster.matrices("B"))
    assert [(len(group["params"]), group["lr"], group["weight_decay"]) for group in groups] == [
        (of_a, pytest.approx(1e-3), 0.1),
        (of_b, pytest.approx(16e-3), 0.1),
    ]
    # what MLflow is told is the rate that was asked for
    assert faster.metrics[0]["train/learning_rate"] == pytest.approx(1e-3)


def test_dora_and_biases_learn_at_the_plain_rate(fits: Callable[..., Fit]) -> None:
    ratio = "training.loraplus_lr_ratio=16"
    made = fits(ratio, "lora.dora=true", "training.max_steps=1").train()
    groups = made.read(1, "optimizer.pt")["param_groups"]
    faster = [group for group in groups if group["lr"] > 2e-3 or group["initial_lr"] > 2e-3]
    assert sum(len(group["params"]) for group in faster) == len(made.matrices("B"))
    magnitudes = [name for name, _ in made.tuned.network.named_parameters() if "magnitude" in name]
    assert sum(len(group["params"]) for group in groups) == 2 * len(made.matrices("B")) + len(
        magnitudes
    )


def test_both_rates_are_there_again_after_a_stop(fits: Callable[..., Fit]) -> None:
    levers = ["training.loraplus_lr_ratio=8", "training.neftune_noise_alpha=5"]
    whole = fits(*levers, name="whole").train()
    first = fits(*levers, name="again")
    again = first.train(resume_from=whole.folder / "checkpoint-2")
    assert [step["train/loss"] for step in again.metrics] == [
        step["train/loss"] for step in whole.metrics[2:]
    ]
    torch.testing.assert_close(again.matrices("B"), whole.matrices("B"), rtol=0, atol=0)
    rates = [group["lr"] for group in again.read(4, "optimizer.pt")["param_groups"]]
    assert max(rates) == pytest.approx(8 * min(rates))


@pytest.mark.parametrize("optimizer", ["AdamW8bit", "PagedAdamW8bit", "AdamW"])
def test_optimizers_of_bitsandbytes_take_both_rates(optimizer: str) -> None:
    """They step on a card alone; their groups are made anywhere."""
    optim = backend.load_bitsandbytes().optim
    a, b, norm = (torch.nn.Parameter(torch.ones(4, 4)) for _ in range(3))
    named = [("x.lora_A.default.weight", a), ("x.lora_B.default.weight", b), ("y.bias", norm)]
    made = getattr(optim, optimizer)(
        [{"params": [a, b], "weight_decay": 0.1}, {"params": [norm], "weight_decay": 0.0}], lr=1e-3
    )
    trainer.raise_rate_of_b(made, named, 16)
    assert [(group["params"][0] is each, group["lr"], group["weight_decay"]) for group, each in
            zip(made.param_groups, (a, norm, b), strict=True)] == [
        (True, 1e-3, 0.1), (True, 1e-3, 0.0), (True, 16e-3, 0.1),
    ]  # fmt: skip
    assert all(group.keys() == made.param_groups[0].keys() for group in made.param_groups)


def test_noise_is_on_the_embeddings_in_training_alone(fits: Callable[..., Fit]) -> None:
    still = ["training.learning_rate=1e-12", "training.weight_decay=0"]
    plain, noisy = (
        fits(*still, *more, name=name).train()
        for name, more in (("plain", []), ("noisy", ["training.neftune_noise_alpha=50"]))
    )
    assert noisy.held_out == pytest.approx(plain.held_out, rel=1e-6)
    assert plain.measure() == pytest.approx(noisy.measure(), rel=1e-6)
    for step, other in zip(noisy.metrics, plain.metrics, strict=True):
        assert abs(step["train/loss"] - other["train/loss"]) > 1e-3
    embedding = noisy.tuned.network.get_input_embeddings()
    assert not embedding._forward_hooks
    assert not hasattr(embedding, "neftune_noise_alpha")


@pytest.mark.parametrize(("schedule", "halfway"), [("linear", 0.55), ("cosine", 0.55)])
def test_a_rate_falls_to_its_floor(fits: Callable[..., Fit], schedule: str, halfway: float) -> None:
    levers = [f"training.schedule={schedule}", "training.min_lr_ratio=0.1"]
    made = fits(*levers, "training.loraplus_lr_ratio=4").train()
    rates = [step["train/learning_rate"] / 1e-3 for step in made.metrics]
    assert rates[0] == pytest.approx(1.0)
    assert rates[2] == pytest.approx(halfway)
    assert rates == sorted(rates, reverse=True)
    last = [group["lr"] for group in made.read(4, "optimizer.pt")["param_groups"]]
    assert sorted(set(last)) == pytest.approx([1e-4, 4e-4])


def test_a_share_of_the_steps_warms_up(fits: Callable[..., Fit]) -> None:
    shared = ["training.warmup_steps=null", "training.warmup_ratio=0.5"]
    counted = fits("training.warmup_steps=2", name="counted").train()
    made = fits(*shared, name="shared").train()
    rates = [[step["train/learning_rate"] for step in fit.metrics] for fit in (made, counted)]
    assert rates[0] == rates[1]
    assert rates[0][1] < rates[0][2]


def test_adams_constants_reach_the_optimizer(fits: Callable[..., Fit]) -> None:
    levers = ["training.adam_beta1=0.8", "training.adam_beta2=0.95", "training.adam_epsilon=1e-6"]
    made = fits(*levers, "training.max_steps=1").train()
    group = made.read(1, "optimizer.pt")["param_groups"][0]
    assert (tuple(group["betas"]), group["eps"]) == ((0.8, 0.95), 1e-6)


def test_a_ends_up_narrower_where_it_begins_gaussian(fits: Callable[..., Fit]) -> None:
    plain, gaussian = fits("lora.r=8"), fits("lora.r=8", "lora.init_lora_weights=gaussian")
    assert largest(gaussian.matrices("B")) == largest(plain.matrices("B")) == 0
    drawn = torch.cat([matrix.flatten() for matrix in gaussian.matrices("A")])
    assert float(drawn.std()) == pytest.approx(1 / 8, rel=0.05)
    assert gaussian.measure() == plain.measure()


@pytest.mark.parametrize("init", ["pissa", "olora", "orthogonal", False])
def test_what_is_refused_does_not_begin_as_the_base(fits: Callable[..., Fit], init: Any) -> None:
    """As the refusals say: PiSSA and OLoRA change the base below the adapter, the others begin with
    a B that is not zero."""
    made = fits()
    base = made.measure()
    lora = change_values(made.run, {"lora.init_lora_weights": init}).lora
    config = made.tuned.stack.peft.LoraConfig(
        **model_loading._make_lora_options(lora, made.run.model.shape.family),
        task_type="CAUSAL_LM",
    )
    made.tuned.network.add_adapter("other", config)
    made.tuned.network.set_adapter("other")
    with made.tuned.adapter_disabled():
        off = made.measure()
    is_changed = abs(off - base) > 1e-4
    assert is_changed is (init in ("pissa", "olora"))
    others = [
        value.detach()
        for name, value in made.tuned.network.named_parameters()
        if ".lora_B.other" in name
    ]
    assert largest(others) > 0


def test_alpha_follows_the_rank_in_every_file_of_a_run(tiny_runs: TinyRuns) -> None:
    ratio = ["lora.alpha=null", "lora.alpha_ratio=2"]
    results = [tiny_runs.train(f"lora.r={r}", *ratio, name=f"r{r}") for r in (2, 4)]
    for rank, result in zip((2, 4), results, strict=True):
        config = json.loads((result.adapter / "adapter_config.json").read_text())
        assert (config["r"], config["lora_alpha"]) == (rank, 2 * rank)
        params = tiny_runs.client().get_run(result.run_id).data.params
        assert params["lora.alpha_ratio"] == "2.0"
        assert "lora.alpha" not in params
    further = ["lora.r=4", "lora.alpha=8", f"lora.start_from={results[1].adapter}"]
    assert tiny_runs.train(*further, name="further").outcome.steps == 2


@pytest.mark.parametrize(
    ("ratio", "rank", "alpha"), [(2.0, 8, 16), (0.5, 5, 2.5), (0.1, 30, 3), (1.5, 4, 6)]
)
def test_alpha_is_so_many_times_the_rank(
    resolved: Callable[..., RunConfig], ratio: float, rank: int, alpha: float
) -> None:
    given = [f"lora.r={rank}", "lora.alpha=null", f"lora.alpha_ratio={ratio}"]
    lora = resolved("hardware=cpu", *given).lora
    assert lora.trained_alpha == alpha
    assert isinstance(lora.trained_alpha, int) is float(alpha).is_integer()
