"""Do training cases hold what is measured on? By the same question, or by any run of WINDOW words
in common.

A run of words that stands in more than FREQUENT training cases is a phrase of the trade, as the
last sentence of an exam question is, and tells nothing: it counts only in a case that shares MOST
of a measured text.
Source: Brown et al. 2020, arXiv:2005.14165, appendix C, which ignores 13-grams that match more than
    ten training documents.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from medexp.data.cases import Case
from medexp.data.words import split_words

# words; Brown et al. 2020, arXiv:2005.14165, and lm-eval's decontamination use the same
WINDOW = 13
# Training cases.
FREQUENT = 10
# Of the runs of words of a measured text.
MOST = 0.5

Gram = tuple[str, ...]


@dataclass(frozen=True)
class Contamination:
    """A training case (its number) and what it shares with text `measured` of `name`: a run of
    words, or its whole question.
    """

    case: int
    name: str
    measured: int
    shared: str
    same_question: bool


class MeasuredTexts:
    """What is measured on, by name: questions to compare whole, and texts to compare by runs of
    words.
    """

    def __init__(self) -> None:
        self._questions: dict[Gram, tuple[str, int]] = {}
        self._grams: dict[Gram, tuple[str, int]] = {}
        self._sizes: dict[tuple[str, int], int] = {}

    def add(self, name: str, questions: Sequence[str], texts: Sequence[str]) -> None:
        """`texts[i]` is what a training case must not share a run of words with, `questions[i]` its
        question.
        """
        for place, (question, text) in enumerate(zip(questions, texts, strict=True)):
            self._questions.setdefault(tuple(split_words(question)), (name, place))
            found = set(list_word_runs(split_words(text)))
            self._sizes[name, place] = len(found)
            for gram in found:
                self._grams.setdefault(gram, (name, place))

    def shared(self, case: Case) -> "SharedText":
        """Return what `case` shares with what is measured."""
        question = split_words(case.question)
        parts = (question, split_words(case.reasoning), split_words(case.answer))
        # In the order of the text, each run once; the same text measured twice is the one that was
        # added first.
        runs = dict.fromkeys(
            gram for words in parts for gram in list_word_runs(words) if gram in self._grams
        )
        same = self._questions.get(tuple(question))
        return SharedText(same, "" if same is None else " ".join(question), tuple(runs))

    def overlap(
        self, place: int, shared: "SharedText", frequent: Collection[Gram]
    ) -> Contamination | None:
        """Return the first thing of `shared`, by case number `place`, that tells something; the
        whole question is looked at first."""
        if shared.question is not None:
            return Contamination(place, *shared.question, shared.asked, same_question=True)
        gram = next((run for run in shared.runs if run not in frequent), None) or self._much(
            shared.runs
        )
        return (
            Contamination(place, *self._grams[gram], " ".join(gram), same_question=False)
            if gram is not None
            else None
        )

    def _much(self, runs: Sequence[Gram]) -> Gram | None:
        """Return the first of `runs` that belongs to a measured text of which they are MOST."""
        counts = Counter(self._grams[gram] for gram in runs)
        return next(
            (
                gram
                for gram in runs
                if counts[where := self._grams[gram]] >= MOST * self._sizes[where]
            ),
            None,
        )


@dataclass(frozen=True)
class SharedText:
    """What a training case shares: where its whole question is measured, its words, and each run of
    words that is measured.
    """

    question: tuple[str, int] | None
    asked: str
    runs: tuple[Gram, ...]


def find_contamination(cases: Sequence[Case], measured: MeasuredTexts) -> list[Contamination]:
    """Return the training cases that share something with what is measured, one entry each."""
    shared = [measured.shared(case) for case in cases]
    counts = Counter(gram for text in shared for gram in text.runs)
    frequent = {gram for gram, count in counts.items() if count > FREQUENT}
    return [
        found
        for place, text in enumerate(shared)
        if (found := measured.overlap(place, text, frequent))
    ]


def list_word_runs(words: Sequence[str]) -> Iterator[Gram]:
    """Return every run of WINDOW words."""
    for start in range(len(words) - WINDOW + 1):
        yield tuple(words[start : start + WINDOW])


def extract_benchmark_texts(records: Sequence[Mapping[str, object]]) -> Iterator[tuple[str, str]]:
    """Yield (question, question with its context) of every benchmark record that has a question:
    MedQA, MedMCQA and PubMedQA name theirs alike."""
    for record in records:
        question = record.get("question")
        if isinstance(question, str) and question.strip():
            contexts = record.get("contexts")
            context = " ".join(map(str, contexts)) if isinstance(contexts, list) else ""
            yield question, f"{question} {context}".strip()
