"""Plans by hand in bare Unsloth loops on a CUDA card: what one lever brings, everything else alike.

    # activations on the host
    python benchmarks/train/by_hand.py --model /tmp/llama8b --out results/ --only A C D G K L M N \
        O
    # the last product left out
    python benchmarks/train/by_hand.py --model /tmp/llama8b --out results/ --only A P Q R

Every variant is a process; all warm up together, then each is timed alone. `slow` ones sleep 13 ms
(at 1.98 GHz) a layer, pass and 4,096 tokens on the card: a layer then takes as long, against the
link, as on a laptop's card. Writes results.json and a log each.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
WARM_STEPS, TIMED_STEPS, SEQ, CASES = 3, 4, 2048, 8
CAP_BYTES = int(5.25 * 2**30)
SLEEP_CYCLES = 26_000_000  # a layer and pass of 4,096 tokens
SETTINGS = {  # as medexp sets them
    "UNSLOTH_FUSED_LINEAR_FLASH_MIN_ROWS": "0",
    "UNSLOTH_FUSED_LINEAR_BWD_TILE_MB": "64",
    "UNSLOTH_DISABLE_STATISTICS": "1",
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",
}


@dataclass(frozen=True)
class Variant:
    """A plan: cases a micro-batch of 8 a step, streamed and kept layers, where what these save is,
    and the card's pace; `shortened` layers leave out the last product when they are recomputed;
    `capped` is the ceiling of the others' plans."""

    name: str
    batch: int
    streamed: int | str
    kept: int = 0
    on_host: bool = False
    slow: bool = False
    shortened: bool = False
    embedding: bool = True
    capped: bool = False


VARIANTS = (
    Variant("A: 4 x 2, 24 streamed", 4, 24),
    Variant("C: 2 x 4, 17 streamed, 15 kept on the host", 2, 17, 15, on_host=True),
    Variant("D: 2 x 4, 21 streamed, 6 kept on the host", 2, 21, 6, on_host=True),
    Variant("G: 4 x 2, 20 streamed, 12 kept on the host", 4, 20, 12, on_host=True),
    Variant("K: slow, 4 x 2, 24 streamed", 4, 24, slow=True),
    Variant("L: slow, 2 x 4, 17 streamed", 2, 17, slow=True),
    Variant("M: slow, 2 x 4, 17 streamed, 15 kept on the host", 2, 17, 15, on_host=True, slow=True),
    Variant("N: slow, 1 x 8, 10 streamed, 22 kept on the host", 1, 10, 22, on_host=True, slow=True),
    Variant("O: slow, 2 x 4, 17 streamed, 15 kept on the card", 2, 17, 15, slow=True),
    Variant("P: 4 x 2, 24 streamed, last product left out", 4, 24, shortened=True),
    Variant("Q: 2 x 4, offload_layers=auto", 2, "auto", embedding=False, capped=True),
    Variant("R: 2 x 4, none streamed, the seed's script", 2, 0, embedding=False),
)


def load_variant(model_path: str, variant: Variant):
    """The model with a fresh adapter, its levers as `variant` has them, and its tokenizer."""
    import unsloth  # before trl and transformers
    from unsloth import FastLanguageModel

    from medexp.models.layer_patches import is_kept, list_kept_layers
    from medexp.models.patches.activation_offloading import HostBuffers, offload_activations
    from medexp.models.patches.fused_mlp import patch_fused_mlps

    levers = {"offload_layers": variant.streamed} if variant.streamed else {}
    levers |= {"offload_embedding": True} if variant.embedding else {}
    model, tokenizer = FastLanguageModel.from_pretrained(
        model_name=model_path, max_seq_length=SEQ, dtype=None, load_in_4bit=True, **levers
    )
    model = FastLanguageModel.get_peft_model(
        model, r=16, target_modules=TARGETS, lora_alpha=16, lora_dropout=0, bias="none",
        use_gradient_checkpointing="unsloth", random_state=3407,
        checkpoint_skip_layers=variant.kept,
    )  # fmt: skip
    if variant.on_host:
        offload_activations(
            model, list_kept_layers(model, variant.kept), HostBuffers(0, pinned=True)
        )
    if variant.shortened:
        left_out = patch_fused_mlps(model, unsloth.kernels.fast_lora, is_kept, pieces=4)
        assert left_out == model.config.num_hidden_layers - variant.kept, left_out
    if variant.slow:
        slow_down(model)
    return model, tokenizer


def slow_down(model) -> None:
    """Let every layer's forward and backward pass sleep on the card, the recomputed one too."""
    import torch
    from unsloth_zoo.block_swap import find_decoder_layers

    def sleep(cases: int, tokens: int) -> None:
        torch.cuda._sleep(SLEEP_CYCLES * cases * tokens // 4096)

    class Slow(torch.autograd.Function):
        @staticmethod
        def forward(ctx, hidden):
            ctx.size = hidden.shape[:2]
            sleep(*ctx.size)
            return hidden.view_as(hidden)

        @staticmethod
        def backward(ctx, gradient):
            sleep(*ctx.size)
            return gradient

    for layer in find_decoder_layers(model):
        forward = layer.forward
        layer.forward = lambda hidden, *args, _forward=forward, **kwargs: _forward(
            Slow.apply(hidden), *args, **kwargs
        )


def train(model_path: str, variant: Variant, folder: Path) -> dict:
    """Steps of `variant`: its seconds, peak, losses and gradient norms. The timed ones begin when
    `folder`/go is there.
    """
    import torch

    if variant.capped:
        torch.cuda.set_per_process_memory_fraction(
            CAP_BYTES / torch.cuda.get_device_properties(0).total_memory
        )
    model, tokenizer = load_variant(model_path, variant)

    from datasets import Dataset
    from transformers import TrainerCallback, default_data_collator
    from trl import SFTConfig, SFTTrainer

    steps = WARM_STEPS + TIMED_STEPS
    rows = torch.randint(
        10, 250, (CASES * steps, SEQ), generator=torch.Generator().manual_seed(0)
    ).tolist()
    data = Dataset.from_list(
        [{"input_ids": row, "labels": row, "attention_mask": [1] * SEQ} for row in rows]
    )
    seconds: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *given, **_):
            torch.cuda.synchronize()
            if given[1].global_step == WARM_STEPS:
                (folder / "ready").touch()
                while not (folder / "go").exists():
                    time.sleep(0.1)
            self.began = time.perf_counter()

        def on_step_end(self, *_, **__):
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - self.began)

    config = SFTConfig(
        per_device_train_batch_size=variant.batch,
        gradient_accumulation_steps=CASES // variant.batch, warmup_steps=5, max_steps=steps,
        learning_rate=2e-4, bf16=True, logging_steps=1, optim="adamw_8bit", weight_decay=0.01,
        lr_scheduler_type="linear", seed=3407, output_dir=str(folder), report_to="none",
        save_strategy="no", packing=False, max_length=SEQ,
        dataset_kwargs={"skip_prepare_dataset": True}, train_sampling_strategy="sequential",
        remove_unused_columns=False,
    )  # fmt: skip
    trainer = SFTTrainer(
        model=model, processing_class=tokenizer, train_dataset=data, args=config,
        data_collator=default_data_collator, callbacks=[Clock()],
    )  # fmt: skip
    trainer.train()
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    return asdict(variant) | {
        "tokens_per_s": CASES * SEQ / statistics.median(seconds[WARM_STEPS:]),
        "peak_reserved_gib": torch.cuda.max_memory_reserved() / 2**30,
        "loss": [entry["loss"] for entry in history],
        "grad_norm": [entry["grad_norm"] for entry in history],
    }


def main() -> None:
    """Start a process a variant, let all warm up, time one after the other."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", help="letters of variants; all if not given")
    parser.add_argument("--worker")
    args = parser.parse_args()
    chosen = [variant for variant in VARIANTS if not args.only or variant.name[0] in args.only]
    if args.worker:
        variant = next(variant for variant in VARIANTS if variant.name[0] == args.worker)
        print("RESULT", json.dumps(train(args.model, variant, args.out / args.worker)), flush=True)
        return
    results = []
    for variant, process, log in [(item, *start_variant(item, args)) for item in chosen]:
        folder = args.out / variant.name[0]
        while process.poll() is None and not all(
            (args.out / item.name[0] / "ready").exists() for item in chosen
        ):
            time.sleep(0.5)
        (folder / "go").touch()
        process.wait()
        lines = [line for line in log.read_text().splitlines() if line.startswith("RESULT ")]
        results += (
            [json.loads(lines[-1].removeprefix("RESULT "))]
            if lines
            else [{"name": variant.name, "error": str(log)}]
        )
        print(
            {
                key: results[-1].get(key)
                for key in ("name", "tokens_per_s", "peak_reserved_gib", "error")
            },
            flush=True,
        )
        (args.out / "results.json").write_text(json.dumps(results, indent=1))


def start_variant(variant: Variant, args: argparse.Namespace) -> tuple[subprocess.Popen, Path]:
    """The process of `variant`, and where it logs."""
    letter = variant.name[0]
    folder = args.out / letter
    folder.mkdir(parents=True, exist_ok=True)
    for mark in ("ready", "go"):
        (folder / mark).unlink(missing_ok=True)
    paths = filter(None, [str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    env = (
        os.environ
        | SETTINGS
        | {
            "PYTHONPATH": os.pathsep.join(paths),
            "UNSLOTH_COMPILE_LOCATION": str(folder / "compiled"),
        }
    )
    command = [
        sys.executable,
        __file__,
        "--model",
        args.model,
        "--out",
        str(args.out),
        "--worker",
        letter,
    ]
    log = args.out / f"{letter}.log"
    with log.open("w") as output:
        return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=env), log


if __name__ == "__main__":
    main()
