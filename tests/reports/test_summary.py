from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medexp.data.cases import Case
from medexp.evaluation.paired_stats import compare_pairs
from medexp.reports.summary import (
    NOT_FOR_CLINICAL_USE,
    RunSummary,
    build_answer_columns,
    build_summary_rows,
    clip_text,
    run_metrics,
)
from medexp.system.units import GIB

ON_CARD = RunSummary(
    loss_before=2.5,
    loss_after=2.25,
    last_loss=2.0,
    steps=60,
    tokens=120_000,
    steps_s=60.0,
    elapsed_s=185.0,
    trainable=4_884_480,
    peak_bytes=int(4.88 * GIB),
    ceiling_bytes=int(5.25 * GIB),
)
ON_CPU = replace(ON_CARD, peak_bytes=0, ceiling_bytes=0)
NOTHING_LEFT_TO_DO = replace(ON_CARD, tokens=0, steps_s=0.0)  # resumed after its last step


def test_a_falling_loss_is_a_negative_change():
    assert run_metrics(ON_CARD) == {
        "result/loss_before": 2.5,
        "result/loss_after": 2.25,
        "result/loss_change": -0.25,
        "result/elapsed_s": 185.0,
        "result/steps": 60,
        "result/training_s": 60.0,
        "result/tokens_per_s": 2000.0,
    }


def test_without_a_step_there_is_no_speed():
    assert "result/tokens_per_s" not in run_metrics(NOTHING_LEFT_TO_DO)
    assert "speed" not in dict(build_summary_rows(NOTHING_LEFT_TO_DO, "adapter", "run"))


def test_the_summary_has_every_figure_with_its_unit():
    assert dict(build_summary_rows(ON_CARD, "/out/adapter", "abc123")) == {
        "held-out loss": "2.5000 -> 2.2500",
        "training loss, last step": "2.0000",
        "steps": "60, 4,884,480 parameters trained",
        "speed": "2,000 tokens/s over 120,000 tokens",
        "peak VRAM reserved": "4.88 of 5.25 GiB",
        "whole run": "3 min 05 s",
        "adapter": "/out/adapter",
        "MLflow run": "abc123",
    }


def test_a_rising_loss_is_shown_with_its_sign():
    worse = replace(ON_CARD, loss_after=3.0, loss=compare_pairs([2.5] * 8, [3.0] * 8))
    row = dict(build_summary_rows(worse, "", ""))["held-out loss"]
    assert row.startswith("2.5000 -> 3.0000 (+0.500 [+0.500, +0.500], n 8, p 0.0078)")


def test_a_cpu_has_no_peak_vram():
    assert "peak VRAM reserved" not in dict(build_summary_rows(ON_CPU, "", ""))


def test_before_and_after_are_columns_of_equal_length():
    cases = [Case("q1", "r1", "a1"), Case("q2", "r2", "a2")]
    columns = build_answer_columns(cases, ["b1", "b2"], ["t1", "t2"])
    assert columns == {
        "question": ["q1", "q2"],
        "reference": ["a1", "a2"],
        "base": ["b1", "b2"],
        "tuned": ["t1", "t2"],
    }


@pytest.mark.parametrize(
    ("text", "longest", "shown"),
    [
        ("fever and cough", 15, "fever and cough"),
        ("fever and cough", 14, "fever and …"),
        ("fever and cough", 11, "fever and …"),
        ("fever and cough", 10, "fever …"),
        ("fever", 4, "fe …"),
        ("\n" * 20, 6, "\n\n\n\n …"),
    ],
)
def test_long_text_is_cut_at_a_word(text, longest, shown):
    assert clip_text(text, longest) == shown


@given(st.text(alphabet="ab \n", max_size=40), st.integers(3, 40))
def test_clipped_text_is_short_and_begins_as_the_text_does(text, longest):
    shown = clip_text(text, longest)
    assert len(shown) <= longest
    assert text.startswith(shown.removesuffix(" …"))
    assert (shown == text) == (len(text) <= longest)


def test_the_warning_says_that_it_is_not_for_clinical_use():
    assert NOT_FOR_CLINICAL_USE.startswith("Not for clinical use")


def test_answers_are_compared_where_there_are_some():
    built = replace(ON_CARD, structure=compare_pairs([0.0] * 6, [0.75, 1.0, 0.5, 1.0, 0.25, 0.5]))
    assert dict(build_summary_rows(built, "", ""))["four sections"].startswith(
        "0.0000 -> 0.6667 (+0.667 ["
    )
    assert run_metrics(built)["result/structure_paired_change"] == pytest.approx(2 / 3)
    assert not any("structure" in name for name in run_metrics(ON_CARD))
