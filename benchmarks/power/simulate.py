"""How often the paired comparison of medexp finds 0.3 -> 0.6, and how often it finds nothing.

    python benchmarks/power/simulate.py                  # a table, a few minutes on one core
    python benchmarks/power/simulate.py --runs 200       # coarser

A run is simulated as it comes: groups of cases (two patients with one condition), every case
answered by both models in `draws` draws, each answer right or wrong. What makes an answer right is
a normal variable of variance 1, in four parts: how hard the condition is (for both models), how
well this model does on the condition (this is what makes the differences of one group alike), how
hard the case is, and the luck of the draw.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from medexp.evaluation.paired_stats import LEVEL, PairedComparison, adjust_holm, compare_pairs

# Primary measures that Holm corrects for.
PRIMARY = 3


@dataclass(frozen=True)
class Design:
    """How many groups are answered, with how many cases each and draws a case."""

    groups: int
    cases: int = 2
    draws: int = 1


@dataclass(frozen=True)
class Variance:
    """The parts of what makes an answer right; they add up to 1."""

    condition: float = 0.20
    model_on_condition: float = 0.15
    case: float = 0.25
    draw: float = 0.40


def simulate_comparison(
    design: Design,
    before: float,
    after: float,
    seed: int,
    variance: Variance | None = None,
    by_group: bool = True,
) -> PairedComparison:
    """Return the comparison of one simulated run whose true rates are `before` and `after`.

    With `by_group` false every case counts alone, as if the cases of a group were not alike.
    """
    parts, chance = variance or Variance(), np.random.default_rng(seed)
    shape = (design.groups, design.cases)
    condition = chance.normal(size=(design.groups, 1, 1)) * parts.condition**0.5
    case = chance.normal(size=(*shape, 1)) * parts.case**0.5

    def answer(rate: float) -> list[float]:
        model = chance.normal(size=(design.groups, 1, 1)) * parts.model_on_condition**0.5
        luck = chance.normal(size=(*shape, design.draws)) * parts.draw**0.5
        is_right = condition + model + case + luck < NormalDist().inv_cdf(rate)
        return [float(share) for share in is_right.mean(axis=2).ravel()]

    groups = [group for group in range(design.groups) for _ in range(design.cases)]
    return compare_pairs(answer(before), answer(after), groups=groups if by_group else None)


def find_rate(
    design: Design, before: float, after: float, runs: int, comparisons: int = PRIMARY
) -> float:
    """Return the share of simulated runs with a verdict, where the others of Holm's family find
    nothing at all: the hardest case for this measure.
    """
    detected = 0
    for seed in range(runs):
        comparison = simulate_comparison(design, before, after, seed)
        adjusted = adjust_holm([comparison.p_value] + [1.0] * (comparisons - 1))[0]
        detected += comparison.is_detected_at(adjusted)
    return detected / runs


def find_family_rate(design: Design, runs: int, comparisons: int = PRIMARY) -> float:
    """Return the share of runs in which any of `comparisons` unchanged measures gets a verdict."""
    false_calls = 0
    for seed in range(runs):
        family = [
            simulate_comparison(design, 0.3, 0.3, comparisons * seed + place)
            for place in range(comparisons)
        ]
        adjusted = adjust_holm([comparison.p_value for comparison in family])
        pairs = zip(family, adjusted, strict=True)
        false_calls += any(comparison.is_detected_at(p) for comparison, p in pairs)
    return false_calls / runs


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=1000)
    runs = parser.parse_args(argv).runs
    print(f"{runs} simulated runs each, 5 % false calls allowed over {PRIMARY} primary measures")
    print("groups x cases x draws   0.3 -> 0.6 found   alone   false call in any of 3")
    for design in (
        Design(8, 1), Design(8), Design(16), Design(24), Design(32), Design(32, draws=4),
        Design(40), Design(62, 1), Design(62), Design(64, 1), Design(77),
    ):  # fmt: skip
        print(
            f"{design.groups:6} x {design.cases} x {design.draws}"
            f"{find_rate(design, 0.3, 0.6, runs):22.2f}"
            f"{find_rate(design, 0.3, 0.6, runs, 1):12.2f}"
            f"{find_family_rate(design, runs):12.3f}  (level {1 - LEVEL:.2f})"
        )


if __name__ == "__main__":
    main()
