import pytest

from medexp.data.audit.reasoning_checks import find_reasoning_faults, goes_in_circles
from medexp.data.cases import Case


def test_every_fault_is_counted_by_case():
    good = "The ECG shows it. The pain fits. He smokes. So the artery is blocked."
    circles = "The bruit is a bruit. It is loud. The bruit is a bruit. The bruit is a bruit!"
    found = find_reasoning_faults(
        [Case("1", good, "a"), Case("2", "", "a"), Case("3", good.upper(), "a"),
         Case("4", "It is gout.", "It is gout"),
         Case("5", circles, "a"), Case("6", "—", "a")]
    )  # fmt: skip
    assert (found.empty, found.of_another_case, found.same_as_answer, found.in_circles) == (
        (1, 5),
        (2,),
        (3,),
        (4,),
    )


@pytest.mark.parametrize(
    ("text", "circles"),
    [
        ("One. Two. Three. Four.", False),
        ("One. Two. Three. One.", True),
        ("One. One. One.", False),  # too short to say
        ("One. Two. Three. Four. Five. One.", False),
        ("发热。皮疹。发热。发热。", True),
        ("", False),
    ],
)
def test_circles_are_repeated_sentences(text, circles):
    assert goes_in_circles(text) is circles
