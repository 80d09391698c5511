"""Do training cases hold what is measured on? By the same question, or by any run of WINDOW words in common."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from medexp.data.audit.words import words_of
from medexp.data.cases import Case

WINDOW = 13  # words; Brown et al. 2020, arXiv:2005.14165, and lm-eval's decontamination use the same

Gram = tuple[str, ...]


@dataclass(frozen=True)
class Overlap:
    """A training case (its number) and what it shares with text `measured` of `name`: a run of words, or its whole question."""

    case: int
    name: str
    measured: int
    shared: str
    same_question: bool


class Measured:
    """What is measured on, by name: questions to compare whole, and texts to compare by runs of words."""

    def __init__(self) -> None:
        self._questions: dict[Gram, tuple[str, int]] = {}
        self._grams: dict[Gram, tuple[str, int]] = {}

    def add(self, name: str, questions: Sequence[str], texts: Sequence[str]) -> None:
        """`texts[i]` is what a training case must not share a run of words with, `questions[i]` its question."""
        for place, (question, text) in enumerate(zip(questions, texts, strict=True)):
            self._questions.setdefault(tuple(words_of(question)), (name, place))
            for gram in grams(words_of(text)):
                self._grams.setdefault(gram, (name, place))

    def overlap(self, place: int, case: Case) -> Overlap | None:
        """The first thing that `case`, number `place`, shares with what is measured; its question is looked at first."""
        question = words_of(case.question)
        if found := self._questions.get(tuple(question)):
            return Overlap(place, *found, " ".join(question), same_question=True)
        for words in (question, words_of(case.reasoning), words_of(case.answer)):
            for gram in grams(words):
                if found := self._grams.get(gram):
                    return Overlap(place, *found, " ".join(gram), same_question=False)
        return None


def overlaps(cases: Sequence[Case], measured: Measured) -> list[Overlap]:
    """The training cases that share something with what is measured, one entry each."""
    return [found for place, case in enumerate(cases) if (found := measured.overlap(place, case))]


def grams(words: Sequence[str]) -> Iterator[Gram]:
    """Every run of WINDOW words."""
    for start in range(len(words) - WINDOW + 1):
        yield tuple(words[start : start + WINDOW])


def benchmark_texts(records: Sequence[Mapping[str, object]]) -> Iterator[tuple[str, str]]:
    """(question, question with its context) of every benchmark record that has a question: MedQA, MedMCQA and PubMedQA name theirs
    alike."""
    for record in records:
        question = record.get("question")
        if isinstance(question, str) and question.strip():
            contexts = record.get("contexts")
            context = " ".join(map(str, contexts)) if isinstance(contexts, list) else ""
            yield question, f"{question} {context}".strip()
