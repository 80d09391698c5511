"""Pieces of an MLP's width and groups of attention's heads, which are computed one after the other:
how many there are, and where pieces begin and end."""

from typing import NamedTuple

from medexp.config.schema import ModelShape

# how many at most, and the outputs of one at least
PIECES, NARROWEST = 4, 1024
GROUPS = 4
# Of more tokens than that a step has twice as many, whose launches are nothing beside them.
LONG_STEP = 16384
# Widths of pieces are multiples of it: NF4 blocks, rows of a Triton tile.
UNIT = 128


class Piece(NamedTuple):
    """A range of a projection's outputs, or of its inputs: `stop` is not in it."""

    start: int
    stop: int

    @property
    def part(self) -> slice:
        """The same, to index with."""
        return slice(self.start, self.stop)


def count_pieces(shape: ModelShape) -> int:
    """Return in how many pieces an MLP is computed in steps that are not long: with more, an H200
    waits for their launches (benchmarks/train)."""
    return max(1, min(PIECES, shape.ffn // NARROWEST))


def count_in_step(pieces: int, tokens: int) -> int:
    """Return how many there are in a step of so many `tokens`, of `pieces` in one that is not
    long."""
    return 2 * pieces if tokens > LONG_STEP else pieces


def count_groups(kv_heads: int, tokens: int) -> int:
    """Return in how many groups of its heads attention goes back, in a step of so many `tokens`:
    all of one size."""
    most = min(count_in_step(GROUPS, tokens), kv_heads)
    return next(groups for groups in range(most, 0, -1) if kv_heads % groups == 0)


def cut(width: int, pieces: int) -> list[Piece]:
    """Return at most so many pieces of `width`, all multiples of 128 but the last."""
    size = -(-width // (pieces * UNIT)) * UNIT
    return [Piece(start, min(start + size, width)) for start in range(0, width, size)]
