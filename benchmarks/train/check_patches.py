"""On a CUDA card with Unsloth: medexp's patches tried on small layers as a training run tries them,
and three faults planted.

python benchmarks/train/check_patches.py --model /tmp/llama8b --out results/

Loads the model as medexp.train does, with streamed and kept layers and activations on the host;
says what each patch changes in the gradients and how long it took to see. Then the fault that other
versions of Unsloth could bring, a function of the same name that gives an adapter's scale in
another unit, a copy to the host that loses half of what it copies, and a hand-back that changes a
weight's scales: each must be found, and the model must load without the patch. Ends with 1 if one
is not.
Writes check_patches.json. Other overrides of medexp.train may follow, such as
model=deepseek_r1_distill_qwen_14b.
"""

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from functools import wraps
from importlib import metadata
from pathlib import Path
from typing import Any

from medexp.config.changes import change_values
from medexp.models.tokenizer import load_tokenizer

ALL_THREE = [  # patches that a plan for a laptop's card takes
    *(
        "hardware.offload_layers=12",
        "hardware.checkpoint_skip_layers=4",
        "hardware.offload_activations=true",
    ),
    *("training.micro_batch=1", "training.accumulation=2", "training.max_seq_tokens=1024"),
]


def halve_scales(read: Callable[[Any], tuple[Any, ...]]) -> Callable[[Any], tuple[Any, ...]]:
    """`read`, a projection's parameters with its adapter's scale in another unit."""

    @wraps(read)
    def other(projection: Any) -> tuple[Any, ...]:
        weight, state, a, b, scale, bias = read(projection)
        return weight, state, a, b, scale / 2, bias

    return other


def compose_config(model: str, overrides: list[str]) -> Any:
    """The run that `overrides` describe, with its plan applied."""
    from hydra import compose, initialize_config_dir

    from medexp.config.registration import register_with_hydra
    from medexp.config.resolve import resolve
    from medexp.config.shipped import find_conf_dir
    from medexp.planning import planner
    from medexp.system import machine

    register_with_hydra()
    words = ["hardware=rtx4050_6gb", f"model.path={model}", *ALL_THREE, *overrides]
    with initialize_config_dir(str(find_conf_dir()), version_base="1.3"):
        run = resolve(compose("train", words), machine.read(), Path.cwd(), {})
    run = planner.apply_plan(run, planner.choose_plan(run)[0])
    # The model is loaded several times in one process.
    return change_values(run, {"hardware.vram_ceiling_gib": None})


@contextmanager
def plant_fault(owner: Any, name: str, value: Any):
    """`owner` has `value` under `name`, and nothing is known yet of the patches."""
    from medexp.models.patches import gradient_check

    kept = getattr(owner, name)
    setattr(owner, name, value)
    gradient_check._found.clear()
    try:
        yield
    finally:
        setattr(owner, name, kept)
        gradient_check._found.clear()


def check_patches(stack: Any, load: Callable[[], Any], say: Callable[..., None]) -> dict[str, Any]:
    """What loading the model says, and for each patch what was seen and how long it took."""
    import torch

    from medexp.models.patches import gradient_check
    from medexp.models.patches.fused_mlp import list_decoder_layers

    seen: dict[str, Any] = {}
    difference, once = gradient_check.find_difference, gradient_check.find_difference_once

    def timed(patch: Any, recipe: Any) -> str | None:
        torch.cuda.synchronize()
        began = time.perf_counter()
        found = difference(patch, recipe)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
        return found

    def named(name: str, patch: Any, recipe: Any) -> str | None:
        found = once(name, patch, recipe)
        seen[name] = {"wrong": found, "seconds": round(sum(seconds), 3)}
        seconds.clear()
        say(f"  {name}: {found or 'gradients are the same'}, {seen[name]['seconds']} s")
        return found

    from medexp.models import layer_patches

    seconds: list[float] = []
    gradient_check.find_difference, layer_patches.find_difference_once = timed, named
    began = time.perf_counter()
    try:
        tuned = load()
        layers = list_decoder_layers(tuned.network)
        without = stack.unsloth.kernels.fast_lora.apply_lora_mlp_swiglu
        shortened = sum(
            getattr(layer.mlp.forward, "__func__", None) is not without for layer in layers
        )
        outcome = {
            "notes": tuned.notes,
            "layers": len(layers),
            "MLPs patched": shortened,
            "hands back": tuned.scratch is not None,
        }
        del tuned, layers
    except Exception as error:
        outcome = {
            "refused": f"{type(error).__name__}: {error}",
            "why": getattr(error, "why", None),
        }
    finally:
        gradient_check.find_difference, layer_patches.find_difference_once = difference, once
    gc.collect()
    torch.cuda.empty_cache()
    outcome |= {"load_s": round(time.perf_counter() - began, 1), "patches": seen}
    for key, value in outcome.items():
        if key != "patches":
            say(f"  {key}: {value}")
    return outcome


def main() -> int:
    """Load without a fault, then with each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", required=True, help="a checkpoint folder of the shape of the preset's model"
    )
    parser.add_argument("--out", type=Path, help="a folder for check_patches.json")
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()

    def say(*words: object) -> None:
        print(*words, file=sys.stderr, flush=True)

    run = compose_config(args.model, args.overrides)
    began = time.perf_counter()
    from medexp.models import backend
    from medexp.models import loading as model_loading
    from medexp.models.patches import activation_offloading, gradient_check
    from medexp.models.weights import Weights

    stack = backend.load_backend(run.hardware, Path("/tmp/check_patches_compiled"))
    say(
        f"stack imported in {time.perf_counter() - began:.1f} s, unsloth"
        f" {metadata.version('unsloth')}"
    )
    found = Weights(args.model, None)
    tokenizer = load_tokenizer(found, stack)

    def load() -> Any:
        return model_loading.load_model(run, found, tokenizer, stack)

    say("as installed")
    results = {"as installed": check_patches(stack, load, say)}
    say("as installed, once more in this process (nothing is tried again)")
    results["again"] = check_patches(stack, load, say)

    kernels = stack.unsloth.kernels.fast_lora
    say("planted: a projection's parameters come with half the adapter's scale")
    read = kernels.get_lora_parameters_bias
    with plant_fault(kernels, "get_lora_parameters_bias", halve_scales(read)):
        results["another scale"] = check_patches(stack, load, say)
    copy = activation_offloading._copy

    def loses_half(to: Any, source: Any) -> None:
        copy(to, source)
        to[: len(to) // 2].zero_()

    say("planted: a copy to or from the host loses half")
    with plant_fault(activation_offloading, "_copy", loses_half):
        results["half a copy"] = check_patches(stack, load, say)
    release_scratch = gradient_check.release_scratch

    def spoils(network: Any, kernels: Any) -> int:
        for weight in network.parameters():
            if (state := getattr(weight, "quant_state", None)) is not None:
                state.absmax.zero_()
        return release_scratch(network, kernels)

    say("planted: what hands scratch memory back changes the scales of the weights")
    with plant_fault(gradient_check, "release_scratch", spoils):
        results["other scales"] = check_patches(stack, load, say)

    verdicts = {
        "no patch changes a gradient": all(
            patch["wrong"] is None for patch in results["as installed"]["patches"].values()
        ),
        "all three were tried": len(results["as installed"]["patches"]) == 3,
        "recomputed layers are shortened": results["as installed"].get("MLPs patched", 0) > 0,
        "another scale is found and left off": results["another scale"].get("MLPs patched") == 0,
        "half a copy is found and refused": (
            "gradients would be wrong" in str(results["half a copy"].get("why"))
        ),
        "other scales are found and left off": results["other scales"].get("hands back") is False,
        "tried in under 5 s": (
            sum(patch["seconds"] for patch in results["as installed"]["patches"].values()) < 5
        ),
    }
    for name, holds in verdicts.items():
        print(f"{'yes' if holds else 'NO '}  {name}")
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "check_patches.json").write_text(
            json.dumps({"verdicts": verdicts, "runs": results}, indent=1) + "\n"
        )
    return 0 if all(verdicts.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
