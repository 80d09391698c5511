"""What is a small verifier worth that medexp itself trains? Makes the examples, trains an adapter,
and measures before and after.

    python benchmarks/answers/train_verifier.py make OUT.jsonl [--held-out 32] [--seed 0]
    python benchmarks/answers/train_verifier.py run OUT --model FOLDER [--steps 200]
        [--train-override KEY=VALUE ...] [--medhallu FILE] [--medec FILE] [--limit N]

`make` writes one question and one word a line: the prompt of `verifier.judge_prompt` over a shipped
training case (evidence: its question and reference), an answer, Yes or No. An answer is one to
three statements of the reference, or a sentence of the reasoning that the reference covers. It is
turned wrong by one corruption (`measures/corruptions.py`: dose, drug, polarity, direction,
laterality, order, duration, sent home) or by a statement about another case (unsupported).
Held-out cases are left out, whole conditions, as in training. No text by other authors is trained
on.

`run` measures the model by external.py (in its chat template, and with the plain prompt), trains
the adapter by `medexp.train` with `dataset=local`, and measures the adapter. OUT then holds
before.json, before_plain.json, after.json and the run.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medexp.evaluation.measures import lexicon
from medexp.evaluation.measures.claim_evidence import gather_evidence
from medexp.evaluation.measures.claims import check_claims
from medexp.evaluation.measures.corruptions import corrupt_item
from medexp.evaluation.measures.sections import SECTIONS, parse_sections
from medexp.evaluation.measures.statements import split_statements
from medexp.evaluation.verifier import Item, judge_prompt

HERE = Path(__file__).parent
CASES = HERE.parents[1] / "medexp" / "data" / "clinical_cases.jsonl"
COVERED = 0.5
STATEMENTS = (1, 2, 3)
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
Case = Mapping[str, Any]


def main() -> None:
    """Make the examples, or run the whole measurement."""
    options = _parser().parse_args()
    if options.command == "make":
        examples = make_examples(read_training_cases(options.held_out), options.seed)
        write_examples(examples, options.out)
        kinds = Counter(example["kind"] for example in examples)
        print(f"{len(examples)} examples: {', '.join(f'{k} {n}' for k, n in kinds.most_common())}")
    else:
        run_measurement(options)


def read_training_cases(held_out: int, seed: int = 3407) -> list[Case]:
    """Return the shipped cases but those of `held_out` or more cases, whole conditions, drawn by
    `seed`.
    """
    cases = [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]
    conditions = sorted({case["condition"] for case in cases})
    random.Random(seed).shuffle(conditions)
    left_out: set[str] = set()
    for condition in conditions:
        if sum(case["condition"] in left_out for case in cases) >= held_out:
            break
        left_out.add(condition)
    return [case for case in cases if case["condition"] not in left_out]


def make_examples(cases: Sequence[Case], seed: int) -> list[dict[str, str]]:
    """Return as many supported as wrong answers, shuffled; each wrong one is a supported one with
    one change.
    """
    draw = random.Random(seed)
    examples: list[dict[str, str]] = []
    for place, case in enumerate(cases):
        others = [other for other in cases if other["condition"] != case["condition"]]
        for texts in _supported_answers(case, draw):
            wrong = _turn_wrong(texts, case, others, draw)
            if wrong is not None:
                kind, changed = wrong
                examples.append(_example(place, case, " ".join(texts), "supported"))
                examples.append(_example(place, case, " ".join(changed), kind))
    draw.shuffle(examples)
    return examples


def write_examples(examples: Sequence[Mapping[str, str]], file: Path) -> None:
    """Write `examples` as JSONL."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(example, ensure_ascii=False) + "\n" for example in examples)
    file.write_text("".join(lines), encoding="utf-8")


def run_measurement(options: argparse.Namespace) -> None:
    """Measure the model, train the adapter, measure it; print the three AUCs and what each step
    took.
    """
    out: Path = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    _measure(options, options.model, out / "before.json", plain=False)
    _measure(options, options.model, out / "before_plain.json", plain=True, only="judge")
    examples = make_examples(read_training_cases(options.held_out), options.seed)
    write_examples(examples, out / "examples.jsonl")
    run_folder = out / "run"
    _call([sys.executable, "-m", "medexp.train", *_train_overrides(options, out, run_folder)])
    adapter = run_folder / "adapter"
    _measure(options, adapter, out / "after.json", plain=True, only="judge")
    for name in ("before", "before_plain", "after"):
        print(name, json.dumps(_headline(out / f"{name}.json")))


def _train_overrides(options: argparse.Namespace, out: Path, run_folder: Path) -> list[str]:
    return [
        "model=local",
        f"model.path={options.model.resolve()}",
        "model.quantisation=none",
        "dataset=local",
        f"dataset.path={out / 'examples.jsonl'}",
        "dataset.columns.reasoning=null",
        "dataset.group_by=case",
        "dataset.held_out=64",
        "dataset.overlong=drop",
        "prompt=direct",
        'prompt.question="{question}"',
        'prompt.completion="{answer}"',
        f"training.max_steps={options.steps}",
        "training.max_seq_tokens=1024",
        "evaluation.answers=2",
        "evaluation.max_new_tokens=4",
        f"hydra.run.dir={run_folder}",
        *options.train_override,
    ]


def _measure(
    options: argparse.Namespace, verifier: Path, file: Path, plain: bool, only: str | None = None
) -> None:
    command = [sys.executable, str(HERE / "external.py"), "--format", "json"]
    command += ["--verifier", str(verifier), "--batch-size", str(options.batch_size)]
    command += ["--verifier-base", str(options.model)]
    command += ["--only", only] if only else []
    for name in ("medhallu", "medec"):
        if getattr(options, name):
            command += [f"--{name}", str(getattr(options, name))]
    command += ["--plain-prompt"] if plain else []
    command += ["--limit", str(options.limit)] if options.limit else []
    file.write_text(_call(command, is_captured=True), encoding="utf-8")
    print(file.name, json.dumps(_headline(file)), flush=True)


def _call(command: Sequence[str], is_captured: bool = False) -> str:
    started = time.monotonic()
    done = subprocess.run(
        command, check=True, text=True, stdout=subprocess.PIPE if is_captured else None,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    print(f"{Path(command[1]).name} {command[2]}: {time.monotonic() - started:.0f} s", flush=True)
    return done.stdout or ""


def _headline(file: Path) -> dict[str, Any]:
    found = json.loads(file.read_text(encoding="utf-8"))
    headline: dict[str, Any] = {}
    if "medhallu" in found:
        figures = found["medhallu"]
        headline["medhallu"] = {
            "rules": figures["rules"],
            **figures["verifiers"],
            **figures["mean_ranks"],
        }
    if "medec" in found:
        headline["medec"] = {
            name: {key: figures[key] for key in ("recall", "false_alarms_by_sentence")}
            for name, figures in found["medec"]["verifiers"].items()
        }
    return headline


def _supported_answers(case: Case, draw: random.Random) -> list[list[str]]:
    """Return answers that the case supports, each a list of statements."""
    statements = [
        item
        for section in parse_sections(case["Response"])
        if section.name in SECTIONS
        for item in section.items
    ]
    draw.shuffle(statements)
    answers, at = [], 0
    while at < len(statements):
        count = draw.choice(STATEMENTS)
        answers.append(statements[at : at + count])
        at += count
    evidence = gather_evidence([case["Question"], case["Response"]], lexicon.load())
    reasoned = check_claims(str(case.get("Complex_CoT") or ""), evidence)
    return answers + [
        [claim.statement.text]
        for claim in reasoned
        if claim.covered >= COVERED and not claim.is_error
    ]


def _turn_wrong(
    texts: Sequence[str], case: Case, others: Sequence[Case], draw: random.Random
) -> tuple[str, list[str]] | None:
    """Return a kind of error and `texts` with it; every fourth time, and where no corruption
    applies, a statement of another case takes the place of one.
    """
    named = f"{case['Question']}\n{case['Response']}"
    ways = [
        (corruption.kind, index, corruption.text)
        for index, text in enumerate(texts)
        for corruption in corrupt_item(text, "precautions", named)
    ]
    if not ways or draw.random() < 0.25:
        foreign = [
            statement.text for statement in split_statements(draw.choice(others)["Response"])
        ]
        if not foreign:
            return None
        ways = [("unsupported", draw.randrange(len(texts)), draw.choice(foreign))]
    kind, index, text = draw.choice(ways)
    return kind, [*texts[:index], text, *texts[index + 1 :]]


def _example(place: int, case: Case, answer: str, kind: str) -> dict[str, str]:
    asked = _SENTENCE.split(case["Question"].strip())[-1]
    item = Item(asked, f"{case['Question']}\n{case['Response']}", answer)
    is_supported = kind == "supported"
    return {
        "Question": judge_prompt(item),
        "Response": "Yes" if is_supported else "No",
        "kind": kind,
        "case": f"case {place}",
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make", help="write the training examples")
    run = commands.add_parser("run", help="measure, train, measure")
    for command in (make, run):
        command.add_argument("out", type=Path)
        command.add_argument("--held-out", type=int, default=32)
        command.add_argument("--seed", type=int, default=0)
    run.add_argument("--model", type=Path, required=True)
    run.add_argument("--steps", type=int, default=200)
    run.add_argument("--batch-size", type=int, default=16)
    run.add_argument("--limit", type=int)
    run.add_argument("--medhallu", type=Path)
    run.add_argument("--medec", type=Path)
    run.add_argument("--train-override", nargs="*", default=[])
    return parser


if __name__ == "__main__":
    main()
