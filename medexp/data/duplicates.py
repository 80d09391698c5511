"""Cases that nearly repeat another one's question: candidates by MinHash, each checked by its exact Jaccard similarity.

A question is its set of SHINGLE-word sequences; two are near when they share at least NEAR of all sequences of both, which a few
exchanged words in a vignette of fifty leave true and another patient with the same disease does not.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from medexp.data.words import words_of

SHINGLE, NEAR = 3, 0.6
_PERMUTATIONS, _BANDS = 128, 32  # bands of 4: a pair at 0.6 is found with 98.8 %, at 0.8 with all but 1 in 10^7


@dataclass(frozen=True)
class NearPair:
    """Text number `case` nearly repeats text number `earlier`, with this Jaccard similarity (1 where their words are the same)."""

    case: int
    earlier: int
    similarity: float


def near_duplicates(texts: Sequence[str], seed: int = 0) -> list[NearPair]:
    """For every text that nearly repeats an earlier one, the most similar of those that themselves repeat none.

    Source: Broder 1997, MinHash; rensa's R-MinHash and LSH find the candidates.
    """
    from rensa import RMinHash, RMinHashLSH

    index, found = RMinHashLSH(NEAR, _PERMUTATIONS, _BANDS), []
    originals: dict[int, frozenset[str]] = {}
    for place, shingles in enumerate(map(_shingles, texts)):
        sketch = RMinHash(_PERMUTATIONS, seed)
        sketch.update(list(shingles))
        near = [(similarity(shingles, originals[other]), -other) for other in index.query(sketch)]
        best = max(near, default=(0.0, 0))
        if best[0] >= NEAR:
            found.append(NearPair(place, -best[1], best[0]))
        else:
            index.insert(place, sketch)
            originals[place] = shingles
    return found


def similarity(first: frozenset[str], second: frozenset[str]) -> float:
    """Jaccard: what both share of what either has."""
    return len(first & second) / len(first | second) if first or second else 1.0


def _shingles(text: str) -> frozenset[str]:
    return frozenset(_sequences(words_of(text)))


def _sequences(words: Sequence[str]) -> Iterator[str]:
    if len(words) < SHINGLE:
        yield " ".join(words)
    for start in range(len(words) - SHINGLE + 1):
        yield " ".join(words[start : start + SHINGLE])
