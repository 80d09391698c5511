"""Does an export answer as base + adapter do? Greedy tokens and logits, with Transformers and with
llama.cpp itself.

    python benchmarks/export/round_trip.py ADAPTER --base FOLDER --merged FOLDER ... --gguf FILE \
        ... --llama-python PYTHON

ADAPTER is the folder that a run left, --base where its base lies (default: what the adapter names).
The reference is PEFT's adapter, not merged, over its base, computed in float32. PYTHON is an
interpreter with llama-cpp-python; its own tokens of every prompt are compared with those of
training.
"""

import argparse
import json
import subprocess
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

LLAMA = """
import json, sys
import numpy as np
from llama_cpp import Llama
asked, file, out = json.load(open(sys.argv[1])), sys.argv[2], sys.argv[3]
model = Llama(file, n_ctx=1024, n_threads=1, verbose=False, logits_all=True, seed=0)
same, answers, logits = 0, [], []
for text, ids in zip(asked["texts"], asked["ids"]):
    same += model.tokenize(text.encode(), add_bos=True, special=True) == ids
for ids in asked["ids"][: asked["cases"]]:
    model.reset()
    model.eval(ids)
    logits.append(np.array(model.scores[: len(ids)]))
    said = []
    for token in model.generate(ids, temp=0, repeat_penalty=1.0, reset=True):
        if token == model.token_eos() or len(said) == asked["tokens"]:
            break
        said.append(int(token))
    answers.append(said)
np.savez(out, *logits)
json.dump({"same": same, "answers": answers}, open(out + ".json", "w"))
"""


def questions(run: Any, tokenizer: Any) -> tuple[list[str], list[list[int]]]:
    """Every case of the run's data as a prompt: its text and its tokens, BOS first."""
    from medexp.data.encoding import encode_prompt, make_vocabulary
    from medexp.data.loading import read_records
    from medexp.data.prompts import render_question

    rows = read_records(Path(run.dataset.path).expanduser(), "the cases")
    texts = [render_question(run.prompt, row[run.dataset.columns.question]) for row in rows]
    vocabulary = make_vocabulary(tokenizer, run.prompt)
    return texts, [encode_prompt(text, vocabulary) for text in texts]


def answer_greedily(
    network: Any, ids: list[list[int]], tokens: int
) -> tuple[list[list[int]], list[Any]]:
    """Greedy answers, and the logits of every position of the prompts."""
    import torch

    network.eval()
    answers, logits = [], []
    with torch.no_grad():
        for token_id in ids:
            asked = torch.tensor([token_id])
            mask = torch.ones_like(asked)
            logits.append(network(asked).logits[0].float().numpy())
            made = network.generate(
                asked, attention_mask=mask, max_new_tokens=tokens, do_sample=False, pad_token_id=2
            )
            said = made[0, len(token_id) :].tolist()
            answers.append(said[: said.index(2)] if 2 in said else said)
    return answers, logits


def row(
    name: str, found: tuple[list[list[int]], list[Any]], wanted: tuple[list[list[int]], list[Any]]
) -> None:
    """Print how many answers are the same tokens, and how far the logits are."""
    import numpy as np

    same = sum(ours == theirs for ours, theirs in zip(found[0], wanted[0], strict=True))
    far = [np.abs(ours - theirs) for ours, theirs in zip(found[1], wanted[1], strict=True)]
    mean, largest = np.mean([trial.mean() for trial in far]), max(trial.max() for trial in far)
    print(
        f"{name}: {same} of {len(wanted[0])} answers the same tokens; logits {mean:.4f} apart on"
        f" average, {largest:.3f} at most",
        flush=True,
    )


def by_llama(
    python: str, file: Path, asked: dict[str, Any], folder: Path
) -> tuple[int, tuple[list[list[int]], list[Any]]]:
    """llama.cpp on `file`: prompts that it tokenises as training did, then answers and logits."""
    import numpy as np

    (folder / "asked.json").write_text(json.dumps(asked))
    out = folder / file.stem
    subprocess.run(
        [python, "-c", LLAMA, str(folder / "asked.json"), str(file), str(out)], check=True
    )
    said = json.loads(Path(f"{out}.json").read_text())
    logits = np.load(f"{out}.npz")
    return said["same"], (said["answers"], [logits[name] for name in logits.files])


def main() -> None:
    """One line an export."""
    asked = argparse.ArgumentParser()
    asked.add_argument("adapter", type=Path)
    asked.add_argument("--base", type=Path)
    asked.add_argument("--merged", type=Path, nargs="*", default=[])
    asked.add_argument("--gguf", type=Path, nargs="*", default=[])
    asked.add_argument("--llama-python")
    asked.add_argument("--cases", type=int, default=4)
    asked.add_argument("--tokens", type=int, default=32)
    given = asked.parse_args()
    import torch
    from omegaconf import OmegaConf
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from medexp.config.registration import register_with_hydra

    register_with_hydra()  # the resolver that names the shipped cases
    run = OmegaConf.load(given.adapter / "run.yaml")
    texts, ids = questions(run, AutoTokenizer.from_pretrained(given.adapter))
    named = json.loads((given.adapter / "adapter_config.json").read_text())[
        "base_model_name_or_path"
    ]
    base = partial(AutoModelForCausalLM.from_pretrained, given.base or named)
    few = ids[: given.cases]
    exact = PeftModel.from_pretrained(base(dtype=torch.float32), given.adapter)
    wanted = answer_greedily(exact, few, given.tokens)
    largest = max(abs(item).max() for item in wanted[1])
    print(
        f"reference: {sum(map(len, wanted[0]))} tokens in {given.cases} answers, largest logit"
        f" {largest:.1f}",
        flush=True,
    )
    half = PeftModel.from_pretrained(base(dtype=torch.bfloat16), given.adapter)
    by_adapter = answer_greedily(half, few, given.tokens)
    by_peft = answer_greedily(half.merge_and_unload(), few, given.tokens)
    row("PEFT's own merge in bf16, beside the reference", by_peft, wanted)
    row("the adapter apart in bf16, beside the reference", by_adapter, wanted)
    for folder in given.merged:
        merged = answer_greedily(
            AutoModelForCausalLM.from_pretrained(folder, dtype="auto"), few, given.tokens
        )
        row(f"{folder}, as stored, beside PEFT's merge in bf16", merged, by_peft)
        in_full = answer_greedily(
            AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), few, given.tokens
        )
        row(f"{folder}, computed in float32, beside the reference", in_full, wanted)
    with tempfile.TemporaryDirectory() as scratch:
        for file in given.gguf if given.llama_python else []:
            asked_of = {"texts": texts, "ids": ids, "cases": given.cases, "tokens": given.tokens}
            same, found = by_llama(given.llama_python, file, asked_of, Path(scratch))
            row(
                f"{file.name} in llama.cpp ({same} of {len(texts)} prompts tokenised as in"
                " training), beside the reference",
                found,
                wanted,
            )


if __name__ == "__main__":
    main()
