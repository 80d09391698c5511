"""Questions from outside: Hydra reads back what was typed, and a pipe holds one question or one a
line.
"""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from medexp.chat.question_input import decode_input, parse_questions, quote_question
from medexp.errors import DataError

HOSTILE = st.sampled_from(["\\", "'", '"', "${", "}", "$", ",", "\n", "=", "[", "{x}", "null"])
TYPED = st.lists(st.text(max_size=4) | HOSTILE, min_size=1, max_size=6).map("".join)


def read_back(word: str) -> object:
    """`question` as the command has it, which refers to it from its own group."""
    override = OverridesParser.create().parse_override(word)
    cfg = OmegaConf.create({"question": None, "ask": {"question": "${question}"}})
    OmegaConf.update(cfg, "question", override.value())
    return cfg.ask.question


@given(
    TYPED.filter(
        lambda text: (
            text != "null" and not (len(text) > 1 and text[0] == text[-1] and text[0] in "'\"")
        )
    )
)
def test_a_question_comes_back_letter_by_letter(text: str) -> None:
    assert read_back(quote_question([f"question={text}"])[0]) == text


def test_what_is_quoted_already_and_other_words_stay() -> None:
    words = ["run=last", "question='a, b'", 'question="c"', "question=null", "question="]
    assert quote_question(words) == words
    assert read_back(words[1]) == "a, b"


def test_a_pipe_is_one_question_or_one_a_line() -> None:
    assert parse_questions(" A man,\nof 54?\n") == ["A man,\nof 54?"]
    assert parse_questions('{"question": "a"}\n\n{"question": "b\\nc", "more": 1}\n') == [
        "a",
        "b\nc",
    ]


def test_an_array_is_as_many_questions_as_it_has_items() -> None:
    assert parse_questions('[{"question": "a"},\n "b, c"]\n') == ["a", "b, c"]
    assert parse_questions("[54 M] chest pain, what now?") == ["[54 M] chest pain, what now?"]


def test_brackets_without_end_are_a_question_like_any_other() -> None:
    assert parse_questions("[" * 100_000) == ["[" * 100_000]


def test_what_windows_and_word_processors_write_is_read() -> None:
    lines = '{"question": "a"}\r\n{"question": "b\u2028c\x85d"}\r\n'
    assert (
        parse_questions(decode_input(b"\xef\xbb\xbf" + lines.encode()))
        == parse_questions("\ufeff" + lines)
        == ["a", "b\u2028c\x85d"]
    )


def test_what_is_no_utf_8_is_refused_in_a_sentence() -> None:
    with pytest.raises(DataError, match=r"standard input is not UTF-8 text \(byte 1\); convert it"):
        decode_input("Käse?".encode("latin-1"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"question": "a"}\nnope\n', "line 2 of standard input is no JSON object"),
        ('{"query": "a"}', r'line 1 .*no JSON object with "question" \(it has query\)'),
        ('{"question": 7}', 'line 1 of standard input: "question" is int, and must be text'),
        ('{"question": "a"}\n7', 'line 2 of standard input: "question" is int'),
        ('["a", {"query": "b"}]', "item 2 of standard input is no JSON object"),
        ('["a", null]', 'item 2 of standard input: "question" is NoneType'),
        ('{"question": ' + "[" * 100_000, "line 1 .*it is nested too deeply"),
        ('{"question": "a", "age": ' + "9" * 5000 + "}", "line 1 .*Exceeds the limit"),
        ("[]", "standard input is an empty JSON array"),
        ('{"question": "half \\ud83d"}', "line 1 of standard input holds half a character"),
    ],
)
def test_a_line_that_is_no_question_is_named(text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        parse_questions(text)
