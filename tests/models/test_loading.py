"""Which parameters train, in which precision, and what a loaded model is checked against."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bitsandbytes
import pytest
import torch
from helpers.commands import TinyRuns

from medexp.data.encoding import IGNORED, EncodedCase
from medexp.errors import ModelError
from medexp.evaluation.losses import measure_mean_loss
from medexp.models import backend, weights
from medexp.models import loading as model_loading
from medexp.models.adapter_model import AdapterModel
from medexp.models.tokenizer import load_tokenizer
from medexp.system import machine, private_names

ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
ALL = ATTENTION | {"gate_proj", "up_proj", "down_proj"}
SIZES = {"q_proj": (64, 64), "k_proj": (64, 32), "v_proj": (64, 32), "o_proj": (64, 64)}
SIZES |= {"gate_proj": (64, 128), "up_proj": (64, 128), "down_proj": (128, 64)}


@pytest.fixture
def biased(
    tmp_path: Path, embedded_tokenizer: Any, tiny_runs_in: Callable[..., TinyRuns]
) -> TinyRuns:
    """Runs of a random Qwen2, whose projections of the attention have biases."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=49152,
            num_key_value_heads=2,
            tie_word_embeddings=True,
            bos_token_id=1,
            eos_token_id=2,
            **sizes,
        )
    ).save_pretrained(tmp_path / "qwen2")
    embedded_tokenizer.save_pretrained(tmp_path / "qwen2")
    (tmp_path / "runs").mkdir()
    return tiny_runs_in(tmp_path / "runs", tmp_path / "qwen2")


def loaded(tiny_runs: TinyRuns, *overrides: str) -> AdapterModel:
    run = tiny_runs.run(*overrides)
    modules = backend.load_backend(run.hardware, machine.cache_dir())
    found = weights.find_weights(run.model)
    return model_loading.load_model(run, found, load_tokenizer(found, modules), modules)


@pytest.mark.parametrize(
    ("option", "modules"), [("all_linear", ALL), ("attention_only", ATTENTION)]
)
def test_exactly_the_adapter_trains(tiny_runs: TinyRuns, option: str, modules: set[str]) -> None:
    tuned = loaded(tiny_runs, f"lora={option}", "lora.r=4")
    trained = {
        name for name, parameter in tuned.network.named_parameters() if parameter.requires_grad
    }
    kinds = {(name.split(".")[-4], name.split(".")[-3]) for name in trained}
    assert kinds == {(module, side) for module in modules for side in ("lora_A", "lora_B")}
    assert len(trained) == 2 * 2 * len(modules)
    assert tuned.trainable == 2 * sum(4 * sum(SIZES[module]) for module in modules)


def test_the_adapter_is_float32_on_a_bfloat16_base(tiny_runs: TinyRuns) -> None:
    tuned = loaded(tiny_runs, "hardware.dtype=bfloat16")
    assert {
        parameter.dtype for parameter in tuned.network.parameters() if parameter.requires_grad
    } == {torch.float32}
    assert {
        parameter.dtype for parameter in tuned.network.parameters() if not parameter.requires_grad
    } == {torch.bfloat16}


def test_rank_stabilised_scales_by_the_root_of_the_rank(tiny_runs: TinyRuns) -> None:
    scales = {}
    for switch in ("true", "false"):
        tuned = loaded(tiny_runs, "lora.r=4", "lora.alpha=8", f"lora.rank_stabilised={switch}")
        scales[switch] = tuned.network.base_model.model.model.layers[0].mlp.up_proj.scaling[
            "default"
        ]
    assert scales == {"true": 4.0, "false": 2.0}


def test_dora_adds_a_magnitude_an_output(tiny_runs: TinyRuns) -> None:
    plain, dora = loaded(tiny_runs), loaded(tiny_runs, "lora.dora=true")
    assert dora.trainable - plain.trainable == 2 * sum(out for _, out in SIZES.values())


@pytest.mark.parametrize("engine_weights", ["none", "nf4"])
def test_measuring_before_training_changes_no_gradient(
    tiny_runs: TinyRuns, engine_weights: str
) -> None:
    measured = tiny_runs.train(f"model.quantisation={engine_weights}", "training.resume=never")
    silent = tiny_runs.train(
        f"model.quantisation={engine_weights}",
        "evaluation.answers=0",
        "evaluation.batch_size=1",
        "training.resume=never",
    )
    assert tiny_runs.history(measured.run_id, "train/loss") == tiny_runs.history(
        silent.run_id, "train/loss"
    )


def test_nf4_on_a_cpu_learns(tiny_runs: TinyRuns) -> None:
    result = tiny_runs.train(
        "model.quantisation=nf4", "training.learning_rate=1e-2", "training.max_steps=8"
    )
    assert result.outcome.loss_after < result.outcome.loss_before - 0.05


def test_weights_of_another_shape_are_refused(tiny_runs: TinyRuns) -> None:
    with pytest.raises(ModelError, match="layers is 2 there and 3 here") as refused:
        tiny_runs.train("model.shape.layers=3")
    assert "vocab" not in str(refused.value)


def test_the_held_out_loss_is_the_mean_over_labelled_tokens_whatever_the_batch(
    tiny_runs: TinyRuns,
) -> None:
    tuned = loaded(tiny_runs, "hardware.dtype=float32")
    cases = [
        EncodedCase(list(range(10, 10 + length)), [IGNORED] * 3 + list(range(13, 10 + length)), 3)
        for length in (8, 20, 600)
    ]
    losses = [measure_mean_loss(tuned, cases, batch_size) for batch_size in (1, 2, 3)]
    total, tokens = 0.0, 0
    for case in cases:
        with torch.no_grad():
            logits = tuned.network(torch.tensor([case.input_ids])).logits[0, :-1].float()
        targets = torch.tensor(case.labels[1:])
        kept = targets != IGNORED
        total += torch.nn.functional.cross_entropy(
            logits[kept], targets[kept], reduction="sum"
        ).item()
        tokens += int(kept.sum())
    assert losses == pytest.approx([total / tokens] * 3, rel=1e-5)


def test_measuring_leaves_the_model_as_it_was(tiny_runs: TinyRuns) -> None:
    tuned = loaded(tiny_runs)
    tuned.network.train()
    measure_mean_loss(tuned, [EncodedCase([5, 6, 7], [IGNORED, 6, 7], 1)], 1)
    assert tuned.network.training
    with tuned.adapter_disabled():
        pass
    assert any(parameter.requires_grad for parameter in tuned.network.parameters())


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_biases_that_are_trained_are_no_part_of_the_base(biased: TinyRuns, bias: str) -> None:
    words = (
        "model.shape.family=qwen2",
        f"lora.bias={bias}",
        "evaluation.reuse_base=false",
        "training.resume=never",
    )
    cases = [EncodedCase([5, 6, 7, 8], [IGNORED, 6, 7, 8], 1)]
    tuned = loaded(biased, *words)
    assert sum(name.endswith("_proj.base_layer.bias") for name in tuned.base_biases) == 6
    base = measure_mean_loss(tuned, cases, 1)
    with torch.no_grad():
        for parameter in tuned.network.parameters():
            parameter.add_(parameter.requires_grad)
    changed = measure_mean_loss(tuned, cases, 1)
    with tuned.adapter_disabled():
        assert measure_mean_loss(tuned, cases, 1) == base != changed
    assert measure_mean_loss(tuned, cases, 1) == changed
    first = biased.train(
        *words, "training.learning_rate=1e-1", "evaluation.answers=0", name="first"
    )
    further = biased.train(
        *words,
        f"lora.start_from={first.adapter}",
        "training.learning_rate=1e-12",
        "evaluation.answers=0",
        name="further",
    )
    assert further.outcome.loss_before == first.outcome.loss_before != first.outcome.loss_after
    assert further.outcome.loss_after == pytest.approx(first.outcome.loss_after, abs=1e-3)


def test_an_adapter_of_other_tensors_is_refused(tiny_runs: TinyRuns) -> None:
    from safetensors.torch import load_file, save_file

    first = tiny_runs.train("evaluation.answers=0", name="first")
    file = first.adapter / "adapter_model.safetensors"
    whole = load_file(file)
    one = min(whole)
    save_file({name: each for name, each in whole.items() if name != one}, file)
    with pytest.raises(
        ModelError,
        match=rf"other tensors than this run's \({one} is missing there, of 1 that do not match\)",
    ):
        loaded(tiny_runs, f"lora.start_from={first.adapter}")
    save_file(whole | {"base_model.model.lm_head.lora_A.weight": whole[one].clone()}, file)
    with pytest.raises(ModelError, match=r"lm_head\.lora_A.weight is not in this one"):
        loaded(tiny_runs, f"lora.start_from={first.adapter}")


def test_a_tokenizer_without_an_end_is_refused(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    run = tiny_runs.run()
    modules = backend.load_backend(run.hardware, machine.cache_dir())
    tokenizer = modules.transformers.AutoTokenizer.from_pretrained(tiny_runs.model)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path / "endless")
    with pytest.raises(ModelError, match="no EOS token"):
        load_tokenizer(weights.Weights(str(tmp_path / "endless"), None), modules)


def test_the_switch_that_keeps_nf4_weights_as_they_are_is_there_and_off(
    tiny_runs: TinyRuns,
) -> None:
    layer = bitsandbytes.nn.Linear4bit(64, 64)
    assert hasattr(layer, private_names.REPACKS.last)
    tuned = loaded(tiny_runs, "model.quantisation=nf4")
    switches = [
        getattr(each, private_names.REPACKS.last)
        for each in tuned.network.modules()
        if isinstance(each, bitsandbytes.nn.Linear4bit)
    ]
    assert switches
    assert not any(switches)


def test_a_switch_of_another_name_is_refused() -> None:
    with pytest.raises(
        ModelError, match=r"bitsandbytes .* has no .*; install bitsandbytes==0\.50\.2"
    ):
        model_loading.keep_cpu_weights_unpacked(torch.nn.Linear(2, 2))


def test_streaming_by_another_name_is_refused() -> None:
    network = torch.nn.Linear(2, 2)
    with pytest.raises(ModelError, match="layers cannot be streamed"):
        model_loading.find_streamer(network)
    swapper = SimpleNamespace()
    setattr(network, private_names.STREAMER.last, swapper)
    with pytest.raises(ModelError, match="layers cannot be streamed"):
        model_loading.find_streamer(network)
    swapper.reset = lambda: None
    assert model_loading.find_streamer(network) is swapper
