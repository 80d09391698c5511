"""Multiple-choice questions from the rows of a local file, in the prompts of lm-eval's own tasks.

Rows are refused whose key is not one of the choices, and files whose keys are counted from 1 where
they must be from 0: scored as it is, such a file gives a figure that looks like an accuracy and is
none.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medexp.config.schema import Benchmark
from medexp.errors import DataError

LETTERS = ("A", "B", "C", "D")
MORE_LETTERS = "ABCDEFGHIJ"
DECISIONS = ("yes", "no", "maybe")
# So many questions without any key 0 happen by chance once in 300 files.
ENOUGH_TO_MISS_0 = 20


@dataclass(frozen=True)
class ChoiceQuestion:
    """What the model continues, the continuations it chooses from, and the place of the right
    one.
    """

    prompt: str
    choices: tuple[str, ...]
    right: int


def parse_questions(
    benchmark: Benchmark, rows: Sequence[Mapping[str, Any]], place: str
) -> list[ChoiceQuestion]:
    """Return the questions in `rows`, which are those of file `place`.

    Raises: DataError naming the file and the row, or that its keys are counted from 1.
    """
    if not rows:
        raise DataError(f"{place} holds no questions")
    if benchmark in (Benchmark.medmcqa, Benchmark.mmlu_medical):
        _refuse_counted_from_1([row.get(_KEY[benchmark]) for row in rows], _KEY[benchmark], place)
    return [
        _parse_question(benchmark, row, f"row {number} of {place}")
        for number, row in enumerate(rows, 1)
    ]


def _parse_question(benchmark: Benchmark, row: Mapping[str, Any], place: str) -> ChoiceQuestion:
    try:
        question = _READ[benchmark](row)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{place} is not a {benchmark.value} question ({type(error).__name__}: {error}); it"
            f" needs {_NEEDS[benchmark]}"
        ) from error
    if not 0 <= question.right < len(question.choices):
        raise DataError(
            f"{place}: the key {question.right} is outside 0 to {len(question.choices) - 1}; it"
            f" needs {_NEEDS[benchmark]}"
        )
    return question


def _refuse_counted_from_1(keys: Sequence[object], name: str, place: str) -> None:
    numbers = {key for key in keys if isinstance(key, int)}
    if numbers and 0 not in numbers and (len(LETTERS) in numbers or len(keys) >= ENOUGH_TO_MISS_0):
        raise DataError(
            f"{place}: `{name}` goes from {min(numbers)} to {max(numbers)} and never is 0, so it is"
            " counted from 1; it must be counted from 0 (0 to 3), as on the Hub: subtract 1 from"
            " every key"
        )


def _medqa(row: Mapping[str, Any]) -> ChoiceQuestion:
    options = {str(name): str(text) for name, text in row["options"].items()}
    listed = "".join(f"{letter}. {options[letter]}\n" for letter in LETTERS)
    return ChoiceQuestion(
        f"Question: {row['question']}\n{listed}Answer:", LETTERS, LETTERS.index(row["answer_idx"])
    )


def _medmcqa(row: Mapping[str, Any]) -> ChoiceQuestion:
    listed = "".join(f"{letter}. {row[f'op{letter.lower()}']}\n" for letter in LETTERS)
    return ChoiceQuestion(
        f"Question: {row['question']}\nChoices:\n{listed}Answer:", LETTERS, int(row["cop"])
    )


def _pubmedqa(row: Mapping[str, Any]) -> ChoiceQuestion:
    contexts = "\n".join(row["contexts"] if "contexts" in row else row["CONTEXTS"])
    question = row["question"] if "question" in row else row["QUESTION"]
    prompt = f"Abstract: {contexts}\nQuestion: {question}\nAnswer:"
    return ChoiceQuestion(prompt, DECISIONS, DECISIONS.index(row["final_decision"]))


def _mmlu(row: Mapping[str, Any]) -> ChoiceQuestion:
    listed = "\n".join(
        f"{letter}. {text}" for letter, text in zip(LETTERS, row["choices"], strict=True)
    )
    subject = f" about {str(row['subject']).replace('_', ' ')}" if row.get("subject") else ""
    opening = f"The following are multiple choice questions (with answers){subject}.\n\n"
    return ChoiceQuestion(
        f"{opening}{row['question'].strip()}\n{listed}\nAnswer:", LETTERS, int(row["answer"])
    )


def _medbullets(row: Mapping[str, Any]) -> ChoiceQuestion:
    options = {str(name): str(text) for name, text in row["options"].items()}
    return _ask_lettered(str(row["question"]), options, str(row["answer_idx"]))


def _medxpertqa(row: Mapping[str, Any]) -> ChoiceQuestion:
    options = {str(option["letter"]): str(option["content"]) for option in row["options"]}
    # The question of this set repeats its options at its end.
    question, _, _ = str(row["question"]).partition("\nAnswer Choices:")
    (right,) = row["label"]
    return _ask_lettered(question, options, str(right))


def _ask_lettered(question: str, options: Mapping[str, str], right: str) -> ChoiceQuestion:
    """Return a question with two to ten options, which are named A, B and so on without a gap."""
    letters = tuple(sorted(options))
    if letters != tuple(MORE_LETTERS[: len(letters)]) or len(letters) < 2:
        raise ValueError(f"its options are {', '.join(letters) or 'none'}")
    listed = "".join(f"{letter}. {options[letter]}\n" for letter in letters)
    return ChoiceQuestion(
        f"Question: {question.strip()}\n{listed}Answer:", letters, letters.index(right)
    )


_READ: Mapping[Benchmark, Callable[[Mapping[str, Any]], ChoiceQuestion]] = {
    Benchmark.medqa: _medqa,
    Benchmark.medmcqa: _medmcqa,
    Benchmark.pubmedqa: _pubmedqa,
    Benchmark.mmlu_medical: _mmlu,
    Benchmark.medbullets: _medbullets,
    Benchmark.medxpertqa: _medxpertqa,
}
_KEY = {Benchmark.medmcqa: "cop", Benchmark.mmlu_medical: "answer"}
_NEEDS = {
    Benchmark.medqa: "`question`, `options` with A to D, `answer_idx` of A to D",
    Benchmark.medmcqa: "`question`, `opa` to `opd`, `cop` of 0 to 3",
    Benchmark.pubmedqa: "`question`, `contexts`, `final_decision` of yes, no, maybe",
    Benchmark.mmlu_medical: "`question`, `choices` (four), `answer` of 0 to 3",
    Benchmark.medbullets: "`question`, `options` with A, B and so on, `answer_idx` of these",
    Benchmark.medxpertqa: "`question`, `options` (each a `letter` and its `content`), `label` with"
    " one of the letters",
}
