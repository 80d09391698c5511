"""Simulated runs: 0.3 -> 0.6 is found at the default size of a card, and nothing is not."""

from benchmarks.power.simulate import (
    Design,
    Variance,
    find_family_rate,
    find_rate,
    simulate_comparison,
)
from medexp.evaluation.paired_stats import LEVEL

# `evaluation.answers: 64` of the shipped cases.
ON_A_CARD = Design(groups=32, cases=2)


def test_a_rise_from_three_to_six_in_ten_is_found_at_the_default_size_of_a_card():
    assert find_rate(ON_A_CARD, 0.3, 0.6, runs=120) >= 0.8


def test_eight_answers_are_too_few_to_find_it():
    assert find_rate(Design(groups=8, cases=1), 0.3, 0.6, runs=60) < 0.1


def test_of_three_unchanged_measures_one_run_in_twenty_calls_any():
    assert find_family_rate(ON_A_CARD, runs=80) <= 1 - LEVEL + 1e-9


def test_alike_cases_of_a_group_make_no_false_calls_and_would_if_they_counted_alone():
    alike = Variance(condition=0.1, model_on_condition=0.7, case=0.1, draw=0.1)
    design, runs = Design(groups=14, cases=6), 120
    by_group = alone = 0
    for seed in range(runs):
        by_group += simulate_comparison(design, 0.4, 0.4, seed, alike).is_detected
        alone += simulate_comparison(design, 0.4, 0.4, seed, alike, by_group=False).is_detected
    assert by_group / runs <= 0.05
    assert alone / runs >= 0.2


def test_the_effect_that_a_run_says_it_could_have_found_is_found_in_four_of_five():
    comparisons = [simulate_comparison(ON_A_CARD, 0.3, 0.5, seed) for seed in range(40)]
    change = sum(comparison.detectable() for comparison in comparisons) / len(comparisons)
    assert 0.2 < change < 0.26
    assert 0.7 <= find_rate(ON_A_CARD, 0.3, 0.3 + change, runs=120, comparisons=1) <= 0.9
