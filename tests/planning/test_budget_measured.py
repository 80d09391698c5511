"""The budget against the tensors themselves: the embedded model with its adapter, loaded and
trained for a step on a CPU.
"""

from pathlib import Path

import pytest
import torch

from medexp.data.encoding import EncodedCase
from medexp.models import backend, weights
from medexp.models import loading as model_loading
from medexp.planning.budget import compute_budget
from medexp.planning.memory_terms import Levers, Phase
from medexp.system import machine
from medexp.training import trainer


@pytest.fixture(scope="module")
def loaded(resolved, no_card, embedded_tokenizer):
    """loaded(*overrides): the run, the model of it, and the predicted bytes by term."""

    def made(*overrides: str):
        run = resolved(
            "hardware=cpu",
            "training.micro_batch=1",
            "training.accumulation=1",
            *overrides,
            on=no_card,
        )
        modules = backend.load_backend(run.hardware, machine.cache_dir())
        tuned = model_loading.load_model(
            run, weights.find_weights(run.model), embedded_tokenizer, modules
        )
        terms = compute_budget(run, Levers(1, 1)).terms
        return (
            run,
            tuned,
            {term.name: term.num_bytes for term in terms if term.phase is Phase.always},
        )

    return made


def size(tensors) -> int:
    return sum(each.numel() * each.element_size() for each in tensors)


def parameters(tuned, *parts: str):
    return [
        value
        for name, value in tuned.network.named_parameters()
        if any(part in name for part in parts)
    ]


@pytest.mark.parametrize(
    "adapter", [["lora.r=16"], ["lora=attention_only", "lora.r=5"], ["lora.r=8", "lora.dora=true"]]
)
def test_weights_and_adapter_take_what_was_planned_to_the_byte(loaded, adapter):
    _, tuned, planned = loaded(*adapter)
    adapted = parameters(tuned, "lora_")
    assert size(adapted) == planned["LoRA parameters"]
    assert sum(each.numel() for each in adapted) == tuned.trainable
    assert size(parameters(tuned, "embed_tokens")) == planned["embedding"]
    assert size(parameters(tuned, ".layers.")) - size(adapted) == planned["layer weights"]
    assert size(parameters(tuned, "model.norm")) == planned["final and float32 norms"]
    assert size(tuned.network.parameters()) + planned["optimizer state"] == sum(planned.values())


def test_the_optimizer_s_moments_take_what_was_planned_to_the_byte(loaded, tmp_path: Path):
    run, tuned, planned = loaded("lora.r=16", "training.max_steps=1", "training.warmup_steps=0")
    trainer.fit(
        tuned, [EncodedCase([1, 5, 6, 7, 2], [-100, 5, 6, 7, 2], 1)], run, tmp_path, None, []
    )
    (kept,) = tmp_path.glob("checkpoint-1/optimizer.pt")
    state = torch.load(kept, weights_only=True)["state"].values()
    assert (
        size(moment[name] for moment in state for name in ("exp_avg", "exp_avg_sq"))
        == planned["optimizer state"]
    )
    assert {name for moment in state for name in moment} == {"exp_avg", "exp_avg_sq", "step"}


def test_nf4_weights_take_what_was_planned_to_a_thousandth(loaded):
    _, tuned, planned = loaded("model.quantisation=nf4")
    packed = [
        each
        for each in tuned.network.parameters()
        if getattr(each, "quant_state", None) is not None
    ]
    assert len(packed) == 7 * 30
    states = [each.quant_state for each in packed]
    scales = [
        tensor
        for each in states
        for tensor in (each.absmax, each.code, each.offset, each.state2.absmax, each.state2.code)
    ]
    taken = size(tuned.network.parameters()) + size(scales)
    assert sum(planned.values()) - planned["optimizer state"] == pytest.approx(taken, rel=1e-3)
    assert size(parameters(tuned, "embed_tokens")) == planned["embedding"]
