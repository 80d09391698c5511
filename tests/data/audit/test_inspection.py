"""The audit's findings and rules, each broken by cases made for it; with the tiny vocabulary of a
token a character.
"""

import json
from dataclasses import replace

import pytest

from medexp.config.schema import LossOn, Overlong, Prompt
from medexp.data.audit.inspection import (
    Inspection,
    describe_missing_columns,
    inspect,
    summarize_lengths,
)
from medexp.data.case_counts import count_cases
from medexp.data.cases import Case
from medexp.data.encoding import EncodedCases, encode_cases
from medexp.data.split import Split
from medexp.data.token_roles import TokenizedText, list_texts

WORDS = [
    "fever",
    "cough",
    "rash",
    "pain",
    "pallor",
    "syncope",
    "vertigo",
    "nausea",
    "oedema",
    "jaundice",
    "tremor",
    "ataxia",
]
TRAIN = [
    Case(
        f"A patient of {age} years has {first} and {second}; what is it?",
        f"{first} with {second} at {age}.",
        f"Answer {age}.",
    )
    for age, (first, second) in enumerate([(a, b) for a in WORDS for b in WORDS if a != b], 20)
]
HELD_OUT = [
    Case(
        "Why does the knee of this old sailor swell every spring, and what would you do now?",
        "Crystals.",
        "Gout.",
    )
]


@pytest.fixture
def inspected(prompt, characters):
    """inspected(train, held_out, limit=..., loss_on=..., benchmarks=...)"""

    def made(
        train: list[Case],
        held_out: list[Case] = HELD_OUT,
        limit: int = 1000,
        loss_on: LossOn = LossOn.completion,
        overlong: Overlong = Overlong.drop,
        **benchmarks: list[str],
    ) -> Inspection:
        sides = [
            encode_cases(prompt, side, characters, limit, overlong, loss_on)
            for side in (train, held_out)
        ]
        seen = count_cases(
            Split(tuple(train), tuple(held_out), len(train) + len(held_out), 0), *sides
        )
        pairs = {name: [(text, text) for text in texts] for name, texts in benchmarks.items()}
        return inspect(prompt, seen, limit, *sides, _spelled(prompt, sides[0]), pairs)

    return made


def _spelled(prompt: Prompt, side: EncodedCases) -> dict[str, TokenizedText]:
    return {
        text: TokenizedText([0] * len(text), range(1, len(text) + 1))
        for text in list_texts(prompt, side.cases)
    }


def test_sound_cases_break_no_rule(inspected):
    seen = inspected(TRAIN)
    assert seen.broken == ()
    assert (len(seen.repeats), len(seen.leaks), len(seen.near_held_out)) == (0, 0, 0)


def test_a_large_group_that_is_held_out_whole_is_said(inspected):
    seen = inspected(TRAIN)
    for wanted, count in ((0, 0), (1, 0)):
        assert len(replace(seen, audit=replace(seen.audit, held_out_wanted=wanted)).broken) == count
    large = replace(
        seen.audit,
        held_out=replace(seen.audit.held_out, kept=38, dropped_overlong=2),
        held_out_wanted=16,
    )
    (rule,) = replace(seen, audit=large).broken
    assert rule.startswith(
        "40 cases are held out and dataset.held_out=16 were asked for: groups are held out whole"
    )


def test_lengths_and_labels_are_counted_by_part(inspected):
    seen = inspected(TRAIN[:3])
    assert seen.lengths["question"].longest == max(len(case.question) for case in TRAIN[:3])
    assert seen.lengths["reasoning"].median == sorted(len(case.reasoning) for case in TRAIN[:3])[1]
    assert seen.label_tokens == {
        "reasoning": sum(len(case.reasoning) for case in TRAIN[:3]),
        "answer": sum(len(case.answer) for case in TRAIN[:3]),
        "marks": 3 * len("\n</think>\n\n"),
        "EOS": 3,
    }


def test_the_prompt_is_among_the_labels_only_with_loss_on_all(inspected):
    assert "question" not in inspected(TRAIN[:3]).label_tokens
    assert "question" in inspected(TRAIN[:3], loss_on=LossOn.all).label_tokens


def test_three_cases_are_shown_by_length(inspected):
    shown = [sum(piece.tokens for piece in each) for each in inspected(TRAIN).previews]
    assert shown == sorted(shown)
    assert len(shown) == 3
    assert len(inspected(TRAIN[:1]).previews) == 1


LONG_RUN = "the knee of this old sailor swell every spring, and what would you do"
BROKEN = {
    "a held-out question": (
        [Case(HELD_OUT[0].question.upper(), "Because it is so.", "a")],
        "share a question or 13 words",
    ),
    "13 words of one": (
        [Case("Another question altogether?", f"I read: {LONG_RUN}.", "a")],
        "share a question or 13 words",
    ),
    "nearly a held-out question": (
        [Case(HELD_OUT[0].question.replace("sailor", "farmer"), "Because it is so.", "a")],
        "1 training questions nearly repeat a held-out one",
    ),
    "near duplicates": (
        [
            replace(case, question=case.question + " Now?", reasoning=case.question)
            for case in TRAIN[:9]
        ],
        "9 of 141 training cases that nearly repeat another one: 6.4 %, allowed is 2 %",
    ),
    "no reasoning": (
        [Case("Is there nothing to think about here?", "", "a")],
        "1 training cases have no reasoning",
    ),
    "circles": (
        [
            Case(f"Question {word}?", f"It is {word}. Well. It is {word}. Yes.", word)
            for word in WORDS
        ],
        "12 of 144 training cases whose reasoning is copied or repetitive: 8.3 %, allowed is 1 %",
    ),
    "another language": (
        [
            Case(
                f"一名{year}岁男性患者因胸痛就诊, 最可能的诊断是什么?",
                f"心电图{year}.",
                "心肌梗死。立即治疗。",
            )
            for year in range(30, 36)
        ],
        "6 of 138 training cases in another language than en: 4.3 %, allowed is 2 %",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_rule_is_broken_by_its_own_cases(inspected, name):
    added, said = BROKEN[name]
    assert any(said in rule for rule in inspected(TRAIN + added).broken), inspected(
        TRAIN + added
    ).broken


def test_a_benchmark_s_question_in_the_training_cases_is_found(inspected):
    seen = inspected(TRAIN, medqa=["Something else?", TRAIN[7].question])
    assert [(leak.question, leak.measured, leak.same_question) for leak in seen.leaks] == [
        (TRAIN[7].question, "medqa, number 2", True)
    ]
    assert seen.measured == ["held-out cases", "medqa"]


@pytest.mark.parametrize(
    ("overlong", "said"),
    [(Overlong.drop, "dropped for length"), (Overlong.trim_reasoning, "with shortened reasoning")],
)
def test_what_length_costs_is_a_rule(inspected, overlong, said):
    long = [
        Case(f"Is it {word}?", f"{word} first. " + f"Then {word} again {'and ' * 60}.", "a")
        for word in WORDS * 6
    ]
    assert any(
        said in rule for rule in inspected(TRAIN + long, limit=240, overlong=overlong).broken
    )


def test_without_a_prompt_that_reasons_empty_reasoning_is_no_fault(inspected):
    seen = inspected([replace(case, reasoning="") for case in TRAIN])
    assert any("no reasoning" in rule for rule in seen.broken)
    assert not any("no reasoning" in rule for rule in replace(seen, reasons=False).broken)


def test_a_label_without_eos_is_a_fault(inspected):
    assert any(
        "EOS is not among their labels" in rule
        for rule in replace(inspected(TRAIN), without_eos=2).broken
    )


def test_the_json_holds_counts_and_few_examples(inspected):
    copies = [replace(case, question=case.question + " Now?") for case in TRAIN[:40]]
    values = json.loads(json.dumps(inspected(TRAIN + copies).as_dict()))
    assert values["train"]["kept"] == len(TRAIN) + 40
    assert values["near_duplicates"]["count"] == 40
    assert len(values["near_duplicates"]["examples"]) == 20
    assert values["broken_rules"]


@pytest.mark.parametrize(
    ("tokens", "width"), [([1], 1), ([23], 1), ([24], 2), ([527, 3], 50), ([2047], 100)]
)
def test_a_histogram_holds_every_case_once(tokens, width):
    lengths = summarize_lengths(tokens)
    assert (lengths.width, sum(lengths.bins), lengths.longest) == (width, len(tokens), max(tokens))
    assert lengths.bins[-1] > 0


@pytest.mark.parametrize("word", ["None", "N/A", "nan", "NULL", "-", "#N/A"])
def test_a_word_for_a_missing_value_is_found_on_both_sides(inspected, word):
    train = [replace(TRAIN[0], answer=word, place="row 3 of a.csv"), *TRAIN[1:30]]
    (rule,) = inspected(train, [replace(HELD_OUT[0], reasoning=word)]).broken
    assert rule.startswith(
        f"2 cases have a word for a missing value as answer or reasoning ({word} in row 3 of a.csv,"
        f" {word} in "
    )


def test_columns_that_some_cases_lack_are_named(inspected):
    full = {"must_say": "gout", "must_not_say": '["stop allopurinol"]'}
    train = [replace(case, extra=full) for case in TRAIN[:30]]
    train[3] = replace(
        train[3], extra={"must_say": " ", "must_not_say": "x"}, place="row 4 of a.csv"
    )
    seen = inspected(train, [replace(HELD_OUT[0], extra={"must_say": "gout"}, place="row 31")])
    assert describe_missing_columns(seen) == (
        "must_say in 1 (row 4 of a.csv); must_not_say in 1 (row 31)"
    )
    assert seen.as_dict()["missing_columns"] == {
        "must_say": {"count": 1, "places": ["row 4 of a.csv"]},
        "must_not_say": {"count": 1, "places": ["row 31"]},
    }
    # A case without them is not measured; it is no fault.
    assert seen.broken == ()


def test_columns_that_no_case_has_are_not_missed(inspected):
    assert describe_missing_columns(inspected(TRAIN[:30])) == ""


def test_a_short_answer_is_no_missing_value(inspected):
    assert (
        inspected(
            [
                replace(TRAIN[0], answer="None is needed."),
                replace(TRAIN[1], answer="No"),
                *TRAIN[2:30],
            ]
        ).missing_values
        == []
    )
