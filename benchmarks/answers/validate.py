"""How good is the measure of unsupported terms? Its precision and recall on hand-made answers whose
errors are marked.

    python benchmarks/answers/validate.py [--half tuning|held-out] [--show]

hand_made.jsonl holds 64 answers to 32 of the shipped cases, for each one without and one with
errors. An error is marked in the text as {{kind:words}}; `also` is a sentence added to the
question. The rules were tuned on the half called tuning alone; the half called held-out has other
cases and was first scored when the rules stood. What the figures say: README.md beside this file.
"""

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from medexp.evaluation.measures import lexicon
from medexp.evaluation.measures.contradictions import find_contradictions
from medexp.evaluation.measures.unsupported_claims import find_unsupported_claims, read_evidence

HERE = Path(__file__).parent
CASES = HERE.parents[1] / "medexp" / "data" / "clinical_cases.jsonl"
_MARK = re.compile(r"\{\{(\w+):([^}]*)\}\}")


@dataclass(frozen=True)
class Marked:
    """A hand-made answer: its texts without marks, and the (kind, start, end) of every error."""

    half: str
    question: str
    reference: str
    answer: str
    errors: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Found:
    """What the measure said of one answer: errors caught and missed by kind, and words called an
    error that are none.
    """

    marked: Marked
    caught: Counter[str]
    missed: list[tuple[str, str]]
    false: list[str]


@dataclass(frozen=True)
class Agreement:
    """Precision and recall, over errors and over whole answers (is there an error in it?)."""

    precision: float
    recall: float
    answer_precision: float
    answer_recall: float


def read() -> list[Marked]:
    """Return the hand-made answers."""
    cases = [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]
    return [
        _marked(json.loads(line), cases)
        for line in (HERE / "hand_made.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def _marked(row: dict[str, str], cases: list[dict[str, str]]) -> Marked:
    case = cases[int(row["case"])]
    parts, errors, at, length = [], [], 0, 0
    for match in _MARK.finditer(row["answer"]):
        parts += [row["answer"][at : match.start()], match[2]]
        length += match.start() - at
        errors.append((match[1], length, length + len(match[2])))
        at, length = match.end(), length + len(match[2])
    question = " ".join(filter(None, (case["Question"], row.get("also"))))
    return Marked(
        row["half"], question, case["Response"], "".join(parts) + row["answer"][at:], tuple(errors)
    )


def judge(marked: Marked) -> Found:
    """Compare what the measure says of `marked` with its errors: overlapping words are the same
    thing.
    """
    words = lexicon.load()
    known = read_evidence(marked.question, marked.reference, words)
    said = [
        (claim.start, claim.end) for claim in find_unsupported_claims(marked.answer, known, words)
    ]
    said += [
        (contradiction.start, contradiction.end)
        for contradiction in find_contradictions(marked.answer, marked.question, words)
    ]
    caught, missed = Counter[str](), []
    for kind, start, end in marked.errors:
        if any(left < end and start < right for left, right in said):
            caught[kind] += 1
        else:
            missed.append((kind, marked.answer[start:end]))
    false = [
        marked.answer[left:right]
        for left, right in said
        if not any(left < e and s < right for _, s, e in marked.errors)
    ]
    return Found(marked, caught, missed, false)


def agreement(found: list[Found]) -> Agreement:
    """Return the figures over `found`."""
    caught = sum(judged.caught.total() for judged in found)
    false, missed = (
        sum(len(judged.false) for judged in found),
        sum(len(judged.missed) for judged in found),
    )
    flagged = [judged for judged in found if judged.caught.total() or judged.false]
    wrong = [judged for judged in found if judged.marked.errors]
    both = sum(bool(judged.marked.errors) for judged in flagged)
    return Agreement(
        caught / (caught + false),
        caught / (caught + missed),
        both / len(flagged),
        both / len(wrong),
    )


def _report(name: str, found: list[Found]) -> Iterator[str]:
    figures = agreement(found)
    clean = [judged for judged in found if not judged.marked.errors]
    yield f"{name}: {len(found)} answers, {len(clean)} without errors"
    yield f"  errors   precision {figures.precision:.3f}  recall {figures.recall:.3f}"
    yield f"  answers  precision {figures.answer_precision:.3f}  recall {figures.answer_recall:.3f}"
    caught = sum((judged.caught for judged in found), Counter[str]())
    missed = Counter(kind for judged in found for kind, _ in judged.missed)
    kinds = sorted(set(caught) | set(missed))
    yield "  recall by kind: " + ", ".join(
        f"{kind} {caught[kind]}/{caught[kind] + missed[kind]}" for kind in kinds
    )


def main() -> None:
    """Print the figures of both halves, and with --show every disagreement."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--half", choices=["tuning", "held-out"])
    parser.add_argument("--show", action="store_true")
    options = parser.parse_args()
    for half in [options.half] if options.half else ["tuning", "held-out"]:
        found = [judge(marked) for marked in read() if marked.half == half]
        print("\n".join(_report(half, found)))
        for judged in found if options.show else ():
            if judged.missed or judged.false:
                print(
                    f"    missed {judged.missed}  called wrong {judged.false} "
                    f" [{judged.marked.question[:40]}]"
                )


if __name__ == "__main__":
    main()
