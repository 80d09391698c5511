"""Loss and VRAM of a run without running it: what real runs and the planner said, interpolated.
Plain Python: peers import it, too.

A recording holds a full grid of held-out losses over rank x learning rate x training length
(record.py says how), the untuned loss, and per rank the longest sequence that the planner lets
under the ceiling. Runs that two CPU cores can do are shorter than those at which 6 GB end: how loss
depends on length is taken over from the recorded lengths to `card_lengths`, end to end.

In the recording the best learning rate is the highest. `bend` moves it inside: nats added for the
square of the decades from 3e-3.
"""

import json
import math
from bisect import bisect_right
from itertools import product
from pathlib import Path


class Surrogate:
    """loss(r, lr, seq) and fits(r, seq), seq in tokens of the card."""

    def __init__(self, file, bend=0.0):
        self._bend = bend
        recorded = json.loads(Path(file).read_text())
        # the shortest and the longest of the search, in tokens of the card
        self.lengths = tuple(recorded["card_lengths"])
        self.untuned = recorded["loss_before"]
        self.axes = [
            sorted({point[name] for point in recorded["points"]}) for name in ("r", "lr", "seq")
        ]
        self._logs = [[math.log(value) for value in axis] for axis in self.axes]
        losses = {}
        for point in recorded["points"]:
            losses.setdefault((point["r"], point["lr"], point["seq"]), []).append(point["loss"])
        # Seeds are averaged.
        self._loss = {key: sum(of_point) / len(of_point) for key, of_point in losses.items()}
        self._longest = sorted((int(rank), seq) for rank, seq in recorded["longest"].items())
        missing = [point for point in product(*self.axes) if point not in self._loss]
        if missing:
            raise ValueError(
                f"{file} lacks {len(missing)} points of its grid, the first r, lr, seq ="
                f" {missing[0]}"
            )

    def loss(self, r, lr, seq):
        """Held-out loss after training, multilinear in the logarithms."""
        places = [
            self._place(axis, math.log(value))
            for axis, value in enumerate((r, lr, self._recorded(seq)))
        ]
        total = self._bend * math.log10(lr / 3e-3) ** 2
        for corner in product((0, 1), repeat=3):
            weight = math.prod(
                share if bit else 1 - share for bit, (_, share) in zip(corner, places, strict=True)
            )
            if weight:
                key = tuple(
                    self.axes[axis][index + bit]
                    for axis, (bit, (index, _)) in enumerate(zip(corner, places, strict=True))
                )
                total += weight * self._loss[key]
        return total

    def _recorded(self, seq):
        low, high = self.lengths
        return self.axes[2][0] + (seq - low) / (high - low) * (self.axes[2][-1] - self.axes[2][0])

    def _place(self, axis, value):
        logs = self._logs[axis]
        value = min(max(value, logs[0]), logs[-1])
        index = min(max(bisect_right(logs, value) - 1, 0), len(logs) - 2)
        return index, (value - logs[index]) / (logs[index + 1] - logs[index])

    def longest(self, r):
        """The longest sequence that fits at this rank, in tokens."""
        below = max((rank for rank in self._longest if rank[0] <= r), default=self._longest[0])
        above = min((rank for rank in self._longest if rank[0] >= r), default=self._longest[-1])
        if above[0] == below[0]:
            return below[1]
        return below[1] + (r - below[0]) / (above[0] - below[0]) * (above[1] - below[1])

    def fits(self, r, seq):
        """Is it under the ceiling?"""
        return seq <= self.longest(r)

    def over(self, r, seq):
        """By which share the length is over what fits, for the violation in bytes: a plan that fits
        takes nearly all there is.
        """
        return max(seq / self.longest(r) - 1, -0.02)

    def best(self):
        """The lowest loss that fits, from a fine grid over the whole space."""
        low, high = self.lengths
        ranks = range(self.axes[0][0], self.axes[0][-1] + 1)
        rates = [
            math.exp(self._logs[1][0] + step / 60 * (self._logs[1][-1] - self._logs[1][0]))
            for step in range(61)
        ]
        lengths = [low + step / 24 * (high - low) for step in range(25)]
        return min(
            self.loss(r, lr, seq)
            for r in ranks
            for seq in lengths
            if self.fits(r, seq)
            for lr in rates
        )

    def target(self):
        """Within 1 % of the best feasible: of its loss, and of what it gains over the untuned
        model, whichever is stricter.
        """
        best = self.best()
        return min(1.01 * best, best + 0.01 * (self.untuned - best))
