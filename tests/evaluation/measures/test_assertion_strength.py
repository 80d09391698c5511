"""What makes a claim stronger than its evidence, and what takes it back."""

import pytest

from medexp.evaluation.measures.assertion_strength import (
    AUTHORITY,
    find_marks,
    measure_assertion_strength,
)

EVIDENCE = "Blood loss was 20 mL in both groups. Operative time increased."


@pytest.mark.parametrize(
    ("text", "strength"),
    [
        ("", 0),
        ("Blood loss was alike.", 0),
        ("Blood loss was significantly alike.", 1),
        ("Time is longer due to suturing.", 1),
        ("Blood loss is reduced.", 1),
        ("Operative time increases.", 0),
        ("Blood loss may be alike.", -1),
        ("Further studies are needed.", -1),
        ("Blood loss may be significantly reduced.", 1),
        ("It was published in the Journal of Surgery.", 2 * AUTHORITY),
        ("Blood loss is reduced. Blood loss is reduced.", 1),
        ("Blood loss is reduced. Time was alike.", 0.5),
    ],
)
def test_marks_count_and_hedges_count_against_them(text, strength):
    assert measure_assertion_strength(text, EVIDENCE) == strength


def test_the_evidences_own_marks_do_not_count():
    text = "Blood loss fell significantly due to suturing."
    assert [mark.text for mark in find_marks(text, EVIDENCE)] == ["significantly", "due to"]
    assert find_marks(text, text) == []
    assert measure_assertion_strength(text, text) == 0


def test_a_mark_has_its_kind_and_place():
    text = "Chiefly mediated by enzymes, and strongly."
    marks = find_marks(text, "")
    assert [(mark.kind, mark.text) for mark in marks] == [
        ("cause", "mediated by"), ("degree", "strongly")
    ]  # fmt: skip
    assert all(text[mark.start : mark.end] == mark.text for mark in marks)
