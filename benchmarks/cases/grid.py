"""The grid that the shipped cases were written on, and how they fill it.

    python benchmarks/cases/grid.py [--against FILE ...]

Prints what asks what and how, lengths, parts of the split by specialty and urgency, contrast pairs,
and the two cases that are most alike. `--against` names files of other authors' texts (JSON or
JSONL, of any columns) and prints every run of 13 words that stands in one of them, too.
"""

import argparse
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

# Also as a script, from any folder.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from medexp.data.audit.contamination import list_word_runs
from medexp.data.split import Sides
from medexp.data.words import split_words

Record = Mapping[str, Any]
CASES = Path(__file__).resolve().parents[2] / "medexp" / "data" / "clinical_cases.jsonl"
# As conf/dataset/clinical_cases.yaml has them; a test compares the two.
SIDES = Sides(0.3, 0.08)
ASKERS = ("patient", "relative", "gp", "nurse", "ambulance", "ward")
ASKS = ("diagnosis", "next step", "drug and dose", "when to worry", "when to leave alone")
STYLES, TERMS = ("plain", "clipped"), ("british", "american")
FEATURES = (
    "negative findings",
    "red herring",
    "drug list",
    "pregnancy",
    "child",
    "old age",
    "renal impairment",
    "hepatic impairment",
)
URGENCIES = ("emergency", "urgent", "routine", "self-limiting")
LENGTHS = (0, 60, 90, 120, 180, 251)
LIKENESS = 5


def read_cases() -> list[Record]:
    """Return the shipped cases in their order."""
    return [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]


def count_items(record: Record) -> tuple[int, ...]:
    """Return how many items each of the four sections of the answer has."""
    sections = re.split(r"^## .*$", record["Response"], flags=re.MULTILINE)[1:]
    return tuple(len(section.strip().splitlines()) for section in sections)


def names_first_cause(record: Record) -> bool:
    """Return whether the first item of Causes names the condition or a synonym of it."""
    first = split_words(re.search(r"## Causes\n(.*)", record["Response"])[1])  # type: ignore[index]
    names = [record["condition"], *record["synonyms"]]
    return any(set(split_words(name)) <= set(first) for name in names)


def find_likest(records: Sequence[Record]) -> tuple[float, str, str]:
    """Return the largest share of LIKENESS-word runs that two cases which are no pair have in
    common, of the shorter one's, and their conditions.
    """
    runs = [set(_list_short_runs(_text(record))) for record in records]
    holders: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for place, own in enumerate(runs):
        for run in own:
            holders[run].append(place)
    common: Counter[tuple[int, int]] = Counter()
    for places in holders.values():
        common.update((one, other) for at, other in enumerate(places) for one in places[:at])
    shares = (
        (count / min(len(runs[one]), len(runs[other])), one, other)
        for (one, other), count in common.items()
        if not records[one]["pair"] or records[one]["pair"] != records[other]["pair"]
    )
    share, one, other = max(shares)
    return share, records[one]["condition"], records[other]["condition"]


def find_overlaps(records: Sequence[Record], texts: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return (file, condition) for every case that has 13 words in a row with a text, as the audit
    counts them.
    """
    ours: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for record in records:
        statements = " / ".join([*record["must_say"], *record["must_not_say"]])
        for run in list_word_runs(split_words(f"{_text(record)} {statements}")):
            ours[run].add(record["condition"])
    return sorted(
        {
            (name, condition)
            for name, text in texts.items()
            for run in list_word_runs(split_words(text))
            for condition in ours.get(run, ())
        }
    )


def _text(record: Record) -> str:
    return " ".join((record["Question"], record["Complex_CoT"], record["Response"]))


def _list_short_runs(text: str) -> Iterator[tuple[str, ...]]:
    words = split_words(text)
    return zip(*(words[start:] for start in range(LIKENESS)), strict=False)


def _print_counts(title: str, counts: Mapping[str, int], total: int) -> None:
    shown = ", ".join(f"{name} {count} ({count / total:.0%})" for name, count in counts.items())
    print(f"{title:12} {shown}")


def _print_split(records: Sequence[Record]) -> None:
    sides = {record["group"]: SIDES.find(record["group"]) for record in records}
    print(f"\n{'':36}cases  conditions   test: cases  conditions")
    for column in ("specialty", "urgency"):
        for name in sorted({record[column] for record in records}):
            own = [record for record in records if record[column] == name]
            test = [record for record in own if sides[record["group"]] == "test"]
            print(f"{name:36}{len(own):5}{_conditions(own):12}{len(test):14}{_conditions(test):12}")
    for side in ("train", "validation", "test"):
        of_side = [record for record in records if sides[record["group"]] == side]
        pairs = sum(record["pair"] is not None for record in of_side) // 2
        groups = len({record["group"] for record in of_side})
        print(
            f"{side}: {len(of_side)} cases, {_conditions(of_side)} conditions in {groups} groups,"
            f" {pairs} pairs"
        )


def _conditions(records: Sequence[Record]) -> int:
    return len({record["condition"] for record in records})


def main() -> None:
    """Print the grid."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--against", nargs="*", type=Path, default=[], metavar="FILE")
    options = parser.parse_args()
    records = read_cases()
    total = len(records)
    specialties = len({record["specialty"] for record in records})
    print(f"{total} cases, {_conditions(records)} conditions, {specialties} specialties")
    for column, names in (("asker", ASKERS), ("style", STYLES), ("terms", TERMS)):
        counts = Counter(record[column] for record in records)
        _print_counts(column, {name: counts[name] for name in names}, total)
    for column, names in (("asks", ASKS), ("features", FEATURES)):
        counts = Counter(name for record in records for name in record[column])
        _print_counts(column, {name: counts[name] for name in names}, total)
    lengths = [len(record["Question"].split()) for record in records]
    spans = {
        f"{low + 1}-{high}": sum(low < length <= high for length in lengths)
        for low, high in pairwise(LENGTHS)
    }
    _print_counts("words", spans, total)
    items = Counter(number for record in records for number in count_items(record))
    _print_counts("items", {str(number): items[number] for number in sorted(items)}, 4 * total)
    shapes = Counter(map(count_items, records))
    print(f"most frequent shape of an answer: {shapes.most_common(1)[0]}, {len(shapes)} shapes")
    print(
        f"condition in the first item of Causes: {sum(map(names_first_cause, records)) / total:.0%}"
    )
    _print_split(records)
    share, one, other = find_likest(records)
    print(f"most alike, pairs apart: {one} and {other}, {share:.1%} of 5-word runs")
    if options.against:
        texts = {file.name: file.read_text(encoding="utf-8") for file in options.against}
        found = find_overlaps(records, texts)
        print(f"13 words in a row with {len(texts)} files of others: {found or 'none'}")


if __name__ == "__main__":
    main()
