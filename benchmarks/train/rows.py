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
