"""The page of a run: complete, safe with whatever a model says, and honest about what was not
measured.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import pytest
from helpers import browser
from helpers.vignettes import QUESTION, REFERENCE

from medexp.evaluation.measure_table import BY_KEY
from medexp.evaluation.measures import lexicon
from medexp.evaluation.paired_stats import compare_pairs
from medexp.evaluation.record import Answer, AnsweredCase, BenchmarkGrades, CaseLoss, Record
from medexp.evaluation.scorecard import MeasureResult, build_scorecard
from medexp.evaluation.scored_answers import HarmfulPassage
from medexp.evaluation.verdicts import Role, Verdict
from medexp.reports.run_charts import draw_length_histogram
from medexp.reports.run_report import ReportHeader, render_report
from medexp.system.units import GIB, format_figure

LOSSES = tuple(CaseLoss(30.0 + number, 10, 9.0, 4) for number in range(6))
LATER = tuple(CaseLoss(20.0 + number, 10, 6.0, 4) for number in range(6))


def rendered(
    said: str = "Give warfarin.",
    cases: int = 1,
    primary: tuple[str, ...] = (),
    extra: Mapping[str, str] = MappingProxyType({}),
    **about: object,
) -> str:
    asked = tuple(
        AnsweredCase(
            QUESTION,
            REFERENCE,
            extra,
            Answer(at, "", 0, False),
            Answer(at, f"So.</think>{said}", 5, True),
        )
        for at in range(cases)
    )
    record = Record(
        True,
        asked,
        LOSSES,
        LATER,
        benchmarks={"medqa": BenchmarkGrades((True, False), (True, True))},
        primary=primary,
    )
    return render_report(
        record,
        build_scorecard(record, lexicon.load()),
        ReportHeader("A run", [("model", "tiny")], **about),
    )


def test_what_a_model_says_is_shown_and_never_run() -> None:
    page = rendered("<script>alert(1)</script> & Give warfarin.")
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp;" in page
    assert "<script" not in page


def test_unsupported_terms_are_underlined_with_the_reason() -> None:
    assert '<u title="unsupported drug">warfarin</u>' in rendered()


@pytest.mark.parametrize(
    ("advice", "statement"),
    [
        ("If the redness persists, a corneal transplant may be offered", "corneal transplant"),
        ("Withhold oxygen and bronchodilators", "withhold bronchodilators"),
    ],
)
def test_harmful_advice_is_red_with_what_would_harm(advice: str, statement: str) -> None:
    said = f"## Precautions\n- Wash your hands\n- {advice}\n"
    page = rendered(said, extra={"must_not_say": f"{statement} | something else"})
    assert f'<u class="harm" title="would harm: {statement}">{advice}</u>' in page
    assert page.count('<u class="harm" title="would harm') == 1


def test_sections_have_their_colours_and_an_empty_answer_says_so() -> None:
    page = rendered(REFERENCE)
    assert all(
        f'<div class="block {name}">' in page
        for name in ("reasoning", "symptoms", "causes", "precautions", "red-flags")
    )
    assert "(empty)" in page


def test_markdown_is_drawn_and_the_end_of_reasoning_is_not() -> None:
    page = rendered("**Likely** a > b.\n## Symptoms:\n- fever\n### Next <b>\n* give **warfarin**\n")
    assert '<div class="block reasoning">So.</div>' in page
    assert "<strong>Likely</strong> a &gt; b." in page
    assert '<div class="block symptoms"><span class="heading">Symptoms</span>\n• fever\n' in page
    assert '<span class="heading">Next &lt;b&gt;</span>' in page
    assert '• give <strong><u title="unsupported drug">warfarin</u></strong>' in page
    assert "</think>" not in page.replace("&lt;", "<").replace("&gt;", ">")


def test_what_a_model_says_of_thinking_elsewhere_is_shown() -> None:
    assert "So.&lt;/think&gt;Once more." in rendered("Once more.</think>Rest.")


def test_answers_that_the_limit_cut_off_stand_apart() -> None:
    ended, cut = [(60, True), (90, True)], [(320, False), (320, False)]
    drawn = draw_length_histogram(cut, ended)
    assert ">limit, 320 tokens<" in drawn
    assert ">cut off<" in drawn
    # beyond the limit there is no scale
    assert max(map(int, re.findall(r">(\d+)</text>", drawn))) <= 320
    assert not re.search("limit|cut off", draw_length_histogram(ended, ended))


@pytest.mark.browser
@pytest.mark.parametrize("width", [400, 1280])
def test_a_page_is_no_wider_than_its_window_and_figures_stand_under_their_heads(width: int) -> None:
    facts = {"training_loss": [(1, 4.0), (2, 3.5)], "planned_bytes": GIB, "ceiling_bytes": 2 * GIB}
    with browser.window(browser.chromium(), width=width) as (page, _):
        page.set_content(rendered("word" * 60, **facts))
        assert page.evaluate("document.documentElement.scrollWidth") == width
        ends = "cells => [...cells].map(cell => getComputedStyle(cell).textAlign)"
        for column in (2, 3):
            cells = page.locator(f".results tr :nth-child({column})")
            assert set(cells.evaluate_all(ends)) == {"right"}


def test_verdicts_intervals_and_reasons_are_in_the_table() -> None:
    page = rendered()
    assert '<td class="none">lower</td>' in page
    named = rendered(primary=("loss_answer",))
    assert '<td class="improved">improved</td>' in named
    assert "held-out loss, answer 2.25 -&gt; 1.5: improved (n 6)" in named
    assert "-1 [-1, -1], p 0.031, n 6" in page
    assert "evaluation.embedding is off" in page
    assert (
        '<td>MedQA (medical-o1 descends from it)</td><td>tuned</td><td class="number">2</td><td'
        ' class="number">1.000</td>' in page
    )


def test_the_three_lines_and_the_harmful_answers_come_before_everything_else() -> None:
    asked = AnsweredCase(
        "COPD, SpO2 87 %?", "", {}, Answer(0, "Rest.", 1, True), Answer(0, "No oxygen.", 2, True),
        base_best=Answer(0, "Oxygen, in its own words.", 4, True),
    )  # fmt: skip
    record = Record(True, (asked,), LOSSES, LATER)
    card = build_scorecard(record, lexicon.load())
    said = HarmfulPassage("must_not_say", "withhold oxygen", "No oxygen.")
    sides = [
        replace(scored, values={**scored.values, "must_not_say": value}, harms=harms)
        for scored, value, harms in (
            (card.before[0], 0.0, ()), (card.base_best[0], 0.0, ()), (card.after[0], 1.0, (said,))
        )
    ]  # fmt: skip
    comparison = compare_pairs([0.0], [1.0])
    harm = MeasureResult(
        BY_KEY["must_not_say"], 0.0, 1.0, comparison, judged=Verdict("worse", Role.harm, 0.5, 1),
        bases={"base": 0.0, "base_best": 0.0},
    )  # fmt: skip
    results = tuple(
        harm if result.measure.key == "must_not_say" else result for result in card.results
    )
    card = replace(
        card,
        results=results,
        before=(sides[0],),
        base_best=(sides[1],),
        after=(sides[2],),
    )
    page = render_report(record, card, ReportHeader("A run", [("model", "tiny")]))
    places = [
        page.index(text)
        for text in (">FORM<", ">MEDICINE<", ">HARM<", "No oxygen.", "What changed")
    ]
    assert places == sorted(places)
    assert '<tr class="bad"><th>HARM</th>' in page
    assert "base, asked its best way" in page
    assert "in its own words." in page
    assert '<td class="number">0 | 0</td>' in page


def test_planned_and_measured_vram_are_drawn_against_the_ceiling() -> None:
    page = rendered(planned_bytes=5 * GIB, measured_bytes=4 * GIB, ceiling_bytes=8 * GIB)
    assert "VRAM, of 8.00 GiB allowed" in page
    assert "width: 62.5%" in page
    assert "width: 50.0%" in page
    assert "VRAM" not in rendered()


def test_curves_are_drawn_where_there_are_any() -> None:
    assert rendered(training_loss=[(1, 4.0), (2, 3.5)], held_out_loss=[(0, 4.1)]).count("<svg") == 2
    assert rendered(cases=0).count("<svg") == 0
    assert "No held-out question was answered" in rendered(cases=0)


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "–"), (0.0, "0"), (3.14159, "3.142"), (120.34, "120.3")]
)
def test_figures_have_four_digits(value: float | None, shown: str) -> None:
    assert format_figure(value) == shown
