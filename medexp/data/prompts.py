"""A case as text: what the model is shown, and what it must continue with. One function for
training and for asking. The words are those of a preset, or of the tokenizer's chat template.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medexp.config.schema import Prompt, PromptForm
from medexp.data import think_marks
from medexp.data.cases import Case, Turn, compute_digest
from medexp.data.chat_template import ChatTemplate, prove_template, without_template_error
from medexp.errors import DataError

# by which a chain of thought is told from the answer in what a model says
THINK_END = think_marks.THINK_END
_PLACEHOLDER = re.compile(r"\{(question|reasoning|answer)\}")


class ChatPrompt(Prompt):
    """A prompt of `form=chat` with the chat template that writes its text; see `bind_prompt`."""

    template: ChatTemplate

    @classmethod
    def bind(cls, prompt: Prompt, template: ChatTemplate) -> "ChatPrompt":
        """Return `prompt` in the words of `template`."""
        bound = cls(prompt.name, prompt.question, prompt.completion, prompt.form, prompt.system)
        bound.template = template
        return bound


@dataclass(frozen=True)
class RenderedCase:
    """`prompt` + `completion` is the training text (BOS and EOS are added as tokens, with a chat
    template EOS alone); `prompt` alone is what is asked.
    """

    prompt: str
    completion: str


def bind_prompt(prompt: Prompt, tokenizer: Any) -> Prompt:
    """Return `prompt` as it is written for `tokenizer`: with `form=chat` by its chat template, else
    as it is.

    Raises: ConfigError where the tokenizer has no template, or one that cannot be proven.
    """
    if prompt.form is not PromptForm.chat:
        return prompt
    name = Path(str(tokenizer.name_or_path)).name
    if not tokenizer.chat_template:
        raise without_template_error(name)

    def render(source: str, turns: Sequence[Turn], is_asked: bool) -> str:
        messages = [{"role": turn.role, "content": turn.text} for turn in turns]
        return str(
            tokenizer.apply_chat_template(
                messages, chat_template=source, tokenize=False, add_generation_prompt=is_asked
            )
        )

    own = tokenizer.get_chat_template()
    tokens = [token.content for token in tokenizer.added_tokens_decoder.values()]
    template = prove_template(name, own, render, tokens, prompt.completion, prompt.system)
    return ChatPrompt.bind(prompt, template)


def render_question(prompt: Prompt, question: str, turns: Sequence[Turn] = ()) -> str:
    """Return the text that asks `question`: exactly how the training text of a case with this
    question begins. A chat template asks it as the last of `turns`, where there are any.
    """
    if isinstance(prompt, ChatPrompt):
        return prompt.template.ask(turns or (Turn("user", question),))
    assert prompt.form is not PromptForm.chat, "a chat prompt is bound to a tokenizer first"
    return _fill(prompt.question, {"question": question})


def render_case(prompt: Prompt, case: Case) -> RenderedCase:
    """Return `case` in the words of `prompt`. Placeholders are replaced in one pass, so braces
    inside a case stay as they are.

    Raises: DataError where a chat template refuses its conversation.
    """
    values = {"reasoning": case.reasoning, "answer": case.answer}
    completion = _fill(get_completion(prompt, case), values)
    try:
        return RenderedCase(render_question(prompt, case.question, case.turns), completion)
    except DataError as error:
        raise DataError(f"{case.place or 'a case'}: {error}") from error


def get_completion(prompt: Prompt, case: Case) -> str:
    """Return what `case` continues its question with, {reasoning} and {answer} in their places. A
    chat template leaves the reasoning out where a case has none.
    """
    if isinstance(prompt, ChatPrompt):
        return prompt.template.complete(bool(case.reasoning))
    return prompt.completion


def get_written_text(prompt: Prompt) -> str:
    """Return a text with all that `prompt` writes around a case, whose control tokens act."""
    if isinstance(prompt, ChatPrompt):
        return prompt.template.marks
    return prompt.question + prompt.completion


def digest_cases(prompt: Prompt, cases: Sequence[Case]) -> str:
    """Return what tells `cases` in the words of `prompt` from others. The words of a chat template
    come with the tokenizer and may change while the cases and the config stay as they are.
    """
    digest = compute_digest(cases)
    if not isinstance(prompt, ChatPrompt):
        return digest
    whole = [digest, prompt.template.digest, [case.turns for case in cases]]
    return hashlib.sha256(json.dumps(whole).encode()).hexdigest()[: len(digest)]


def trains_reasoning(prompt: Prompt) -> bool:
    """Return whether a chain of thought is trained with `prompt`."""
    return "{reasoning}" in prompt.completion


def needs_reasoning(prompt: Prompt) -> bool:
    """Return whether every case needs a chain of thought with `prompt`."""
    return trains_reasoning(prompt) and prompt.form is not PromptForm.chat


def closes_reasoning(prompt: Prompt) -> bool:
    """Return whether that chain of thought ends with THINK_END. With markers of its own it cannot
    be told from the answer, and all that a model says counts as the answer."""
    return trains_reasoning(prompt) and THINK_END in prompt.completion


def opens_reasoning(prompt: Prompt) -> bool:
    """Return whether what is said begins within a chain of thought that ends with THINK_END. Where
    a chat template does not open one, the model does, by THINK_START, or answers at once."""
    if isinstance(prompt, ChatPrompt):
        return prompt.template.opens_reasoning
    return closes_reasoning(prompt)


def locate_values(template: str, values: dict[str, str]) -> dict[str, tuple[int, int]]:
    """Return where each value stands in the filled `template`: its first character and the one
    after its last."""
    found, moved = {}, 0
    for match in _PLACEHOLDER.finditer(template):
        value = values.get(match[1], match[0])
        found[match[1]] = (match.start() + moved, match.start() + moved + len(value))
        moved += len(value) - len(match[0])
    return found


def _fill(template: str, values: dict[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), template)
