import pytest
from hypothesis import given
from hypothesis import strategies as st

from medexp.system.units import GIB, MIB, bytes_of_gib, format_duration, gib


def test_a_gib_is_1024_mib():
    assert GIB == 1024 * MIB == 1_073_741_824


@pytest.mark.parametrize(
    ("value", "num_bytes"), [(0, 0), (1, GIB), (5.25, 5_637_144_576), (1 / GIB, 1), (0.9 / GIB, 0)]
)
def test_bytes_of_gib_rounds_down(value, num_bytes):
    assert bytes_of_gib(value) == num_bytes


@given(st.integers(0, 2**43))
def test_bytes_survive_being_shown_as_gib(num_bytes):
    assert bytes_of_gib(gib(num_bytes)) == num_bytes


@pytest.mark.parametrize(
    ("elapsed_s", "said"),
    [
        (0.0, "0.0 s"),
        (0.42, "0.4 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (12.4, "12 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.7, "1 h 00 min"),
        (7620, "2 h 07 min"),
        (90_000, "25 h 00 min"),
    ],
)
def test_a_duration_reads_as_people_say_it(elapsed_s, said):
    assert format_duration(elapsed_s) == said
