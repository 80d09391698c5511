"""The cards that have a hardware preset, and which of them a card is most like: by the number
format and the memory that it has, then by how fast it multiplies and moves memory.

The figures are those of conf/hardware (a test compares them): to read a dozen YAML files at every
start would take longer than to plan.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from medexp.system.units import GIB

# Of its nominal memory a card shows at least so much: 23.0 of 24 GiB, 5.997 of 6.
SHOWN = 0.958
# Operations a multiprocessor and clock, 16-bit products with float32 sums, by compute capability.
# Source: NVIDIA's architecture papers; consumer cards sum at half the rate of 16-bit sums.
# Multiplied with cores and boost clocks they give the published 25 (RTX 3060), 165 (RTX 4090), 312
# (A100) and 989 TFLOP/s (H100).
_OPERATIONS = {(7, 0): 1024, (8, 0): 2048, (9, 0): 4096, (10, 0): 8192, (10, 3): 8192}
_OPERATIONS_OF_A_CONSUMER_CARD = 512


@dataclass(frozen=True)
class KnownCard:
    """A preset's card: memory in GiB, TFLOP/s, GB/s, and whether its preset is in bfloat16."""

    preset: str
    vram_gib: float
    tflops: float
    memory_gb_per_s: float
    has_bfloat16: bool = True


# Of cards with the same memory the slowest first: it is taken where nobody says how fast one is.
KNOWN_CARDS = (
    KnownCard("rtx4050_6gb", 6.0, 24, 192),
    KnownCard("rtx4060_laptop_8gb", 8.0, 29, 256),
    KnownCard("rtx4070_laptop_8gb", 8.0, 40, 256),
    KnownCard("rtx5060_laptop_8gb", 8.0, 33, 384),
    KnownCard("rtx5070_laptop_8gb", 8.0, 43, 384),
    KnownCard("rtx5060_8gb", 8.0, 38, 448),
    KnownCard("rtx3060_12gb", 12.0, 25, 360),
    KnownCard("rtx4070_12gb", 12.0, 58, 504),
    KnownCard("rtx5070_12gb", 12.0, 62, 672),
    KnownCard("t4_16gb", 15.0, 32, 300, has_bfloat16=False),
    KnownCard("rtx5060ti_16gb", 16.0, 47, 448),
    KnownCard("rtx5070ti_16gb", 16.0, 88, 896),
    KnownCard("rtx4090_24gb", 24.0, 165, 1008),
    KnownCard("h200_141gb", 139.8, 788, 4300),
)


def estimate_tflops(capability: tuple[int, int], multiprocessors: int, clock_ghz: float) -> float:
    """Return the TFLOP/s that a card of this compute capability has at its highest clock."""
    operations = _OPERATIONS.get(capability, _OPERATIONS_OF_A_CONSUMER_CARD)
    return multiprocessors * clock_ghz * operations / 1000


def find_most_alike(
    total_bytes: int, has_bfloat16: bool, tflops: float, memory_gb_per_s: float
) -> str:
    """Return the preset for a card of this memory, format and speed (0: not known).

    Its workload fits the card: of the presets in a format that the card has, those with the most
    memory that it has, too. Among them the one whose products and memory are nearest in speed, as
    ratios. A card smaller than every preset takes the smallest.
    """
    in_format = [card for card in KNOWN_CARDS if card.has_bfloat16 == has_bfloat16]
    fitting = _list_largest(in_format, total_bytes) or _list_largest(KNOWN_CARDS, total_bytes)

    def distance(card: KnownCard) -> float:
        pairs = ((tflops, card.tflops), (memory_gb_per_s, card.memory_gb_per_s))
        return sum(abs(math.log(here / there)) for here, there in pairs if here > 0)

    return min(fitting or KNOWN_CARDS[:1], key=distance).preset


def _list_largest(cards: Sequence[KnownCard], total_bytes: int) -> list[KnownCard]:
    """Return those of `cards` that have the most memory of all that are no larger."""
    smaller = [card for card in cards if SHOWN * card.vram_gib * GIB <= total_bytes]
    most = max((card.vram_gib for card in smaller), default=0)
    return [card for card in smaller if card.vram_gib == most]
