"""An MLP is cut into whole blocks, and not into pieces too narrow for fast products; attention into
groups of one size."""

from itertools import pairwise

import pytest

from medexp.config.changes import change_values
from medexp.planning.pieces import (
    LONG_STEP,
    count_groups,
    count_in_step,
    count_pieces,
    cut,
)


@pytest.mark.parametrize(
    ("width", "pieces", "sizes"),
    [
        (14336, 4, [3584] * 4),
        (18944, 4, [4736] * 4),
        (13824, 5, [2816] * 4 + [2560]),
        (24, 4, [24]),
    ],
)
def test_pieces_are_whole_blocks_and_leave_nothing_out(width, pieces, sizes):
    found = cut(width, pieces)
    assert [piece.stop - piece.start for piece in found] == sizes
    assert found[0].start == 0
    assert found[-1].stop == width
    assert all(one.stop == other.start for one, other in pairwise(found))


@pytest.mark.parametrize(("ffn", "pieces"), [(14336, 4), (3072, 3), (1536, 1), (512, 1)])
def test_no_piece_is_too_narrow(resolved, ffn, pieces):
    shape = change_values(resolved(), {"model.shape.ffn": ffn}).model.shape
    assert count_pieces(shape) == pieces


@pytest.mark.parametrize(
    ("kv_heads", "short", "long"), [(8, 4, 8), (4, 4, 4), (6, 3, 6), (5, 1, 5), (1, 1, 1)]
)
def test_groups_are_of_one_size_and_more_in_a_long_step(kv_heads, short, long):
    assert count_groups(kv_heads, LONG_STEP) == short
    assert count_groups(kv_heads, LONG_STEP + 1) == long
    assert count_in_step(4, LONG_STEP) == 4
    assert count_in_step(4, LONG_STEP + 1) == 8
