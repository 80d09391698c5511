"""An MLP in pieces on a CUDA card: what a step takes and how long, its gradients beside Unsloth's,
and the kernel that reads parts of an NF4 weight beside bitsandbytes'.

python benchmarks/train/mlp_pieces.py --model /tmp/llama8b --out results/

One process, the 8B shape, no layer streamed, compiled layers of Unsloth with its own MLP (0 pieces)
and with medexp's; every step is one micro-batch, forward and backward. "Over base" is the peak of
tensors over what lies there between steps (weights, adapter, its gradients, Unsloth's two buffers
of hidden states). Unsloth's own gradients differ between two equal steps; with other rounding in a
forward pass random weights make more of it than real ones (mlp_pieces_rounding.py). Six minutes on
an H200. Writes mlp_pieces.json.
"""

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rows import compose_run

from medexp.config.changes import change_values
from medexp.models import backend, layer_patches, loading, memory_guard
from medexp.models.patches import fused_mlp
from medexp.models.patches.nf4_weights import dequantise
from medexp.models.tokenizer import load_tokenizer
from medexp.models.weights import Weights
from medexp.planning.pieces import Piece
from medexp.system import private_names
from medexp.system.units import MIB

WORDS = (
    "hardware=rtx4090_24gb",
    "model=deepseek_r1_distill_llama_8b",
    "hardware.checkpoint_skip_layers=2",
    "hardware.offload_layers=0",
    "hardware.offload_embedding=false",
    "hardware.offload_activations=false",
    "hardware.compile_layers=auto",
    "hardware.tile_mlp=false",
    "hardware.page_optimizer=false",
    # Unsloth's own MLP, until a step puts medexp's in its place
    "hardware.recompute_last_product=true",
    "training.micro_batch=1",
    "training.max_seq_tokens=32768",
)
SHAPES = ((1, 2048), (4, 2048), (1, 21440))
PIECES = (0, 1, 2, 4, 8)
PARTS = (
    (None, None),
    (Piece(3584, 7168), None),
    (None, Piece(1024, 2048)),
    (Piece(128, 256), Piece(64, 192)),
)


class Bench:
    """A loaded model whose MLPs can be changed."""

    def __init__(self, model: str):
        run = change_values(compose_run([*WORDS]), {"hardware.vram_ceiling_gib": None})
        memory_guard.cap_allocator(run.hardware)
        stack = backend.load_backend(run.hardware, Path("/tmp/compiled-mlp-pieces"))
        weights = Weights(model, None)
        tuned = loading.load_model(run, weights, load_tokenizer(weights, stack), stack)
        self.network = tuned.network.train()
        self.kernels = stack.unsloth.kernels
        self.layers = fused_mlp.list_decoder_layers(self.network)
        self._forwards = [layer.mlp.forward for layer in self.layers]
        torch.manual_seed(1)
        for name, parameter in self.network.named_parameters():
            if parameter.requires_grad and "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.02)

    def change(self, pieces: int) -> None:
        """From now on MLPs are computed in so many pieces, or by Unsloth."""
        torch._dynamo.reset()
        self.network.zero_grad(set_to_none=True)
        for layer, forward in zip(self.layers, self._forwards, strict=True):
            layer.mlp.forward = forward
        if pieces:
            fused_mlp.patch_fused_mlps(
                self.network, self.kernels.fast_lora, layer_patches.is_kept, pieces
            )

    def step(self, cases: int, tokens: int, seed: int = 0) -> float:
        """Forward and backward; the loss."""
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(10, 250, (cases, tokens), generator=generator).cuda()
        with torch.autocast("cuda", torch.bfloat16):
            loss = self.network(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        return float(loss)

    def gradients(self, pieces: int, tokens: int) -> dict[str, torch.Tensor]:
        """The gradients of one step."""
        self.change(pieces)
        self.step(1, tokens)
        return {
            name: parameter.grad.float().clone()
            for name, parameter in self.network.named_parameters()
            if parameter.grad is not None
        }

    def measure(self, cases: int, tokens: int) -> dict[str, float]:
        """Bytes and seconds of the best of three steps, after one."""
        self.network.zero_grad(set_to_none=True)
        loss = self.step(cases, tokens)
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        base = torch.cuda.memory_allocated()
        best = min(clock(lambda seed=seed: self.step(cases, tokens, seed)) for seed in range(3))
        return {
            "cases": cases,
            "tokens": tokens,
            "loss": loss,
            "tokens_per_s": cases * tokens / best,
            "over_base_mib": (torch.cuda.max_memory_allocated() - base) / MIB,
        }


def clock(work: Callable[[], Any]) -> float:
    """The seconds of it."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> dict[str, float]:
    """How far the second gradients are from the first: mean and largest of the tensors."""
    found = [float((one[name] - other[name]).norm() / one[name].norm()) for name in one]
    return {"mean": sum(found) / len(found), "largest": max(found)}


def check_kernel(bench: Bench) -> dict[str, Any]:
    """Is every part bitsandbytes' to the bit, and how long does a whole weight take?"""
    from bitsandbytes.functional import dequantize_4bit

    weight = bench.layers[0].mlp.up_proj.base_layer.weight
    state = weight.quant_state
    dense = dequantize_4bit(weight, state)

    def is_same(rows: Piece | None, columns: Piece | None) -> bool:
        part = dense[rows.part if rows else slice(None), columns.part if columns else slice(None)]
        return torch.equal(dequantise(weight, state, rows, columns, torch.bfloat16), part)

    def microseconds(work: Callable[[], Any]) -> float:
        for _ in range(5):
            work()
        return clock(lambda: [work() for _ in range(50)]) / 50 * 1e6

    return {
        "same": [is_same(*part) for part in PARTS],
        "medexp_us": microseconds(lambda: dequantise(weight, state, None, None, torch.bfloat16)),
        "unsloth_us": microseconds(
            lambda: bench.kernels.utils.fast_dequantize(weight, state, use_global_buffer=True)
        ),
        "bitsandbytes_us": microseconds(lambda: dequantize_4bit(weight, state)),
    }


def main() -> None:
    """Measure all and write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(args.model)
    results: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "steps": [], "gradients": {}}

    def keep(**found: Any) -> None:
        results.update(found)
        (args.out / "mlp_pieces.json").write_text(json.dumps(results, indent=1))
        print(json.dumps(found), file=sys.stderr, flush=True)

    keep(kernel=check_kernel(bench))
    unsloth = bench.gradients(0, 1024)
    keep(unsloth_twice=apart(unsloth, bench.gradients(0, 1024)))
    keep(two_layers_kept=apart(unsloth, bench.gradients(4, 1024)))
    for layer in bench.layers:
        layer.__dict__[private_names.KEPT_MARK.last] = False
    unsloth = bench.gradients(0, 2048)
    for pieces in PIECES:
        if pieces:
            results["gradients"][pieces] = apart(unsloth, bench.gradients(pieces, 2048))
        bench.change(pieces)
        for shape in SHAPES:
            results["steps"].append({"pieces": pieces} | bench.measure(*shape))
            keep(last=results["steps"][-1])


if __name__ == "__main__":
    main()
