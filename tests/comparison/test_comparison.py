"""What is said of runs side by side: only what differs, what is paired and what is not, and how
sure it is.
"""

import json
import re
from dataclasses import replace

import pytest
from helpers import browser
from helpers.records import evaluated, run
from hypothesis import given
from hypothesis import strategies as st

from medexp.comparison.compare_report import render_comparison
from medexp.comparison.comparison import (
    PAUSE_S,
    Cost,
    RunComparison,
    as_dict,
    find_answers,
    integrate_energy_wh,
)
from medexp.comparison.tables import (
    build_change_rows,
    build_contrast_rows,
    build_cost_rows,
    build_run_rows,
    build_setting_rows,
    caveats,
    describe_shared_settings,
    reading_notes,
    unchanged_measures,
)
from medexp.config.flatten import find_differing_settings, format_value, list_settings
from medexp.system.units import GIB

ALIKE = {
    "model__name": "tiny",
    "lora__alpha": "16",
    "prompt__question": "Q",
    "dataset__name": "cases",
}
GOOD, POOR = evaluated(range(12), nats=10), evaluated(range(12), text="Rest.")


def comparing(*runs: object, caution: str = "") -> RunComparison:
    return RunComparison("Some runs", tuple(runs), caution)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def three() -> RunComparison:
    """A poor run, a good one, and one that failed."""
    return comparing(
        run("A", POOR, Cost(elapsed_s=61.0, steps=60, loss_after=3.2), lora__r="8", **ALIKE),
        run(
            "B",
            GOOD,
            Cost(elapsed_s=30.0, tokens_per_s=360.2, trained=4884480),
            lora__r="16",
            **ALIKE,
        ),
        run(
            "C",
            None,
            missing="failed before its answers were stored (VramCeilingError: ...)",
            lora__r="16",
            **ALIKE,
        ),
    )


def test_only_what_differs_is_in_the_table_and_the_rest_in_a_line(three: RunComparison) -> None:
    assert build_setting_rows(three) == ([("lora.r", "8", "16", "16")], [])
    assert (
        describe_shared_settings(three)
        == "All: tiny fine-tuned, on cases; 4 settings are the same in all, different: 1."
    )


def test_what_goes_with_another_name_is_told_apart() -> None:
    found = comparing(
        run("A", GOOD, model__name="small", model__shape__layers="2", lora__r="8"),
        run("B", GOOD, model__name="large", model__shape__layers="30", lora__r="8"),
        run("C", GOOD),
    )
    assert build_setting_rows(found) == (
        [("model.name", "small", "large", "–")],
        ["model.shape.layers"],
    )
    assert "rank 8" in describe_shared_settings(found)
    assert describe_shared_settings(comparing(run("A", GOOD), run("B", GOOD))).startswith(
        "Fewer than two of these runs have kept their config"
    )
    assert build_setting_rows(comparing(run("A", GOOD), run("B", GOOD))) == ([], [])


def test_a_setting_that_an_older_run_has_not_heard_of_is_no_news_while_it_is_off() -> None:
    newer = run("A", GOOD, hardware__tile_mlp="false", hardware__replan="2", lora__r="8")
    assert build_setting_rows(comparing(newer, run("B", GOOD, lora__r="8"))) == (
        [("hardware.replan", "2", "–")],
        ["hardware.tile_mlp"],
    )


def test_what_has_no_pair_has_no_row() -> None:
    found = comparing(run("A", evaluated([1])), run("B", evaluated([2])))
    assert build_contrast_rows(found, found.measures) == []


def test_long_settings_are_cut_and_missing_ones_shown() -> None:
    found = comparing(run("A", GOOD, prompt__question="word " * 30), run("B", GOOD, lora__r="1"))
    rows, _ = build_setting_rows(found)
    assert [len(row[1]) for row in rows] == [60, 1]
    assert rows[1] == ("lora.r", "–", "1")


def test_the_first_evaluated_run_is_the_reference(three: RunComparison) -> None:
    assert three.reference is three.runs[0]
    assert [each.run.label for each in three.against_reference] == ["B"]
    assert comparing(three.runs[2], *three.runs[:2]).reference is three.runs[0]
    alone = comparing(three.runs[2], three.runs[0])
    assert (alone.reference, alone.against_reference, alone.num_comparisons) == (None, (), 0)


def test_every_run_has_its_row(three: RunComparison) -> None:
    assert build_run_rows(three)[1] == (
        "B",
        "run B",
        "finished",
        "12 held out, 12 answered",
        "id-B",
    )
    assert build_run_rows(three)[2][3].startswith("failed before")
    folder = replace(three.runs[0], run_id=None)
    assert build_run_rows(comparing(folder))[0][4] == "asked-A"


def test_changes_and_contrasts_are_in_rows_by_measure(three: RunComparison) -> None:
    wanted = [each for each in three.measures if each.key in ("loss_answer", "structure")]
    changes = build_change_rows(three, wanted)
    assert [row[:4] for row in changes] == [
        ("held-out loss, answer", "A", "0.75 -> 0.5", "improved"),
        ("", "B", "0.75 -> 0.25", "improved"),
        ("four sections (0 to 1)", "A", "0 -> 0", "no detectable change"),
        ("", "B", "0 -> 1", "improved"),
    ]
    rows = build_contrast_rows(three, wanted)
    assert rows[0][:5] == (
        "held-out loss, answer",
        "B",
        "0.5 | 0.25",
        "better",
        "-0.25 [-0.25, -0.25]",
    )
    assert rows[0][5].startswith("0.00049 | 0.00")
    assert rows[1][:2] == ("four sections (0 to 1)", "B")


def test_measures_without_news_are_told_apart(three: RunComparison) -> None:
    without_news = {each.key for each in unchanged_measures(three)}
    assert "contradictions" in without_news
    assert not without_news & {"loss_answer", "structure", "words"}
    same = comparing(run("A", POOR), run("B", POOR))
    assert "red_flag_recall" in {each.key for each in unchanged_measures(same)}
    # these are always shown
    assert not {"loss_answer", "structure"} & {each.key for each in unchanged_measures(same)}


def test_a_run_that_cannot_be_compared_says_why(three: RunComparison) -> None:
    assert caveats(three) == ["C: failed before its answers were stored (VramCeilingError: ...)"]
    alone = caveats(comparing(three.runs[0], three.runs[2]))
    assert alone[-1].startswith("Nothing is compared case by case: fewer than two")
    assert caveats(comparing(*three.runs[:2], caution="Chosen."))[-1] == "Chosen."


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (
            evaluated([8, 9]),
            "B against A: other held-out cases (2 and 8, none in common): no loss is paired.",
        ),
        (evaluated(range(4)), "B against A: 4 and 8 held-out cases, the 4 in common are paired."),
        (
            evaluated(range(4)),
            "B against A: 4 and 8 answered questions, the 4 in common are paired.",
        ),
        (
            evaluated(answers=4),
            "B against A: 4 and 8 answered questions, the 4 in common are paired.",
        ),
        (
            evaluated(answers=0, cases=[1]),
            "B: no question was answered (evaluation.answers=0); compared by losses alone.",
        ),
        (
            evaluated(range(9), digests=False),
            (
                "B against A: a record is older than the digests of held-out cases, and the counts"
                " of labelled tokens are not the same (9 cases, 8): no loss is paired."
            ),
        ),
    ],
)
def test_what_is_paired_only_in_part_is_said(other: object, sentence: str) -> None:
    assert sentence in caveats(comparing(run("A", evaluated()), run("B", other)))  # type: ignore[arg-type]


def test_more_than_another_adapter_is_said() -> None:
    mine, yours = evaluated(), evaluated()
    longer = tuple(replace(loss, tokens=loss.tokens + 1) for loss in yours.record.tuned_losses)
    yours = replace(yours, record=replace(yours.record, tuned_losses=longer))
    (said_of,) = caveats(
        comparing(
            run("A", mine, prompt__question="Q", model__name="a", prompt__name="p"),
            run("B", yours, prompt__question="Which?", model__name="b", prompt__name="p"),
        )
    )
    assert said_of.startswith(
        "B against A: another model and another prompt; what is compared is that too, not the"
        " adapter alone."
    )
    assert said_of.endswith("Losses are not paired: the labelled tokens differ.")
    assert (
        caveats(comparing(run("A", mine, model__name="a"), run("B", mine, model__name="a"))) == []
    )


def test_so_many_comparisons_are_spoken_of(three: RunComparison) -> None:
    own, corrected = reading_notes(three)
    assert "Only primary measures (evaluation.primary)" in own
    assert len(three.primary_contrasts) == 2
    assert "Holm's correction for all 2 comparisons in primary measures" in corrected
    few = comparing(run("A", evaluated(range(3))), run("B", evaluated(range(3))))
    assert re.search(
        r"on its own with 7 groups or more; some here have 3\.", reading_notes(few)[-1]
    )
    assert len(reading_notes(comparing(three.runs[0], three.runs[2]))) == 1


def test_costs_are_shown_where_any_run_has_them(three: RunComparison) -> None:
    assert build_cost_rows(three) == [
        ("held-out loss, after", "3.2", "–", "–"),
        ("steps", "60", "–", "–"),
        ("parameters trained", "–", "4,884,480", "–"),
        ("tokens/s", "–", "360", "–"),
        ("whole run", "1 min 01 s", "30 s", "–"),
    ]
    card = Cost(
        planned_bytes=5 * GIB,
        measured_bytes=4 * GIB,
        ceiling_bytes=8 * GIB,
        energy_wh=12.34,
        loss_before=4.0,
    )
    assert build_cost_rows(comparing(run("A", None, card))) == [
        ("held-out loss, before", "4"),
        ("GiB of VRAM planned", "5.00"),
        ("GiB of VRAM measured", "4.00"),
        ("GiB of VRAM allowed", "8.00"),
        ("GPU energy, Wh", "12.3"),
    ]


def test_energy_is_the_area_under_the_power() -> None:
    assert integrate_energy_wh([(0.0, 100.0), (36.0, 100.0), (72.0, 300.0)]) == pytest.approx(
        (36 * 100 + 36 * 200) / 3600
    )
    assert integrate_energy_wh([(0.0, 100.0)]) is None
    assert integrate_energy_wh([]) is None


@given(
    st.lists(st.tuples(st.floats(1, PAUSE_S * 0.99), st.floats(0, 700)), min_size=2, max_size=12),
    st.floats(PAUSE_S * 1.01, 1e5),
)
def test_a_pause_costs_nothing(samples: list[tuple[float, float]], pause: float) -> None:
    now, timed = 0.0, []
    for length, watt in samples:
        now += length
        timed.append((now, watt))
    later = [(second + now + pause, watt) for second, watt in timed]
    once, twice = integrate_energy_wh(timed), integrate_energy_wh([*timed, *later])
    assert once is not None
    assert twice == pytest.approx(2 * once)


def test_plain_values_are_json_and_name_every_run(three: RunComparison) -> None:
    found = json.loads(json.dumps(as_dict(three), allow_nan=False))
    assert [each["label"] for each in found["runs"]] == ["A", "B", "C"]
    assert found["reference"] == "A"
    assert found["settings"] == {"lora.r": {"A": "8", "B": "16", "C": "16"}}
    assert found["runs"][0]["measures"]["loss_answer"]["after"] == 0.5
    (against,) = found["against_reference"]
    assert against["measures"]["loss_answer"] | {"p": 0, "adjusted_p": 0} == {
        "verdict": "better", "reference": 0.5, "run": 0.25, "change": -0.25, "low": -0.25,
        "high": -0.25, "p": 0, "pairs": 12, "groups": 12, "adjusted_p": 0,
    }  # fmt: skip
    assert against["measures"]["condition_named"]["verdict"] == "not compared"
    assert against["shared_cases"] == {
        "held_out": [12, 12, 12],
        "answered": [12, 12, 12],
        "is_known": True,
    }
    assert as_dict(comparing(three.runs[0], three.runs[2]))["reference"] is None


def test_answers_are_found_by_question(three: RunComparison) -> None:
    first = three.answered_questions[0]
    each = find_answers(three.runs[1], first.places[1])
    assert each is not None
    assert each.figures == (
        "0.00 for its sections, 0 unsupported",
        "1.00 for its sections, 0 unsupported",
    )
    assert find_answers(three.runs[2], None) is None


def test_what_all_have_answered_comes_first() -> None:
    mine, yours = evaluated(range(6)), evaluated((7, 3, 1))
    found = comparing(run("A", mine), run("B", yours))
    assert [each.places for each in found.answered_questions] == [
        (1, 2),
        (3, 1),
        (0, None),
        (2, None),
        (4, None),
        (5, None),
        (None, 0),
    ]


def test_the_strips_of_a_measure_have_one_scale_and_say_which_side_is_better(
    three: RunComparison,
) -> None:
    found = comparing(*three.runs[:2], run("D", evaluated(range(12), nats=15)))
    page = render_comparison(found, "")
    (row,) = re.findall(r"<tr><td>held-out loss, answer<div.*?</tr>", page, re.DOTALL)
    assert '<div class="small">better: left</div>' in row
    ends = re.findall(
        r'<span class="small">(-0\.26)</span><svg class="forest".*?</svg><span'
        r' class="small">(\+0\.26)</span>',
        row,
    )
    assert len(ends) == 2  # of B and of D, whose interval is half as far out
    middles = [float(each) for each in re.findall(r'<line x1="([\d.]+)" x2="\1" y1="3"', row)]
    assert [50 - each for each in middles] == [48, 24]
    assert re.search(r"<td>four sections \(0 to 1\)<div class=\"small\">better: right</div>", page)
    assert "<td>words in the answer</td>" in page  # of which neither side is better


@pytest.mark.browser
def test_the_page_is_no_wider_than_a_phone(three: RunComparison) -> None:
    with browser.window(browser.chromium(), width=400) as (page, _):
        page.set_content(render_comparison(three, ""))
        assert page.evaluate("document.documentElement.scrollWidth") == 400


def test_the_page_stands_alone_and_shows_it_all(three: RunComparison) -> None:
    page = render_comparison(three, "http://127.0.0.1:5000/")
    assert not re.search(r"<script|src=|@import|<link|url\(", page)
    assert page.count('class="case"') == 12
    assert '<a href="http://127.0.0.1:5000/#/experiments/1/runs/id-A">id-A</a>' in page
    assert '<span class="better">better</span>' in page
    assert page.count('<svg class="forest"') == sum(
        each.comparison is not None and (each.comparison.low != 0 or each.comparison.high != 0)
        for against in three.against_reference for each in against.contrasts
    )  # fmt: skip
    assert "C: failed before its answers were stored" in page
    assert "Not asked: C." in page


def test_the_page_draws_vram_and_folds_what_goes_with_a_name() -> None:
    cost = Cost(planned_bytes=4 * GIB, measured_bytes=2 * GIB, ceiling_bytes=8 * GIB)
    page = render_comparison(
        comparing(
            run("A", None, cost, missing="x", model__name="a", model__licence="<b>"),
            replace(
                run("B", None, missing="y", model__name="b", model__licence="c"),
                run_id=None,
                page="",
            ),
        ),
        "",
    )
    assert "VRAM, of 8.00 GiB allowed" in page
    assert "width: 50.0%" in page
    assert (
        "also different, but only because of the settings above, or for features that are off: 1"
        in page
    )
    assert "&lt;b&gt;" in page
    assert "<td>asked-B</td>" in page.replace("\n", "")
    assert "No held-out question was answered in any of these runs" in page


def test_what_a_model_says_is_shown_and_never_run() -> None:
    bad = evaluated([1], text="<script>alert(1)</script>")
    assert "<script" not in render_comparison(comparing(run("A", bad), run("B", bad)), "")


@given(
    st.lists(
        st.dictionaries(st.sampled_from("abcd"), st.sampled_from("xyz")), min_size=2, max_size=5
    )
)
def test_settings_differ_exactly_where_the_runs_do(runs: list[dict[str, str]]) -> None:
    found = find_differing_settings(runs)
    for name in {name for each in runs for name in each}:
        values = [each.get(name) for each in runs]
        assert (name in found) == (len(set(values)) > 1)
        assert found.get(name, values) == values


def test_settings_are_written_as_on_the_command_line() -> None:
    groups = {
        "lora": {
            "r": 8,
            "dropout": 0.0,
            "target_modules": ["q_proj", "v_proj"],
            "start_from": None,
            "dora": True,
        },
        "tracking": {"root": "x"},
        "dataset": {"mixture": [{"use": "medical_o1"}]},
        "sweep": {"n_trials": 3},
        "training": {"resume": "auto", "learning_rate": 0.0005},
    }
    assert list_settings(groups) == {
        "lora.r": "8", "lora.dropout": "0.0", "lora.target_modules": "[q_proj, v_proj]",
        "lora.start_from": "null", "lora.dora": "true", "dataset.mixture.0.use": "medical_o1",
        "training.learning_rate": "0.0005",
    }  # fmt: skip
    assert format_value([None, False, 1]) == "[null, false, 1]"


def test_a_fraction_has_the_digits_that_tell_it_from_the_others():
    rates = ["0.0016384312345678901", "0.0023849182374981", "2e-05", "0.004"]
    labels = "ABCD"
    found = comparing(
        *(
            run(label, GOOD, training__learning_rate=rate)
            for label, rate in zip(labels, rates, strict=True)
        )
    )
    assert build_setting_rows(found)[0] == [
        ("training.learning_rate", "0.001638", "0.002385", "2e-05", "0.004")
    ]
    near = comparing(
        *(run(label, GOOD, training__learning_rate=f"0.00163843{label}123") for label in "12")
    )
    assert build_setting_rows(near)[0] == [("training.learning_rate", "0.001638431", "0.001638432")]
    same = comparing(*(run(label, GOOD, training__learning_rate=rates[0]) for label in labels))
    assert "learning rate 0.001638;" in describe_shared_settings(
        same
    ) or "learning rate 0.001638," in describe_shared_settings(same)
    # programs get all of it
    assert as_dict(found)["settings"]["training.learning_rate"]["A"] == rates[0]
