"""Write the token rows that `medexp.train` would train on, in its order, for a peer to train on the
same.

python benchmarks/train/rows.py --tokenizer /tmp/llama8b --out /tmp/rows.json OVERRIDES...
"""

import argparse
import json
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from transformers import AutoTokenizer

from medexp.config.registration import register_with_hydra
from medexp.config.resolve import resolve
from medexp.config.schema import RunConfig
from medexp.config.shipped import find_conf_dir
from medexp.data import loading as data_loading
from medexp.data import mixture
from medexp.data.encoding import EncodedCase, make_vocabulary
from medexp.data.preparation import prepare
from medexp.system.machine import read


def compose_run(words: list[str]) -> RunConfig:
    """Return the run of medexp.train that `words` describe, as this machine resolves it."""
    register_with_hydra()
    with initialize_config_dir(str(find_conf_dir()), version_base="1.3"):
        return resolve(compose("train", words), read(), Path.cwd(), {})


def encode_rows(run: RunConfig, tokenizer: Any) -> list[EncodedCase]:
    """Return the training cases of `run` as it would see them, in their order."""
    cases = data_loading.load_cases(run.dataset, run.prompt)
    split = mixture.split_mixture(cases.by_source, run.dataset, cases.reading)
    return list(prepare(run, split, make_vocabulary(tokenizer, run.prompt)).rows)


def load_embedded(words: list[str], count: int) -> tuple[Any, list[tuple[Any, Any]]]:
    """Return the embedded model in training on a CPU, with `words` beside, and its first `count`
    training cases as tokens and labels [1, tokens]."""
    import torch

    from medexp.models import backend, loading, weights
    from medexp.models.tokenizer import bind_run_prompt, load_tokenizer
    from medexp.system import machine

    cases = ["hardware=cpu", "dataset=clinical_cases", "prompt=clinical_sections"]
    run = compose_run([*cases, *words])
    stack = backend.load_backend(run.hardware, machine.cache_dir())
    found = weights.find_weights(run.model)
    if found.gguf is not None:
        found = weights.convert_gguf(found, run.model, stack)
    tokenizer = load_tokenizer(found, stack)
    rows = encode_rows(bind_run_prompt(run, tokenizer), tokenizer)[:count]
    network = loading.load_model(run, found, tokenizer, stack).network.train()
    return network, [(torch.tensor([row.input_ids]), torch.tensor([row.labels])) for row in rows]


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    run = compose_run(args.overrides)
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    rows = encode_rows(run, tokenizer)
    args.out.write_text(
        json.dumps([{"input_ids": row.input_ids, "labels": row.labels} for row in rows])
    )


if __name__ == "__main__":
    main()
