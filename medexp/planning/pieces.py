"""Pieces of an MLP's width: how many there are, and where they begin and end."""

from typing import NamedTuple

from medexp.config.schema import ModelShape

# how many at most, and the outputs of one at least
PIECES, NARROWEST = 4, 1024
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
    """Return in how many pieces an MLP is computed: with more, the peak of a step is elsewhere, and
    products are no faster (benchmarks/train)."""
    return max(1, min(PIECES, shape.ffn // NARROWEST))


def cut(width: int, pieces: int) -> list[Piece]:
    """Return at most so many pieces of `width`, all multiples of 128 but the last."""
    size = -(-width // (pieces * UNIT)) * UNIT
    return [Piece(start, min(start + size, width)) for start in range(0, width, size)]
