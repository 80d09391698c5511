import pytest

from medexp.evaluation.measures.contrast_pairs import find_twins, mark_pairs_told_apart

ALLERGIC = {"pair": "skin-1", "decisive": "doxycycline | clarithromycin"}
NOT_ALLERGIC = {"pair": "skin-1", "decisive": "flucloxacillin | cephalexin"}


@pytest.mark.parametrize(
    ("allergic", "other", "told_apart"),
    [
        ("Give doxycycline.", "Give flucloxacillin.", 1.0),
        ("Give clarithromycin, no flucloxacillin.", "Start cephalexin.", 1.0),
        # The same answer to both, whatever it says.
        ("Give flucloxacillin.", "Give flucloxacillin.", 0.0),
        ("Give doxycycline.", "Give doxycycline.", 0.0),
        # Both ways named in one answer: nothing was chosen.
        ("Give doxycycline or flucloxacillin.", "Give flucloxacillin.", 0.0),
        ("Give doxycycline.", "Give flucloxacillin, then doxycycline.", 0.0),
        # The wrong way round, and nothing said.
        ("Give flucloxacillin.", "Give doxycycline.", 0.0),
        ("", "", 0.0),
        ("Do not give doxycycline.", "Give flucloxacillin.", 0.0),
        # What is said for another case.
        ("Give doxycycline.", "Flucloxacillin 1 g, or doxycycline if allergic.", 1.0),
        ("Give doxycycline.", "Flucloxacillin. If allergic, doxycycline.", 1.0),
        ("Flucloxacillin, doxycycline if allergic.", "Give flucloxacillin.", 0.0),
        ("Give doxycycline.", "Flucloxacillin\n## Red Flags\n- A rash: doxycycline", 1.0),
        ("Give doxycycline.", "Flucloxacillin\n## Precautions\n- Doxycycline", 0.0),
    ],
)
def test_a_pair_is_told_apart_when_both_answers_say_their_own_and_not_the_others(
    allergic, other, told_apart
):
    marks = mark_pairs_told_apart([allergic, other], [ALLERGIC, NOT_ALLERGIC])
    assert marks == [told_apart, told_apart]


def test_a_case_of_no_pair_and_half_a_pair_have_no_mark():
    extras = [{}, ALLERGIC, {"pair": "skin-2", "decisive": "insulin"}, NOT_ALLERGIC]
    answers = ["Rest.", "Give doxycycline.", "Give insulin.", "Give flucloxacillin."]
    assert mark_pairs_told_apart(answers, extras) == [None, 1.0, None, 1.0]


@pytest.mark.parametrize(
    "extras",
    [
        [ALLERGIC],
        [ALLERGIC, NOT_ALLERGIC, ALLERGIC],
        [ALLERGIC, {"pair": "skin-1"}],
        [ALLERGIC, NOT_ALLERGIC | {"decisive": ""}],
        [ALLERGIC, NOT_ALLERGIC | {"pair": "skin-2"}],
    ],
)
def test_one_three_or_an_unsaid_case_are_no_pair(extras):
    assert find_twins(extras) == {}


def test_twins_are_found_wherever_they_stand():
    assert find_twins([ALLERGIC, {}, {}, NOT_ALLERGIC]) == {0: 3, 3: 0}
