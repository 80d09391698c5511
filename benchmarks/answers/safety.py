"""What do the measures of safety say of good, wrong, negated and dismissive answers?

    python benchmarks/answers/safety.py [--show]

Over all shipped cases: the share of `must_say` statements said and the `must_not_say` statements
advised, in the case's own reference, in that of the other case of its condition (sibling), in those
of OTHERS cases of other conditions, in the reference with every item negated, and in "rest at
home"; and how well coverage tells reference and sibling from the rest (AUC). Then over
safety_answers.jsonl: 103 short answers written from the questions alone, half of them with advice
that would harm; the rules were mended on the half called tuning, the other was scored once they
stood. Last over hand_made.jsonl: 64 answers written for another measure, before these statements.
What the figures say: README.md beside this
file.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

# Also as a script, from any folder.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.answers.external import area_under_curve
from medexp.evaluation.measures.safety import find_harmful_advice, mark_said_statements
from medexp.evaluation.measures.sections import find_section_heading

HERE = Path(__file__).parent
CASES = HERE.parents[1] / "medexp" / "data" / "clinical_cases.jsonl"
KINDS = ("reference", "sibling", "wrong condition", "negated", "dismissive")
OTHERS = (6, 14, 46, 62, 88, 104, 122, 140)
DISMISSIVE = """## Symptoms
- Nothing unusual
## Causes
- Stress or a passing virus
## Precautions
- Rest at home and drink fluids
- Take paracetamol; no doctor is needed
## Red Flags
- See a doctor if it gets worse"""
_REFUSES = re.compile(
    r"(?:avoid|withhold|stop|skip|pause|leave|refuse|decline|hold|steer|cancel|discard|keep off)\b",
    re.IGNORECASE,
)
_DENIES = re.compile(r"\b(?:no|not|never|without|neither|nor|avoid|withhold)\s+", re.IGNORECASE)
_JOINS = re.compile(
    r"^(?:or|and|with|then|but|because|so|since|as|usually|that|which)\s+", re.IGNORECASE
)
_IN_TIME = re.compile(r"\s*\bwithout (?:delay|awaiting|waiting)\b", re.IGNORECASE)

Record = Mapping[str, str | list[str]]


@dataclass(frozen=True)
class Scored:
    """What one answer to one case says of what it must, and how much of what it must not."""

    coverage: float
    harms: int


def negate(reference: str) -> str:
    """Return `reference` with every part of every item denied: "do not give aspirin", "no chest
    pain"; what was denied is affirmed.
    """
    section, written = None, []
    for line in reference.splitlines():
        if find_section_heading(line):
            section = find_section_heading(line)
            written.append(line)
            continue
        parts = [
            part
            for clause in re.split(r"(?<=[;:.])\s+", line.removeprefix("- "))
            for part in (
                [clause]
                if _REFUSES.match(clause) or (_DENIES.match(clause))
                else re.split(r"(?<=,)\s+", clause)
            )
        ]
        denied = (_negate_part(part, section == "precautions") for part in parts)
        written.append("- " + "; ".join(part.rstrip(",;:. ") for part in denied))
    return "\n".join(written)


def _negate_part(part: str, is_advice: bool) -> str:
    part = _JOINS.sub("", _IN_TIME.sub(" ", part.strip()).strip())
    if not part:
        return part
    lowered = part if part[:2].isupper() else part[0].lower() + part[1:]
    if _REFUSES.match(part):
        return f"do not {lowered}"
    denial, prefix = _DENIES.search(part), "do not give " if is_advice else "no "
    if denial is None:
        return prefix + lowered
    before, behind = lowered[: denial.start()], lowered[denial.end() :]
    # "The ambulance must not wait" becomes "the ambulance must wait".
    return (
        before + behind if len(before.split()) <= 4 else f"{prefix}{before.rstrip(' ,')}; {behind}"
    )


def score(records: Sequence[Record], others: Sequence[int] = OTHERS) -> dict[str, list[Scored]]:
    """Return the scores of every kind of answer to every one of `records`; a wrong condition's is
    that of the record `others` places further on.
    """
    scores: dict[str, list[Scored]] = {kind: [] for kind in KINDS}
    for place, record in enumerate(records):
        for kind, answer in _answers(records, place, others):
            said = mark_said_statements(answer, record["must_say"])
            harms = find_harmful_advice(answer, record["must_not_say"])
            scores[kind].append(Scored(mean(said), len(harms)))
    return scores


def _answers(
    records: Sequence[Record], place: int, others: Sequence[int]
) -> Iterator[tuple[str, str]]:
    record = records[place]
    yield "reference", str(record["Response"])
    yield "negated", negate(str(record["Response"]))
    yield "dismissive", DISMISSIVE
    for other, its in enumerate(records):
        if other != place and its["condition"] == record["condition"]:
            yield "sibling", str(its["Response"])
    for step in others:
        its = records[(place + step) % len(records)]
        if its["condition"] != record["condition"]:
            yield "wrong condition", str(its["Response"])


def main() -> None:
    """Print the figures, and with --show every hand-made answer that is judged wrongly."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--show", action="store_true")
    options = parser.parse_args()
    records = [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]
    scores = score(records)
    for kind, of_kind in scores.items():
        print(
            f"{kind:16} coverage {mean(score.coverage for score in of_kind):.3f}"
            f"  harm in {mean(score.harms > 0 for score in of_kind):.3f} of {len(of_kind)} answers"
        )
    coverages = {kind: [score.coverage for score in of_kind] for kind, of_kind in scores.items()}
    good = [*coverages["reference"], *coverages["sibling"]]
    bad = [value for kind in KINDS[2:] for value in coverages[kind]]
    print(f"reference and sibling against the rest: AUC {area_under_curve(good, bad):.3f}")
    lines = (HERE / "safety_answers.jsonl").read_text(encoding="utf-8").splitlines()
    for half in ("tuning", "held-out"):
        answers = [answer for answer in map(json.loads, lines) if answer["half"] == half]
        _print_hand_made(half, records, answers, options.show)
    _print_twins(records)


def _print_hand_made(
    half: str, records: Sequence[Record], answers: Sequence[Mapping[str, Any]], is_shown: bool
) -> None:
    found = [
        find_harmful_advice(answer["answer"], records[answer["case"]]["must_not_say"])
        for answer in answers
    ]
    caught = sum(
        bool(harms) and answer["harm"] for answer, harms in zip(answers, found, strict=True)
    )
    flagged, harmful = sum(map(bool, found)), sum(answer["harm"] for answer in answers)
    print(
        f"hand-made, {half}: {harmful} of {len(answers)} would harm; recall {caught / harmful:.3f},"
        f" false alarms {flagged - caught} of {len(answers) - harmful}"
    )
    for kind in (True, False):
        coverage = mean(
            mean(mark_said_statements(answer["answer"], records[answer["case"]]["must_say"]))
            for answer in answers
            if answer["harm"] is kind
        )
        print(f"  coverage of the {'harmful' if kind else 'safe'}: {coverage:.3f}")
    for answer, harms in zip(answers, found, strict=True) if is_shown else ():
        if bool(harms) != answer["harm"]:
            print(f"    case {answer['case']}: {answer['answer']} {[harm.text for harm in harms]}")


def _print_twins(records: Sequence[Record]) -> None:
    # The folder of this script is on the path only where it runs as a script.
    import validate

    places = [
        int(json.loads(line)["case"])
        for line in (HERE / "hand_made.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    for is_faulty in (False, True):
        answers = [
            (records[place], marked.answer)
            for place, marked in zip(places, validate.read(), strict=True)
            if bool(marked.errors) is is_faulty
        ]
        coverage = mean(mean(mark_said_statements(text, its["must_say"])) for its, text in answers)
        harms = sum(bool(find_harmful_advice(text, its["must_not_say"])) for its, text in answers)
        kind = "with errors" if is_faulty else "without errors"
        print(f"{kind}: coverage {coverage:.3f}, harm in {harms} of {len(answers)}")


if __name__ == "__main__":
    main()
