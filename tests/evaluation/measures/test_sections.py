"""The structure score on answers written to fool it, and on the shipped references, which all
deserve 1.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medexp.config.shipped import find_conf_dir
from medexp.data.loading import read_records
from medexp.evaluation.measures.sections import (
    SECTIONS,
    find_bare_heading,
    find_section_heading,
    parse_sections,
    score_structure,
)

GOOD = """The picture fits biliary pain.
</think>

## Symptoms
- Colicky right upper pain after fatty food for two hours
## Causes
- Gallstones blocking the cystic duct, risk raised by pregnancy
## Precautions
- Book an ultrasound, keep meals light, take paracetamol when needed
## Red Flags
- Fever with rigors, yellow eyes, or pain beyond six hours
"""


def without(section: str) -> str:
    head, _, rest = GOOD.partition(f"## {section}\n")
    return head + rest.partition("\n")[2]


def test_a_good_answer_is_1():
    assert score_structure(GOOD).score == 1
    assert score_structure(GOOD).sections == SECTIONS


@pytest.mark.parametrize("section", ["Symptoms", "Causes", "Precautions", "Red Flags"])
def test_a_missing_section_costs_a_quarter(section):
    assert score_structure(without(section)).score == 0.75


@pytest.mark.parametrize(
    "style", ["**{}**", "{}:", "### {}", "1. {}", "2) **{}:**", "{}", "- {} -"]
)
def test_headings_are_known_in_every_dress(style):
    text = GOOD
    for name in ("Symptoms", "Causes", "Precautions", "Red Flags"):
        text = text.replace(f"## {name}", style.format(name.upper()))
    assert score_structure(text).score == 1


@pytest.mark.parametrize(
    "style", ["1. **{}**: {}", "### {}: {}", "**{}:** {}", "{}: {}", "- **Possible {}**: {}"]
)
def test_a_section_may_begin_behind_its_heading(style):
    lines = {
        "Symptoms": "Colicky right upper pain after fatty food for two hours",
        "Causes": "Gallstones blocking the cystic duct, risk raised by pregnancy",
        "Precautions": "Book an ultrasound, keep meals light, take paracetamol when needed",
        "Red Flags": "Fever with rigors, yellow eyes, or pain beyond six hours",
    }
    answer = "\n".join(style.format(name, text) for name, text in lines.items())
    assert score_structure(answer).score == 1
    assert [section.lines[0] for section in parse_sections(answer)] == list(lines.values())


def test_other_words_for_the_sections_count():
    text = GOOD.replace("## Symptoms", "## Signs and symptoms").replace(
        "## Red Flags", "## Warning signs"
    )
    assert score_structure(text).score == 1


def test_a_heading_with_text_behind_it_is_not_alone():
    assert find_bare_heading("**Symptoms**:") == "symptoms"
    assert find_bare_heading("**Symptoms**: fever") is None
    assert find_section_heading("**Symptoms**: fever") == "symptoms"


def test_headings_only_are_nothing():
    assert score_structure("## Symptoms\n## Causes\n## Precautions\n## Red Flags\n").score == 0


def test_thin_sections_are_nothing():
    assert (
        score_structure(
            "## Symptoms\n- Pain\n## Causes\n- Stones\n## Precautions\n- Rest\n## Red Flags\n-"
            " Fever\n"
        ).score
        == 0
    )


def test_keyword_stuffing_is_nothing():
    assert (
        score_structure(
            "Symptoms, causes, precautions and red flags: symptoms of causes, red flags of"
            " precautions. " * 5
        ).score
        == 0
    )
    assert (
        score_structure(
            "## Symptoms Causes Precautions Red Flags\nall of them here in one long line of text"
        ).score
        == 0
    )


def test_another_order_costs():
    head, _, rest = GOOD.partition("## Symptoms")
    symptoms, _, others = ("## Symptoms" + rest).partition("## Causes")
    assert score_structure(head + "## Causes" + others + symptoms).score == 0.75


def test_a_repeated_section_costs():
    assert (
        score_structure(
            GOOD + "## Red Flags\n- Fever with rigors, yellow eyes, or pain beyond six hours\n"
        ).score
        == 0.75
    )


def test_a_copied_section_counts_once():
    line = "- Colicky right upper pain after fatty food for two hours\n"
    assert (
        score_structure(
            "".join(
                f"## {name}\n{line}" for name in ("Symptoms", "Causes", "Precautions", "Red Flags")
            )
        ).score
        == 0.25
    )


def test_a_line_said_over_and_over_is_no_substance():
    stutter = "- A stone is a stone that is not a stone\n" * 6
    text = GOOD.replace("- Gallstones", stutter + "- Gallstones")
    assert "causes" not in score_structure(text).sections


def test_reasoning_does_not_count():
    assert score_structure(GOOD.replace("</think>", "") + "</think>\nTake care.").score == 0


def test_every_shipped_reference_is_1():
    records = read_records(find_conf_dir().parent / "medexp" / "data" / "clinical_cases.jsonl")
    low = [
        record["condition"] for record in records if score_structure(record["Response"]).score < 1
    ]
    assert low == []


@given(st.text())
def test_any_text_has_a_score_between_0_and_1(text):
    assert 0 <= score_structure(text).score <= 1
    assert {section.name for section in parse_sections(text)} <= set(SECTIONS)
