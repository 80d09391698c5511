"""Where the answer begins among the tokens, also when a token straddles the border."""

from medexp.config.schema import LossOn, Prompt
from medexp.data.answer_offsets import find_answer_starts
from medexp.data.cases import Case
from medexp.data.encoding import Vocabulary, encode_case

CASE = Case("Why?", "Because.", "Rest.")


def started(prompt: Prompt, vocabulary: Vocabulary, decoded) -> str:
    encoded = encode_case(prompt, CASE, vocabulary, LossOn.completion)
    (start,) = find_answer_starts(prompt, [CASE], [encoded], vocabulary)
    return decoded(encoded.input_ids[start:])


def test_the_answer_begins_after_the_reasoning(prompt, characters, decoded):
    assert started(prompt, characters, decoded) == "Rest.⟩"


def test_without_reasoning_all_of_the_completion_is_answer(characters, decoded):
    assert started(Prompt("direct", "{question}\n", "{answer}"), characters, decoded) == "Rest.⟩"


def test_what_follows_the_answer_belongs_to_it(characters, decoded):
    assert (
        started(Prompt("tail", "{question}\n", "{reasoning} {answer} Bye."), characters, decoded)
        == "Rest. Bye.⟩"
    )


def test_a_token_over_the_border_belongs_to_the_answer(characters):
    pairs = Vocabulary(
        lambda text: [hash(text[at : at + 2]) % 10**6 + 3 for at in range(0, len(text), 2)], None, 2
    )
    prompt = Prompt("odd", "{question}", "{reasoning}{answer}")
    case = Case("Q", "abc", "def")
    encoded = encode_case(prompt, case, pairs, LossOn.completion)
    assert find_answer_starts(prompt, [case], [encoded], pairs) == [encoded.prompt_tokens + 1]
