"""Cases that nearly repeat another one's question: candidates by MinHash, each checked by its exact
Jaccard similarity.

A question is its set of SHINGLE-word sequences; two are near when they share at least NEAR of all
sequences of both, which a few exchanged words in a vignette of fifty leave true and another patient
with the same disease does not.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from medexp.data.words import split_words

SHINGLE, NEAR = 3, 0.6
# bands of 4: a pair at 0.6 is found with 98.8 %, at 0.8 with all but 1 in 10^7
_PERMUTATIONS, _BANDS = 128, 32


@dataclass(frozen=True)
class NearPair:
    """Text number `case` nearly repeats text number `of`, with this Jaccard similarity (1 where
    their words are the same).
    """

    case: int
    of: int
    similarity: float


def find_near_duplicates(texts: Sequence[str], seed: int = 0) -> list[NearPair]:
    """Return for every text that nearly repeats an earlier one the most similar of those that
    themselves repeat none."""
    originals, found = _Index(seed), []
    for place, text in enumerate(texts):
        if (best := originals.nearest(place, text)) is not None:
            found.append(best)
        else:
            originals.add(place, text)
    return found


def find_near_copies(texts: Sequence[str], others: Sequence[str], seed: int = 0) -> list[NearPair]:
    """Return for every one of `texts` that nearly repeats one of `others` the most similar of
    those; `of` counts in `others`."""
    index = _Index(seed)
    for place, text in enumerate(others):
        index.add(place, text)
    return [
        best for place, text in enumerate(texts) if (best := index.nearest(place, text)) is not None
    ]


class _Index:
    """Texts among which the nearest to another is found.

    Source: Broder 1997, MinHash; rensa's R-MinHash and LSH find the candidates.
    """

    def __init__(self, seed: int):
        from rensa import RMinHashLSH

        self._seed, self._lsh = seed, RMinHashLSH(NEAR, _PERMUTATIONS, _BANDS)
        self._kept: dict[int, frozenset[str]] = {}

    def add(self, place: int, text: str) -> None:
        """Keep `text` as number `place`."""
        self._kept[place] = _make_shingles(text)
        self._lsh.insert(place, self._sketch(self._kept[place]))

    def nearest(self, case: int, text: str) -> NearPair | None:
        """Return the kept text most similar to `text`, the earliest of equals; None where none is
        near."""
        shingles = _make_shingles(text)
        near = (
            (jaccard_similarity(shingles, self._kept[other]), -other)
            for other in self._lsh.query(self._sketch(shingles))
        )
        alike, place = max(near, default=(0.0, 0))
        return NearPair(case, -place, alike) if alike >= NEAR else None

    def _sketch(self, shingles: frozenset[str]) -> Any:
        from rensa import RMinHash

        sketch = RMinHash(_PERMUTATIONS, self._seed)
        sketch.update(list(shingles))
        return sketch


def jaccard_similarity(first: frozenset[str], second: frozenset[str]) -> float:
    """Return the Jaccard index of two sets: the share that both have of what either has."""
    return len(first & second) / len(first | second) if first or second else 1.0


def _make_shingles(text: str) -> frozenset[str]:
    return frozenset(_list_sequences(split_words(text)))


def _list_sequences(words: Sequence[str]) -> Iterator[str]:
    if len(words) < SHINGLE:
        yield " ".join(words)
    for start in range(len(words) - SHINGLE + 1):
        yield " ".join(words[start : start + SHINGLE])
