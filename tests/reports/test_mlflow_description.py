"""What a run says about itself in MLflow."""

import pytest

from medexp.config.shipped import find_conf_dir
from medexp.evaluation.measure_table import BY_KEY
from medexp.evaluation.paired_stats import compare_pairs
from medexp.evaluation.scorecard import MeasureResult, Scorecard
from medexp.evaluation.scored_answers import HarmfulPassage, ScoredAnswer
from medexp.evaluation.verdicts import Role, Verdict
from medexp.reports import mlflow_description
from medexp.reports.summary import RunSummary

PAGE, RUN = "#/experiments/1/runs/abc", "abc"


@pytest.fixture
def outcome() -> RunSummary:
    return RunSummary(
        loss_before=4.0, loss_after=3.0, last_loss=3.1, steps=60, tokens=6000, steps_s=20.0,
        elapsed_s=75.0, trainable=4_884_480, peak_bytes=5 * 2**30, ceiling_bytes=6 * 2**30,
        planned_bytes=4 * 2**30,
    )  # fmt: skip


@pytest.fixture
def card() -> Scorecard:
    before, after = [4.0, 4.1, 4.2, 4.0, 4.1, 4.2], [3.0, 3.1, 3.2, 3.1, 3.0, 3.2]
    fell = MeasureResult(BY_KEY["loss_completion"], 4.1, 3.1, compare_pairs(before, after))
    lines = [
        MeasureResult(measure, missing="not asked")
        for key, measure in BY_KEY.items()
        if key != "loss_completion"
    ]
    return Scorecard((fell, *lines), (), ())


def test_the_question_of_a_shipped_experiment_is_its_own() -> None:
    yaml = (find_conf_dir() / "experiment" / "2026-11-22_sections_alone.yaml").read_text()
    assert (
        mlflow_description.extract_question(yaml)
        == "what do the shipped cases alone do, whose answers have the four sections?"
    )


@pytest.mark.parametrize(
    ("yaml", "asked"),
    [
        (
            "# @package _global_\n# Question: which r\n# is best?\n# Result: 8\nlora:\n  r: 8\n",
            "which r is best?",
        ),
        (
            "# Question: s: which lora.r is best?\n#   python -m medexp.train\n",
            "s: which lora.r is best?",
        ),
        ("# Question: why?\nlora:\n  r: 8 # Question: no\n", "why?"),
        ("lora:\n  r: 8\n", ""),
        ("", ""),
    ],
)
def test_a_question_ends_where_its_result_begins(yaml: str, asked: str) -> None:
    assert mlflow_description.extract_question(yaml) == asked


def test_the_verdict_comes_first_then_the_question_and_the_links(
    resolved, outcome: RunSummary, card: Scorecard
) -> None:
    said = mlflow_description.describe_finished_run(
        resolved("hardware=cpu"), "why?", outcome, card, PAGE, RUN
    ).split("\n\n")
    report = "#/experiments/1/runs/abc/artifacts/report.html?workflowType=machine_learning"
    form, medicine, harm = said[0].splitlines()
    # The first line is all that can be clicked before MLflow unfolds a description.
    assert form == f"- **FORM** not measured · [Before and after, side by side]({report})"
    assert medicine.startswith("- **MEDICINE** not measured (diagnosis among eight")
    assert harm == "- **HARM** not measured"
    assert said[1] == "**Question:** why?"
    assert said[2].startswith("- held-out loss, all: 4.1 → 3.1, lower (-1 [")
    assert "\n" not in said[2]  # what was not measured is not listed
    assert "artifacts/config/composed.yaml?workflowType=machine_learning)" in said[3]
    assert (
        "60 steps, 4,884,480 parameters trained, 1 min 15 s, 300 tokens/s, peak 5.00 GiB of VRAM,"
        " 4.00 planned" in said[4]
    )
    assert "    python -m medexp.train experiment=from_run run=abc" in said[5].splitlines()
    assert "Not for clinical use" in said[6]


def test_nothing_is_said_of_what_was_not_asked(
    resolved, outcome: RunSummary, card: Scorecard
) -> None:
    assert "Question" not in mlflow_description.describe_finished_run(
        resolved("hardware=cpu"), "", outcome, card, PAGE, RUN
    )
    assert mlflow_description.describe_started_run(resolved("hardware=cpu"), "").startswith(
        "`smollm2_135m` on `clinical_cases`"
    )


def test_an_evaluation_says_its_verdict_and_no_command(card: Scorecard) -> None:
    said = mlflow_description.describe_evaluation(card, PAGE)
    assert said.startswith(
        "- **FORM** not measured · [Before and after, side by side]"
        "(#/experiments/1/runs/abc/artifacts/"
    )
    assert "python -m" not in said


def test_harm_is_bold_and_its_worst_case_stands_below_the_three_lines(card: Scorecard) -> None:
    measure = BY_KEY["must_not_say"]
    comparison = compare_pairs([0.0] * 4, [0.0, 0.0, 0.0, 1.0])
    judged = Verdict("worse", Role.harm, 0.5, newly_harmful=1)
    harm = MeasureResult(measure, 0.0, 0.25, comparison, judged=judged)
    said = HarmfulPassage("must_not_say", "withhold oxygen", "Do not give oxygen.")
    answers = [ScoredAnswer({"must_not_say": 0.0}, (), ())] * 4
    harmful = ScoredAnswer({"must_not_say": 1.0}, (), (), (said,))
    results = (harm, *(result for result in card.results if result.measure is not measure))
    red = Scorecard(
        results, tuple(answers), (*answers[:3], harmful), questions=("a", "b", "c", "COPD?")
    )
    lines = mlflow_description.describe_evaluation(red, PAGE).splitlines()
    assert lines[2].endswith("**harmful advice 0 → 0.25: worse, 1 case newly harmful**")
    assert lines[3] == '- **new: COPD? -> "Do not give oxygen." (withhold oxygen)**'


def test_a_study_says_its_best_or_that_there_is_none() -> None:
    said = mlflow_description.describe_study(
        ["lora.r"], "r8", {"result/loss_after": 3.25}, {"done": 4, "pruned": 1}, PAGE, "multirun/s"
    )
    assert said.startswith("Best so far: **r8**, result/loss_after **3.25**.")
    assert "which `lora.r` is best?" in said
    assert "4 done, 1 pruned" in said
    assert said.endswith("    python -m medexp.train --config-dir multirun/s experiment=best")
    assert "Best" not in mlflow_description.describe_study(["lora.r"], "", {}, {}, PAGE, "")
