import pytest
from hypothesis import given
from hypothesis import strategies as st

from medexp.config.schema import Columns
from medexp.data.cases import Case, compute_digest, parse_case, parse_items
from medexp.errors import DataError

COLUMNS = Columns(question="Question", reasoning="Complex_CoT", answer="Response")
NO_REASONING = Columns(question="Question", reasoning=None, answer="Response")
RECORD = {"Question": "Fever?", "Complex_CoT": "Think.", "Response": "Rest."}
TEXTS = st.text(max_size=4)
CASES = st.builds(Case, TEXTS, TEXTS, TEXTS, st.dictionaries(TEXTS, TEXTS, max_size=2))


def test_the_columns_say_what_is_what():
    columns = Columns(question="vignette", reasoning="why", answer="diagnosis")
    case = parse_case({"vignette": "q", "why": "r", "diagnosis": "a"}, columns, "row 1")
    assert case == Case("q", "r", "a")


def test_white_space_around_a_text_is_removed():
    assert parse_case(
        {name: f" \n{text}\t" for name, text in RECORD.items()}, COLUMNS, "row 1"
    ) == Case("Fever?", "Think.", "Rest.")


def test_without_a_reasoning_column_there_is_no_reasoning():
    case = parse_case({"Question": "q", "Response": "a"}, NO_REASONING, "row 1")
    assert case.reasoning == ""


def test_other_columns_are_kept_as_text():
    case = parse_case(RECORD | {"age": 58, "condition": "flu", "ward": None}, COLUMNS, "row 1")
    assert case.extra == {"age": "58", "condition": "flu"}


def test_a_list_is_its_items_between_semicolons():
    case = parse_case(
        RECORD | {"synonyms": ["STEMI", "heart attack"], "codes": [1, 2], "one": ["x"]},
        COLUMNS,
        "row 1",
    )
    assert case.extra == {"synonyms": "STEMI; heart attack", "codes": "1; 2", "one": "x"}


STATEMENTS = ["aspirin 300 mg | chew aspirin", "withhold nitrates; never GTN", "[CT] today", "ä"]


@pytest.mark.parametrize(
    "items",
    [
        STATEMENTS,
        STATEMENTS[:1],
        STATEMENTS[1:2],
        ["a;b"],
        ["first\nline", "x"],
        ["[1]"],
        ["[1", "2]"],
    ],
)
def test_a_list_comes_back_as_it_was(items):
    case = parse_case(RECORD | {"must_say": items}, COLUMNS, "row 1")
    assert parse_items(case.extra["must_say"]) == items
    assert parse_case(RECORD | {"must_say": case.extra["must_say"]}, COLUMNS, "row 1") == case


def test_an_empty_list_has_no_items():
    case = parse_case(RECORD | {"must_say": [], "must_not_say": [None, " "]}, COLUMNS, "row 1")
    assert parse_items(case.extra["must_say"]) == parse_items(case.extra["must_not_say"]) == []


@pytest.mark.parametrize(
    "cell",
    [
        "aspirin | chew aspirin; avoid nitrates",
        "aspirin | chew aspirin\navoid nitrates\n",
        '["aspirin | chew aspirin", "avoid nitrates"]',
    ],
)
def test_a_cell_may_hold_a_list_in_three_ways(cell):
    assert parse_items(cell) == ["aspirin | chew aspirin", "avoid nitrates"]


def test_columns_that_are_only_measured_with_are_no_part_of_a_digest():
    plain = parse_case(RECORD | {"age": 5}, COLUMNS, "row 1")
    measured = parse_case(RECORD | {"age": 5, "must_say": STATEMENTS}, COLUMNS, "row 1")
    assert compute_digest([plain]) == compute_digest([measured])
    assert compute_digest([plain]) != compute_digest([parse_case(RECORD, COLUMNS, "row 1")])


def test_other_columns_do_not_change_the_digest():
    plain, with_list = (
        parse_case(RECORD | extra, COLUMNS, "row 1") for extra in ({}, {"must_say": STATEMENTS})
    )
    assert plain.digest == with_list.digest


MARKED = "<think>\nHot.\n</think>\n\nRest."


@pytest.mark.parametrize("answer", [MARKED, "Hot.</think>Rest.", " <think>Hot.</think> Rest. "])
@pytest.mark.parametrize("blank", [None, "", "  ", float("nan")])
def test_reasoning_in_an_answer_is_told_apart_at_its_marks(answer, blank):
    record = {"Question": "q", "Response": answer}
    assert parse_case(record, NO_REASONING, "row 1") == Case("q", "Hot.", "Rest.")
    assert parse_case(record, COLUMNS, "row 1") == Case("q", "Hot.", "Rest.")
    assert parse_case(record | {"Complex_CoT": blank}, COLUMNS, "row 1") == Case(
        "q", "Hot.", "Rest."
    )


def test_an_answer_beside_a_column_of_reasoning_stays_as_it_is():
    assert parse_case(RECORD | {"Response": MARKED}, COLUMNS, "row 1") == Case(
        "Fever?", "Think.", MARKED
    )


def test_marks_around_a_column_of_reasoning_are_no_part_of_it():
    assert parse_case(
        RECORD | {"Complex_CoT": "<think>\nHot.\n</think>"}, COLUMNS, "row 1"
    ) == Case("Fever?", "Hot.", "Rest.")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("<think>Hot. Rest.", "'Response' holds <think> marks that do not pair"),
        (
            "<think>Hot.</think>Rest.<think>Or?</think>Drink.",
            "'Response' holds <think> marks that do not pair",
        ),
        ("<think>Hot.</think>\n", "'Response' has no answer after </think>"),
    ],
)
def test_marks_that_tell_nothing_apart_name_the_row(answer, said):
    with pytest.raises(DataError, match=f"^row 7: {said}$"):
        parse_case({"Question": "q", "Response": answer}, NO_REASONING, "row 7")


@pytest.mark.parametrize("name", ["Question", "ward"])
@pytest.mark.parametrize(
    ("text", "what"), [("a\0b", "a NUL character"), ("a\udc80", "half a character")]
)
def test_what_is_no_text_names_the_row_whatever_the_column(name, text, what):
    with pytest.raises(DataError, match=f"^row 7: '{name}' holds {what}"):
        parse_case(RECORD | {name: text}, COLUMNS, "row 7")


def test_a_value_nested_too_deeply_to_be_written_names_the_row():
    nested: list = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(DataError, match=r"^row 7: 'more' is nested too deeply$"):
        parse_case(RECORD | {"more": nested}, COLUMNS, "row 7")


@pytest.mark.parametrize("missing", list(RECORD))
def test_a_missing_column_lists_the_columns(missing):
    record = {name: text for name, text in RECORD.items() if name != missing} | {
        missing.lower(): "x"
    }
    with pytest.raises(DataError) as refused:
        parse_case(record, COLUMNS, "row 7 of cases.json")
    said = str(refused.value)
    assert said.startswith(
        f"row 7 of cases.json has no column '{missing}'; it has {', '.join(record)}; did you mean"
        f" {missing.lower()}?"
    )
    assert said.endswith("Name your columns with dataset.columns.question, .reasoning and .answer")


def test_a_missing_column_like_no_other_is_a_whole_sentence():
    with pytest.raises(DataError, match=r"it has x, y\. Name your columns"):
        parse_case({"x": "", "y": ""}, COLUMNS, "row 1")


@pytest.mark.parametrize("name", list(RECORD))
@pytest.mark.parametrize("empty", ["", "  \n\t", "\u2028\u00a0", None, float("nan")])
def test_an_empty_field_names_the_row(name, empty):
    with pytest.raises(DataError, match=f"^row 7: '{name}' is empty$"):
        parse_case(RECORD | {name: empty}, COLUMNS, "row 7")


@pytest.mark.parametrize(
    ("value", "kind"), [(7, "int"), (["a"], "list"), ({"a": 1}, "dict"), (True, "bool")]
)
def test_a_field_that_is_no_text_names_the_row_and_what_it_is(value, kind):
    with pytest.raises(DataError, match=f"^row 7: 'Response' is {kind}, not text$"):
        parse_case(RECORD | {"Response": value}, COLUMNS, "row 7")


def test_half_a_character_names_the_row():
    with pytest.raises(DataError, match=r"^row 7: 'Response' holds half a character"):
        parse_case(RECORD | {"Response": "a\ud83d"}, COLUMNS, "row 7")


@pytest.mark.parametrize("same", ["What now?", "what NOW?", "  What\n\tnow? "])
def test_case_and_white_space_do_not_make_another_question(same):
    assert Case(same, "", "").key == Case("What now?", "", "").key


@pytest.mark.parametrize("other", ["What now", "Whatnow?", "What, now?"])
def test_a_letter_or_a_mark_makes_another_question(other):
    assert Case(other, "", "").key != Case("What now?", "", "").key


@given(st.lists(CASES, max_size=3), st.lists(CASES, max_size=3))
def test_digests_are_equal_exactly_when_the_cases_are(some, others):
    assert (compute_digest(some) == compute_digest(others)) == (some == others)
    assert compute_digest(some) == compute_digest(iter(some))


@pytest.mark.parametrize(
    ("some", "others"),
    [
        ([Case("a", "b", "c")], [Case("a", "bc", "")]),
        ([Case("a\0", "b", "c")], [Case("a", "\0b", "c")]),
        ([Case("a", "b", "c"), Case("d", "e", "f")], [Case("d", "e", "f"), Case("a", "b", "c")]),
        # another split
        ([Case("a", "b", "c", {"condition": "flu"})], [Case("a", "b", "c", {"condition": "cold"})]),
        ([], [Case("", "", "")]),
    ],
)
def test_a_digest_sees_where_texts_end_and_what_is_beside_them(some, others):
    assert compute_digest(some) != compute_digest(others)
