"""Do the measures order answers as a physician would? On the shipped cases, by claims and coverage.

    python benchmarks/answers/acceptance.py [--format text|json]

For every shipped case five answers are graded against its own reference: the reference itself
(gold), the reference of another case of the same condition (sibling), that of a case of another
condition (wrong), the reference with every item negated, and a dismissive one that is the same for
everybody. An answer's grade is what it covers of the case plus the balance of its claims
(`claims.ClaimCounts`). README.md beside this file has the figures.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

# Also as a script, from any folder.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.answers.external import area_under_curve
from medexp.evaluation.measures import lexicon
from medexp.evaluation.measures.claim_evidence import gather_evidence
from medexp.evaluation.measures.claims import check_claims, count_claims, recall_statement
from medexp.evaluation.measures.clinical_terms import Lexicon
from medexp.evaluation.measures.reference_recall import (
    MIN_SHARE,
    list_reference_items,
    names_condition,
)
from medexp.evaluation.measures.safety import measure_must_say_coverage
from medexp.evaluation.measures.sections import find_bare_heading

CASES = Path(__file__).parents[2] / "medexp" / "data" / "clinical_cases.jsonl"
DISMISSIVE = (
    "This is nothing serious. Rest at home and drink plenty of fluids. No tests are needed."
)
KINDS = ("gold", "sibling", "wrong", "negated", "dismissive")
Case = Mapping[str, Any]


def main() -> None:
    """Grade five answers to every shipped case and print the order and the AUC."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--format", choices=("text", "json"), default="text")
    options = parser.parse_args()
    found = measure_order(read_cases(), lexicon.load())
    if options.format == "json":
        print(json.dumps(found, indent=2))
        return
    for key, value in found.items():
        print(f"{key:<28} {value:.3f}" if isinstance(value, float) else f"{key:<28} {value}")


def read_cases() -> list[Case]:
    """Return the shipped cases."""
    return [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]


def measure_order(cases: Sequence[Case], known: Lexicon) -> dict[str, Any]:
    """Return the mean grade of each kind of answer, how often each pair of neighbours is in order,
    the AUC of gold and sibling against the rest, and whether repeated text changes a grade.
    """
    grades: dict[str, list[float]] = {kind: [] for kind in KINDS}
    repeated = []
    for place, case in enumerate(cases):
        answers = make_answers(cases, place)
        row = {kind: grade_answer(case, text, known) for kind, text in answers.items()}
        repeated.append(grade_answer(case, "\n".join([answers["gold"]] * 3), known) == row["gold"])
        for kind, grade in row.items():
            grades[kind].append(grade)
    good = grades["gold"] + grades["sibling"]
    bad = [grade for kind in KINDS[2:] for grade in grades[kind]]
    neighbours = {
        f"{better} > {worse}": mean(
            one > other for one, other in zip(grades[better], grades[worse], strict=True)
        )
        for better, worse in pairwise(KINDS)
    }
    return {
        **{f"mean grade, {kind}": mean(grades[kind]) for kind in KINDS},
        **neighbours,
        "auc gold+sibling vs rest": area_under_curve(good, bad),
        "repeating changes no grade": all(repeated),
    }


def make_answers(cases: Sequence[Case], place: int) -> dict[str, str]:
    """Return the five answers to the case at `place`; the sibling is the next one of its condition,
    the wrong one the next of another.
    """
    case = cases[place]
    rest = [*cases[place + 1 :], *cases[:place]]
    sibling = next(other for other in rest if other["condition"] == case["condition"])
    wrong = next(other for other in rest if other["condition"] != case["condition"])
    return {
        "gold": case["Response"],
        "sibling": sibling["Response"],
        "wrong": wrong["Response"],
        "negated": negate(case["Response"]),
        "dismissive": DISMISSIVE,
    }


def negate(reference: str) -> str:
    """Return `reference` with every item denied: "No ..." or, where it orders something, "Do not
    ..."
    """
    section, lines = "", []
    for line in reference.splitlines():
        section = find_bare_heading(line) or section
        if line.startswith("- "):
            word = "Do not" if section == "precautions" else "No"
            lines.append(f"- {word} {line[2:3].lower()}{line[3:]}")
        else:
            lines.append(line)
    return "\n".join(lines)


def grade_answer(case: Case, answer: str, known: Lexicon) -> float:
    """Return coverage of the case (0 to 1) plus the balance of the answer's claims (-2 to 1)."""
    evidence = gather_evidence([case["Question"], case["Response"]], known)
    return (
        measure_coverage(case, answer, known) + count_claims(check_claims(answer, evidence)).balance
    )


def measure_coverage(case: Case, answer: str, known: Lexicon) -> float:
    """Return the mean of four shares: the condition named, what must be said, and the reference's
    red flags and precautions.
    """
    said = gather_evidence([answer], known)
    names = [case["condition"], *case["synonyms"]]
    shares = [
        mean(
            recall_statement(item, said, MIN_SHARE)
            for item in list_reference_items(case["Response"], section)
        )
        for section in ("red flags", "precautions")
    ]
    must_say = measure_must_say_coverage(answer, case["must_say"])
    return mean([float(names_condition(answer, names, known)), must_say or 0.0, *shares])


if __name__ == "__main__":
    main()
