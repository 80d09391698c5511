"""Where in a completion the reasoning ends and the answer begins, in tokens: held-out loss is told
apart by part.
"""

from collections.abc import Sequence

from medexp.config.schema import Prompt
from medexp.data.cases import Case
from medexp.data.encoding import EncodedCase, Vocabulary, count_shared_tokens
from medexp.data.prompts import get_completion, render_case

_ANSWER = "{answer}"


def find_answer_starts(
    prompt: Prompt, cases: Sequence[Case], encoded: Sequence[EncodedCase], vocabulary: Vocabulary
) -> list[int]:
    """Return for each case the position in `input_ids` where its answer begins; a token that holds
    the end of the reasoning and the beginning of the answer counts as answer. EOS belongs to the
    answer."""
    return [
        _find_answer_start(prompt, case, encoded_case, vocabulary)
        for case, encoded_case in zip(cases, encoded, strict=True)
    ]


def _find_answer_start(
    prompt: Prompt, case: Case, encoded: EncodedCase, vocabulary: Vocabulary
) -> int:
    template = get_completion(prompt, case)
    behind = len(template) - template.rindex(_ANSWER) - len(_ANSWER)
    completion = render_case(prompt, case).completion
    before = completion[: len(completion) - behind - len(case.answer)]
    whole = encoded.input_ids[encoded.prompt_tokens :]
    return encoded.prompt_tokens + count_shared_tokens(before, whole, vocabulary)
