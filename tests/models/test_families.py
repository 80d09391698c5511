"""A small decoder of every family is trained by a whole run, and its losses are those of plain
Transformers and PEFT on the same cases.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.commands import TinyRuns
from helpers.families import make_network, make_tiny_config, write_tiny_family
from helpers.seeing import make_seeing_network

from medexp.config.families.sizes import name_targets
from medexp.config.schema import Family, RunConfig
from medexp.data import loading as data_loading
from medexp.data.encoding import EncodedCase, make_vocabulary
from medexp.data.preparation import prepare
from medexp.data.split import split_cases
from medexp.models import backend, weights
from medexp.models import loading as model_loading
from medexp.models.tokenizer import load_tokenizer, read_context_tokens
from medexp.system import machine

STEPS, CASES = 3, 2
# Every step sees every case, so that their order does not matter.
OVERRIDES = [
    "debug=fast",
    "model=local",
    f"dataset.max_cases={CASES + 2}",
    f"training.accumulation={CASES}",
    f"training.max_steps={STEPS}",
    "training.schedule=constant",
    "training.weight_decay=0",
    "training.max_grad_norm=1000",
    "training.group_by_length=false",
    "training.resume=never",
    "evaluation.answers=0",
    "evaluation.likelihoods=false",
    "evaluation.max_seq_tokens=1024",
    "tracking.system_metrics=false",
    "hardware.dtype=float32",
]


class FamilyRuns(TinyRuns):
    """Runs whose shape is read from the checkpoint."""

    def overrides(self, *more: str) -> list[str]:
        root = f"tracking.root={self.root / 'mlruns'}"
        plain = [] if any("quantisation" in word for word in more) else ["model.quantisation=none"]
        return [*OVERRIDES, *plain, f"model.path={self.model}", root, *more]


@pytest.fixture
def runs_of(
    tmp_path: Path,
    embedded_tokenizer: Any,
    resolved: Callable[..., RunConfig],
    tiny_runs_in: Callable[..., TinyRuns],
) -> Callable[[Any], FamilyRuns]:
    """runs_of(network): runs of a checkpoint of it."""

    def made(network: Any) -> FamilyRuns:
        place = tmp_path / str(len(list(tmp_path.iterdir())))
        place.mkdir()
        model = write_tiny_family(place / "model", embedded_tokenizer, network)
        tiny_runs_in(place, model)
        return FamilyRuns(place, model, resolved)

    return made


def encode_rows(run: RunConfig, tokenizer: Any) -> list[EncodedCase]:
    """The cases of a step, which are those of every other."""
    sides = split_cases(data_loading.load_cases(run.dataset, run.prompt).cases, run.dataset)
    rows = list(prepare(run, sides, make_vocabulary(tokenizer, run.prompt)).rows)
    steps = [rows[start : start + CASES] for start in range(0, len(rows), CASES)]
    assert len(steps) == STEPS
    assert len({frozenset(tuple(row.input_ids) for row in step) for step in steps}) == 1
    return steps[0]


def train_plainly(run: RunConfig) -> list[float]:
    """The losses of a loop of twenty lines with nothing of medexp's but the encoded cases."""
    import transformers
    from peft import LoraConfig, get_peft_model

    tokenizer = transformers.AutoTokenizer.from_pretrained(run.model.path)
    rows = encode_rows(run, tokenizer)
    transformers.set_seed(run.training.seed)
    base = transformers.AutoModelForCausalLM.from_pretrained(run.model.path, dtype=torch.float32)
    targets = name_targets(run.model.shape.family, run.lora.target_modules)
    asked = LoraConfig(
        r=run.lora.r, lora_alpha=run.lora.alpha, target_modules=targets, task_type="CAUSAL_LM"
    )
    network = get_peft_model(base, asked).train()
    trained = [each for each in network.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=run.training.learning_rate, weight_decay=0)
    labelled = sum(sum(label != -100 for label in row.labels[1:]) for row in rows)
    losses = []
    for _ in range(run.training.max_steps or 0):
        total = 0.0
        for row in rows:
            logits = network(input_ids=torch.tensor([row.input_ids])).logits[0, :-1]
            labels = torch.tensor(row.labels[1:])
            loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum") / labelled
            loss.backward()
            total += float(loss.detach())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
    return losses


def list_losses(runs: TinyRuns, *more: str) -> list[float]:
    result = runs.train(*more)
    return list(runs.history(result.run_id, "train/loss").values())


@pytest.mark.parametrize("family", Family)
def test_losses_are_those_of_plain_transformers_and_peft(
    runs_of: Callable[[Any], FamilyRuns], family: Family
) -> None:
    runs = runs_of(make_network(make_tiny_config(family)))
    run = runs.run()
    assert run.model.shape.family is family
    losses = list_losses(runs)
    assert losses == pytest.approx(train_plainly(run), rel=2e-5)
    assert losses[-1] < losses[0]


# Gemma's is trained in NF4 below.
def test_nf4_trains_on_a_cpu(runs_of: Callable[[Any], FamilyRuns]) -> None:
    runs = runs_of(make_network(make_tiny_config(Family.phi3)))
    plain, quantised = list_losses(runs), list_losses(runs, "model.quantisation=nf4")
    assert quantised[-1] < quantised[0]
    assert quantised == pytest.approx(plain, rel=0.02)
    assert quantised != plain


@pytest.mark.parametrize("quantisation", ["none", "nf4"])
def test_the_decoder_alone_of_a_model_that_sees_is_loaded_and_trained(
    runs_of: Callable[[Any], FamilyRuns], quantisation: str
) -> None:
    decoder = make_network(make_tiny_config(Family.gemma3_text))
    alone, seeing = runs_of(decoder), runs_of(make_seeing_network(decoder))
    how = f"model.quantisation={quantisation}"
    run = seeing.run(how)
    modules = backend.load_backend(run.hardware, machine.cache_dir())
    found = weights.find_weights(run.model)
    tuned = model_loading.load_model(run, found, load_tokenizer(found, modules), modules)
    assert type(tuned.network.get_base_model()).__name__ == "Gemma3ForCausalLM"
    assert not [name for name, _ in tuned.network.named_parameters() if "vision" in name]
    assert read_context_tokens(found, modules) == 4096
    assert list_losses(seeing, how) == list_losses(alone, how)


def test_an_answer_ends_where_the_base_ends_its_turns(
    runs_of: Callable[[Any], FamilyRuns],
) -> None:
    network = make_network(make_tiny_config(Family.phi3))
    network.generation_config.eos_token_id = [7, 2]
    runs = runs_of(network)
    run = runs.run()
    modules = backend.load_backend(run.hardware, machine.cache_dir())
    found = weights.find_weights(run.model)
    tuned = model_loading.load_model(run, found, load_tokenizer(found, modules), modules)
    assert tuned.end_ids == [2, 7]
