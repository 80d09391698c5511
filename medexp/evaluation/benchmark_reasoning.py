"""Multiple-choice questions answered in the run's own words: asked with its prompt, its chain of
thought written out, and the option read from the answer.

lm-eval's likelihood of a letter (`benchmarks`) says which option a model leans to before it thinks;
this says where its reasoning arrives. An answer that names no option counts as wrong, so a model
that does not end within `max_new_tokens` scores low here for that alone; how many these were is
counted.

The option of an answer is, where the prompt closes its reasoning, read behind `</think>` alone: the
last of "answer is C", "option C", "Answer: C" or \\boxed{C}; else the only letter that begins a
line as an option does; else the only option whose words stand in the answer.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medexp.config.schema import Prompt
from medexp.data.encoding import Vocabulary, encode_prompt
from medexp.data.prompts import THINK_END, opens_reasoning, render_question
from medexp.evaluation import generation
from medexp.evaluation.benchmark_questions import DECISIONS, ChoiceQuestion
from medexp.evaluation.measures.words import extract_answer
from medexp.models.adapter_model import AdapterModel

_OPENING = "Question: "
_CLOSING = "Answer:"
# The words of a verdict in any case; a letter counts as a capital alone, because "the answer is a
# virus" names no option.
_NAMED = (
    r"(?i:\b(?:answer|option|choice|choose|select)\b[*_ ]*(?:is|are|would be|:|-)?[*_ ]*"
    r"(?:(?:option|choice|letter)\b)?[*_ ]*[(\[]?)(?P<named>CHOICES)\b(?!['’])"
    r"|\\boxed\{(?:\\text\{)?(?P<boxed>CHOICES)\b"
)
_OPTION_LINE = re.compile(r"^([A-J])\. (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class ReasonedGrades:
    """Which questions were answered right, and how many answers name no option."""

    right: tuple[bool, ...]
    without_option: int


def answer_questions(
    model: AdapterModel,
    prompt: Prompt,
    questions: Sequence[ChoiceQuestion],
    vocabulary: Vocabulary,
    max_new_tokens: int,
    fits: Callable[[int, int], bool],
    answers_file: Path,
    base: bool,
    advance: Callable[[int], None],
) -> ReasonedGrades:
    """Return what the base (`base`), or the model with its adapter, makes of `questions`.

    Arguments are as in `generation.generate_answers`: answers already in `answers_file` are not
    made again.
    """
    prompts = [
        encode_prompt(render_question(prompt, write_question(question)), vocabulary)
        for question in questions
    ]
    answers = generation.generate_answers(
        model, prompts, max_new_tokens, fits, answers_file, base, advance
    )
    chosen = [
        read_choice(answer.text, question, opens_reasoning(prompt))
        for answer, question in zip(answers, questions, strict=True)
    ]
    right = tuple(
        choice == question.choices[question.right]
        for choice, question in zip(chosen, questions, strict=True)
    )
    return ReasonedGrades(right, sum(choice is None for choice in chosen))


def write_question(question: ChoiceQuestion) -> str:
    """Return `question` as a user would put it, with its options and what is to be answered."""
    text = question.prompt.removeprefix(_OPENING).removesuffix(_CLOSING).rstrip()
    if question.choices == DECISIONS:
        return f"{text}\n\nAnswer with yes, no or maybe."
    return f'{text}\n\nWhich option is right? End with "The answer is" and its letter.'


def read_choice(answer: str, question: ChoiceQuestion, reasons: bool) -> str | None:
    """Return the choice that `answer` ends up with, None where it names none.

    `reasons` where the prompt asks for a chain of thought that ends with `</think>`: before it
    there is no answer.
    """
    if reasons and THINK_END not in answer:
        return None
    text = extract_answer(answer)
    by_spelling = {choice.casefold(): choice for choice in question.choices}
    is_lettered = question.choices != DECISIONS
    choices = "|".join(map(re.escape, question.choices))
    pattern = _NAMED.replace("CHOICES", choices if is_lettered else f"(?i:{choices})")
    if named := list(re.finditer(pattern, text)):
        return by_spelling[(named[-1]["named"] or named[-1]["boxed"]).casefold()]
    if not is_lettered:
        first = re.match(rf"\W*({choices})\b", text.strip(), re.IGNORECASE)
        return by_spelling[first[1].casefold()] if first else None
    begun = set(re.findall(rf"^\W*({choices})(?:[.):]|\W*$)", text, re.MULTILINE))
    if len(begun) == 1:
        return str(begun.pop())
    return _find_option(text, dict(_OPTION_LINE.findall(question.prompt)))


def _find_option(text: str, options: Mapping[str, str]) -> str | None:
    """Return the only one of `options` whose words stand in `text`."""
    plain = " ".join(text.casefold().split())
    letters = [
        letter
        for letter, option in options.items()
        if re.search(
            rf"(?<!\w){re.escape(' '.join(option.casefold().split()).rstrip('.'))}(?!\w)", plain
        )
    ]
    return letters[0] if len(letters) == 1 else None
