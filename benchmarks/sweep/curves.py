"""Held-out loss after every step of a run, and its seconds, without running it.

Two recordings of real runs (record.py) are put together. One has curves over rank and learning
rate: between its points the loss is linear in log r and in the share of the steps that are done,
and in log lr a cubic that has no minimum but at a point (PCHIP: a line would have a kink at the
best rate, which 1 % of the gain would hardly hit). The other has the loss over rank, learning rate
and length; how length changes the end of a run is taken from there, and grows with the share of the
steps that are done. Seconds are those of the planner for the laptop.
"""

import json
import math
from bisect import bisect_right
from functools import cached_property
from itertools import product
from pathlib import Path
from statistics import fmean

import hydra
from scipy.interpolate import PchipInterpolator
from surrogate import Surrogate

from medexp.config.registration import register_with_hydra
from medexp.config.resolve import resolve
from medexp.config.shipped import find_conf_dir
from medexp.errors import VramPlanError
from medexp.planning import feasibility, planner
from medexp.system import machine

CARD = ["hardware=rtx4050_6gb", "evaluation.answers=0"]
# Seconds of a process until its first step: imports, weights, the rehearsed step.
START_S = 60.0
# Validation cases of a trial, and their length.
VALIDATION_CASES, VALIDATION_TOKENS = 16, 1024
# A forward pass is a third of what a token takes in training (forward, recompute, backward).
FORWARD_SHARE = 1 / 3


class Curves:
    """loss_at(r, lr, seq, share): seq in tokens of the card, `share` of a run's steps done."""

    def __init__(self, curves: Path, lengths_from: Path, lengths: tuple[int, int]):
        recorded = json.loads(curves.read_text())
        self.untuned: float = recorded["loss_before"]
        self.lengths = lengths
        self._length = Surrogate(lengths_from)
        self._length.lengths = lengths
        by_point: dict[tuple[float, float], list[list[tuple[float, float]]]] = {}
        for point in recorded["points"]:
            by_point.setdefault((point["r"], point["lr"]), []).append(self._read(point))
        # Seeds are averaged, step by step.
        self._curves = {
            key: [(runs[0][at][0], fmean(run[at][1] for run in runs)) for at in range(len(runs[0]))]
            for key, runs in by_point.items()
        }
        self.ranks, self.rates = (sorted({key[axis] for key in self._curves}) for axis in (0, 1))
        self._between: dict[tuple[float, float], PchipInterpolator] = {}
        missing = [key for key in product(self.ranks, self.rates) if key not in self._curves]
        if missing:
            raise ValueError(
                f"{curves} lacks {len(missing)} points of its grid, first {missing[0]}"
            )

    def _read(self, point: dict) -> list[tuple[float, float]]:
        """The (share, loss) of a run, from the untuned model on."""
        steps = point["steps"]
        return [(0.0, self.untuned), *((step / steps, loss) for step, loss in point["curve"])]

    def loss_at(self, r: float, lr: float, seq: float, share: float) -> float:
        """The held-out loss after this share of the steps."""
        index, along = _place(self.ranks, r)
        low, high = (self._at_rank(self.ranks[index + bit], lr, share) for bit in (0, 1))
        total = low + along * (high - low)
        by_length = self._length.loss(r, lr, seq) - self._length.loss(r, lr, self.lengths[0])
        return total + share * by_length

    def _at_rank(self, rank: float, lr: float, share: float) -> float:
        """The loss of a recorded rank at any learning rate."""
        if (between := self._between.get((rank, share))) is None:
            losses = [_along(self._curves[rank, rate], share) for rate in self.rates]
            between = PchipInterpolator([math.log(rate) for rate in self.rates], losses)
            self._between[rank, share] = between
        return float(between(math.log(min(max(lr, self.rates[0]), self.rates[-1]))))

    def fits(self, r: float, seq: float) -> bool:
        """Is it under the ceiling of the laptop?"""
        return self._length.fits(r, seq)

    def over(self, r: float, seq: float) -> float:
        """By which share the length is over what fits."""
        return self._length.over(r, seq)

    @cached_property
    def best(self) -> float:
        """The lowest loss at the end of a run that fits, from a fine grid."""
        low, high = self.lengths
        rates = [
            self.rates[0] * (self.rates[-1] / self.rates[0]) ** (step / 60) for step in range(61)
        ]
        lengths = [low + step / 24 * (high - low) for step in range(25)]
        return min(
            self.loss_at(r, lr, seq, 1.0)
            for r in (*range(int(self.ranks[0]), int(self.ranks[-1]), 4), self.ranks[-1])
            for seq in lengths
            if self.fits(r, seq)
            for lr in rates
        )

    def target(self) -> float:
        """Within 1 % of the best gain over the untuned model, or of its loss if that is less."""
        best = self.best
        return min(1.01 * best, best + 0.01 * (self.untuned - best))


class Seconds:
    """Seconds of a step and of an evaluation on the laptop, by the plan that medexp chooses."""

    def __init__(self, ranks: tuple[int, int], lengths: tuple[int, int], places: int = 9):
        register_with_hydra()
        with hydra.initialize_config_dir(str(find_conf_dir()), version_base="1.3"):
            run = resolve(
                hydra.compose("train", CARD), machine.read(), Path.cwd(), {}, needs_card=False
            )
        low, high = lengths
        self._lengths = [round(low * (high / low) ** (at / (places - 1))) for at in range(places)]
        self._ranks = ranks
        self._step_s: dict[tuple[int, int], float] = {}
        for rank, seq in product(ranks, self._lengths):
            try:
                plan, _ = planner.choose_plan(feasibility.resize_run(run, rank, seq))
                self._step_s[rank, seq] = plan.step_s
            except VramPlanError:
                # Nothing runs there; it is only looked up for what lies before it.
                self._step_s[rank, seq] = self._step_s[rank, self._lengths[-2]] * high / low
        tokens = run.training.cases_a_step * VALIDATION_TOKENS
        # Of cases as long as the evaluation's, or the shortest that was planned.
        token_s = self.step(ranks[0], max(low, VALIDATION_TOKENS)) / tokens
        token_s *= VALIDATION_TOKENS / max(low, VALIDATION_TOKENS)
        self.evaluation = FORWARD_SHARE * token_s * VALIDATION_CASES * VALIDATION_TOKENS

    def step(self, r: float, seq: float) -> float:
        """Seconds of a step: linear in the rank, and between the logarithms of the lengths."""
        index, along = _place(self._lengths, seq)
        low, high = (
            math.exp(
                (1 - along) * math.log(self._step_s[rank, self._lengths[index]])
                + along * math.log(self._step_s[rank, self._lengths[index + 1]])
            )
            for rank in self._ranks
        )
        share = (r - self._ranks[0]) / (self._ranks[1] - self._ranks[0])
        return low + share * (high - low)


def _place(axis: list, value: float) -> tuple[int, float]:
    """The interval of `axis` that holds `value`, and how far along its logarithm it lies."""
    value = min(max(value, axis[0]), axis[-1])
    index = min(max(bisect_right(axis, value) - 1, 0), len(axis) - 2)
    return index, math.log(value / axis[index]) / math.log(axis[index + 1] / axis[index])


def _along(curve: list[tuple[float, float]], share: float) -> float:
    """The loss of a recorded curve at this share of its steps, linear between evaluations."""
    after = next(at for at in range(1, len(curve)) if curve[at][0] >= share - 1e-9)
    (left, before), (right, at_right) = curve[after - 1], curve[after]
    return before + (share - left) / (right - left) * (at_right - before)
