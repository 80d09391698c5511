"""How long the audit of many records takes: writes one JSON line of figures, with the machine and
the load it ran under.
"""

import argparse
import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from medexp.system import machine

SHARES = (0.02, 0.3, 0.6, 0.9)  # of words exchanged


def corpus(records: list[dict[str, str]], count: int, seed: int = 0) -> list[dict[str, str]]:
    """`count` records, each one of `records` with a share of its words exchanged for words of the
    others.
    """
    chance = random.Random(seed)
    words = [word for record in records for text in record.values() for word in text.split()]

    def changed(text: str, share: float) -> str:
        return " ".join(
            chance.choice(words) if chance.random() < share else word for word in text.split()
        )

    made = []
    for number in range(count):
        share = chance.choice(SHARES)
        made.append(
            {name: changed(text, share) for name, text in records[number % len(records)].items()}
        )
    return made


def main() -> None:
    """Build the corpus, audit it, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "source", type=Path, help="a JSON array with Question, Complex_CoT and Response"
    )
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--benchmarks", nargs="*", default=[])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "corpus.json"
        file.write_text(json.dumps(corpus(json.loads(args.source.read_text()), args.count)))
        words = [
            "dataset=local",
            f"dataset.path={file}",
            "training.max_seq_tokens=2048",
            f"hydra.run.dir={folder}/out",
        ]
        words.append(f"audit.benchmark_files=[{','.join(args.benchmarks)}]")
        load, began = os.getloadavg()[0], time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "medexp.audit", *words],
            capture_output=True,
            text=True,
            check=True,
        )
        whole_s = time.perf_counter() - began
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        stages = dict(re.findall(r"✓ (.+?) ([\d.]+) s", done.stderr))
        found = json.loads((Path(folder) / "out" / "audit.json").read_text())
    figures = {
        "records": args.count,
        "whole_s": round(whole_s, 1),
        "processor_s": round(used.ru_utime + used.ru_stime, 1),
        "stages_s": {name: float(seconds) for name, seconds in stages.items()},
        "near_duplicates": found["near_duplicates"]["count"],
        "overlap": found["overlap"]["count"],
        "label_tokens": sum(found["label_tokens"].values()),
        "load_before": round(load, 1),
        "machine": asdict(machine.read()),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
