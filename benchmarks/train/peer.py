"""The peer: the seed project's notebook as a script, raw Unsloth, on the rows of a file. Prints one
RESULT line of JSON.

    # as the seed has it
    python benchmarks/train/peer.py --model /tmp/llama8b --rows /tmp/rows.json --steps 6
    # Unsloth's own plan
    python benchmarks/train/peer.py --model /tmp/llama8b --rows /tmp/rows.json --cap 5.25 --layers \
        auto
"""

import argparse
import json
import statistics
import time
import traceback
from pathlib import Path

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--seq", type=int, default=2048)
    parser.add_argument("--cap", type=float, default=0.0, help="allocator cap in GiB; 0: none")
    parser.add_argument("--layers", default=None, help="offload_layers: a number or auto")
    parser.add_argument("--embedding", action="store_true", help="offload_embedding=True")
    parser.add_argument("--keep", type=int, default=0, help="checkpoint_skip_layers")
    parser.add_argument(
        "--shorten",
        action="store_true",
        help="leave out the last product of recomputed layers, as medexp does",
    )
    parser.add_argument("--batch", type=int, default=2, help="cases a micro-batch, of 8 a step")
    parser.add_argument(
        "--warm", type=int, default=1, help="steps that are not timed, one at least"
    )
    parser.add_argument(
        "--ragged",
        action="store_true",
        help="cases of unlike length: put together as Unsloth does it by itself",
    )
    return parser.parse_args()


def load_model(args: argparse.Namespace):
    """Return the model with a fresh adapter, its levers as the command line says; its tokenizer."""
    import unsloth  # before trl and transformers
    from unsloth import FastLanguageModel

    levers = (
        {}
        if args.layers is None
        else {"offload_layers": args.layers if args.layers == "auto" else int(args.layers)}
    )
    levers |= {"offload_embedding": True} if args.embedding else {}
    model, tokenizer = FastLanguageModel.from_pretrained(
        model_name=args.model, max_seq_length=args.seq, dtype=None, load_in_4bit=True, **levers
    )
    model = FastLanguageModel.get_peft_model(
        model, r=16, target_modules=TARGETS, lora_alpha=16, lora_dropout=0, bias="none",
        use_gradient_checkpointing="unsloth", random_state=3407, checkpoint_skip_layers=args.keep,
    )  # fmt: skip
    if args.shorten:
        from medexp.models.layer_patches import is_kept
        from medexp.models.patches.fused_mlp import patch_fused_mlps

        patch_fused_mlps(model, unsloth.kernels.fast_lora, is_kept, pieces=4)
    return model, tokenizer


def step_clock(result: dict):
    """A Trainer callback that puts the seconds of every step, and the time it was logged at, into
    `result`.
    """
    import torch
    from transformers import TrainerCallback

    class StepClock(TrainerCallback):
        def on_step_begin(self, *_, **__):
            torch.cuda.synchronize()
            self.started = time.perf_counter()

        def on_step_end(self, *_, **__):
            torch.cuda.synchronize()
            result.setdefault("step_s", []).append(time.perf_counter() - self.started)

        def on_log(self, *_, logs, **__):
            if "loss" in logs:
                result.setdefault("logged_s", []).append(time.time())

    return StepClock()


def loop_speed(tokens: list[float], logged_s: list[float], warm: int) -> float:
    """Tokens/s from the last of `warm` steps to the end, what lies between steps included;
    `logged_s` is when each was logged.
    """
    return sum(tokens[warm:]) / (logged_s[-1] - logged_s[warm - 1])


def train(args: argparse.Namespace, result: dict) -> None:
    """Load, train, and put losses, seconds a step and tokens/s into `result`."""
    model, tokenizer = load_model(args)

    from datasets import Dataset
    from transformers import default_data_collator
    from trl import SFTConfig, SFTTrainer

    rows = json.loads(args.rows.read_text())
    lengths = [len(row["input_ids"]) for row in rows]
    # text, loss on every token, no collator, as the seed has it: rows of tokens turn padding-free
    # batches off
    if args.ragged:
        columns, given, collated = (
            [{"text": tokenizer.decode(row["input_ids"])} for row in rows],
            {},
            {},
        )
    else:
        columns = [
            row | {"attention_mask": [1] * length}
            for row, length in zip(rows, lengths, strict=True)
        ]
        given = {"dataset_kwargs": {"skip_prepare_dataset": True}, "remove_unused_columns": False}
        collated = {"data_collator": default_data_collator}
    data = Dataset.from_list(columns)
    config = SFTConfig(
        per_device_train_batch_size=args.batch, gradient_accumulation_steps=8 // args.batch,
        warmup_steps=5, max_steps=args.steps, learning_rate=2e-4, bf16=True, logging_steps=1,
        optim="adamw_8bit", weight_decay=0.01, lr_scheduler_type="linear", seed=3407,
        output_dir="/tmp/peer", report_to="none", save_strategy="no", packing=False,
        max_length=args.seq, train_sampling_strategy="sequential", **given,
    )  # fmt: skip
    trainer = SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=data,
        args=config,
        callbacks=[step_clock(result)],
        **collated,
    )
    if list(trainer.train_dataset["input_ids"]) != [row["input_ids"] for row in rows]:
        raise ValueError("the trainer's tokens are not those of the rows")
    trainer.train()
    result["loss"] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    result["padding_free"] = bool(config.padding_free)
    tokens = [sum(lengths[8 * step : 8 * step + 8]) for step in range(args.steps)]
    speeds = [many / seconds for many, seconds in zip(tokens, result["step_s"], strict=True)]
    result["tokens_per_s"] = statistics.median(speeds[args.warm :])
    result["loop_tokens_per_s"] = loop_speed(tokens, result["logged_s"], args.warm)


def main() -> None:
    """Run and print the result, or the error, which then is the result."""
    import torch

    args = arguments()
    if args.cap:
        torch.cuda.set_per_process_memory_fraction(args.cap * 2**30 / torch.cuda.mem_get_info()[1])
    result: dict = {"ok": True}
    try:
        train(args, result)
    except Exception as error:
        traceback.print_exc()
        result |= {"ok": False, "error": f"{type(error).__name__}: {error}"[:300]}
    result["alloc_retries"] = torch.cuda.memory_stats().get("num_alloc_retries", 0)
    result["peak_allocated_gib"] = torch.cuda.max_memory_allocated() / 2**30
    result["peak_reserved_gib"] = torch.cuda.max_memory_reserved() / 2**30
    print("RESULT", json.dumps(result))


if __name__ == "__main__":
    main()
