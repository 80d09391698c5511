"""Accuracy, margin and calibration of a choice, worked out by hand."""

import json
from dataclasses import asdict
from math import exp

import pytest

from medexp.evaluation.measures.forced_choice import (
    LIKELIHOOD_MEASURES,
    DiagnosisScores,
    ItemScores,
    KnowledgeScores,
    Likelihoods,
    measure_calibration_error,
)


def scores(nats, draws):
    return DiagnosisScores("case", "group", tuple("abcd"[: len(nats)]), tuple(nats), draws)


def test_accuracy_and_margin_are_means_over_the_draws():
    found = scores([1.0, 0.0, 3.0, -2.0], ((1, 3), (1, 2)))
    assert found.accuracy == 0.5
    assert found.margin == pytest.approx((1.0 - 2.0) / 2)


def test_a_tie_shares_what_is_won():
    assert scores([1.0, 1.0, 1.0, 0.0], ((1, 2, 3),)).accuracy == pytest.approx(1 / 3)


def test_the_brier_score_is_worst_where_the_wrong_one_is_sure():
    assert scores([50.0, 0.0], ((1,),)).brier == pytest.approx(0)
    assert scores([0.0, 0.0], ((1,),)).brier == pytest.approx(0.5)
    assert scores([-50.0, 0.0], ((1,),)).brier == pytest.approx(2)


def test_the_calibration_error_is_the_gap_between_confidence_and_accuracy():
    sure = exp(2.0) / (exp(2.0) + 1)
    right, wrong = scores([2.0, 0.0], ((1,),)), scores([0.0, 2.0], ((1,),))
    assert measure_calibration_error([right]) == pytest.approx(1 - sure)
    assert measure_calibration_error([wrong]) == pytest.approx(sure)
    assert measure_calibration_error([right, wrong]) == pytest.approx(sure - 0.5)


def test_bins_are_told_apart():
    coin, certain = scores([0.1, 0.0], ((1,),)), scores([-30.0, 0.0], ((1,),))
    assert measure_calibration_error([coin, certain]) == pytest.approx(
        (1 - exp(0.1) / (1 + exp(0.1)) + 1) / 2
    )


def test_a_corruption_does_not_win_by_being_shorter_or_longer():
    uniform = 2.5
    for true, corrupted in ((10, 9), (10, 11)):
        pair = ItemScores("dose", true * uniform, true, corrupted * uniform, corrupted)
        assert pair.preference == 0.5
        assert pair.preference_by_sum == float(corrupted > true)


def test_the_true_item_wins_where_it_costs_less_a_token():
    likelier, unlikelier = ItemScores("drug", 10, 10, 12, 10), ItemScores("drug", 12, 10, 10, 10)
    assert (likelier.preference, unlikelier.preference) == (1, 0)
    assert KnowledgeScores("case", "group", (likelier, unlikelier, likelier)).preference == 2 / 3


def test_likelihoods_come_back_from_json_with_every_digit():
    pair = ItemScores("dose", 10 / 3, 4, 5.0, 5)
    found = Likelihoods(
        (scores([1 / 3, 0.0], ((1,),)),), (KnowledgeScores("other", "group", (pair,)),)
    )
    again = Likelihoods.from_json(json.loads(json.dumps(asdict(found))))
    assert again == found
    values = {key: again.values(key) for key in LIKELIHOOD_MEASURES}
    assert values == {
        "diagnosis_likelihood": {"case": 1.0},
        "diagnosis_margin": {"case": 1 / 3},
        "knowledge_likelihood": {"other": 1.0},
    }
