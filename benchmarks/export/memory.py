"""Host memory and time of merging an adapter into 16-bit weights: medexp.export beside PEFT's
merge_and_unload + save_pretrained.

    python benchmarks/export/memory.py FOLDER [--base CHECKPOINT --adapter ADAPTER]

Without a base, one of random weights in the shape of DeepSeek-R1-Distill-Qwen-1.5B (one file of 3.3
GiB) and an adapter of rank 16 are written to FOLDER first: memory and speed do not depend on the
values. Each side runs in a process of its own; its peak is Linux's VmHWM, pages of mapped files
included.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

SHAPE = {
    "vocab_size": 151936, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
    "num_attention_heads": 12, "num_key_value_heads": 2, "tie_word_embeddings": False,
}  # fmt: skip
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def make(folder: Path) -> None:
    """Write base/ and adapter/ to `folder`."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("meta"):
        network = Qwen2ForCausalLM(Qwen2Config(**SHAPE))
    network = network.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.uniform_(-0.03, 0.03)
    network.save_pretrained(folder / "base", max_shard_size="100GB")
    tuned = get_peft_model(
        network, LoraConfig(r=16, lora_alpha=16, target_modules=PROJECTIONS, task_type="CAUSAL_LM")
    )
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.uniform_(-0.01, 0.01)
    tuned.save_pretrained(folder / "adapter")


def by_medexp(base: Path, adapter: Path, out: Path) -> None:
    """What medexp.export to=merged does with weights."""
    from medexp.config.command_options import MergedDtype
    from medexp.exporters import merge
    from medexp.exporters.base_checkpoint import BaseCheckpoint
    from medexp.models import backend

    merge.write_merged(
        merge.MergedWeights(BaseCheckpoint(base, backend.load_bitsandbytes), adapter),
        out,
        MergedDtype.bfloat16,
        lambda _: None,
    )


def by_peft(base: Path, adapter: Path, out: Path) -> None:
    """The peer."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    PeftModel.from_pretrained(network, adapter).merge_and_unload().save_pretrained(out)


def measure_side(side: str, base: Path, adapter: Path, out: Path) -> dict[str, float]:
    """Seconds and peak GiB of one side in a fresh process."""
    out.mkdir(parents=True, exist_ok=True)
    words = [
        sys.executable,
        __file__,
        "--run",
        side,
        str(out),
        "--base",
        str(base),
        "--adapter",
        str(adapter),
    ]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def equal(ours: Path, theirs: Path) -> str:
    """How many tensors are the same to the bit."""
    import torch
    from safetensors import safe_open

    def places(folder: Path) -> dict[str, Path]:
        return {
            key: file
            for file in folder.glob("*.safetensors")
            for key in safe_open(file, "pt").keys()  # noqa: SIM118
        }

    left, right = places(ours), places(theirs)
    same = sum(
        torch.equal(
            safe_open(left[key], "pt").get_tensor(key), safe_open(right[key], "pt").get_tensor(key)
        )
        for key in left
    )
    return f"{same} of {len(right)} tensors are the same to the bit"


def main() -> None:
    """Both sides, one after the other, as rows of a table."""
    asked = argparse.ArgumentParser()
    asked.add_argument("folder", type=Path)
    asked.add_argument("--base", type=Path)
    asked.add_argument("--adapter", type=Path)
    asked.add_argument("--run", choices=("medexp", "peft"))
    given = asked.parse_args()
    if given.run:
        began = time.perf_counter()
        {"medexp": by_medexp, "peft": by_peft}[given.run](given.base, given.adapter, given.folder)
        peak = next(
            line
            for line in Path("/proc/self/status").read_text().splitlines()
            if line.startswith("VmHWM")
        )
        print(
            json.dumps(
                {
                    "seconds": round(time.perf_counter() - began, 1),
                    "peak_gib": round(int(peak.split()[1]) / 2**20, 2),
                }
            )
        )
        return
    base, adapter = given.base or given.folder / "base", given.adapter or given.folder / "adapter"
    if not base.is_dir():
        make(given.folder)
    largest = max(file.stat().st_size for file in base.glob("*.safetensors")) / 2**30
    print(
        f"largest file {largest:.2f} GiB; allowed 1.5 x that + 2 GB:"
        f" {1.5 * largest + 2e9 / 2**30:.2f} GiB"
    )
    for side in ("medexp", "peft"):
        print(side, measure_side(side, base, adapter, given.folder / side), flush=True)
    print(equal(given.folder / "medexp", given.folder / "peft"))


if __name__ == "__main__":
    main()
