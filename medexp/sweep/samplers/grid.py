"""Every point once, by medexp's own count of what was tried.

Optuna's GridSampler knows points by their place in a list that its seed shuffles, and takes every
finished trial for a visited point: with another seed at resume the places mean other points, a
proposal that was given back ("one too many") is never made again, and a trial that is continued,
which has no place, ends it in a KeyError.
"""

import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from medexp.sweep.study.history import ending_of
from medexp.sweep.study.trial_files import TRIED


class GridSampler(BaseSampler):  # type: ignore[misc]
    """Draws the points of `search_space` in an order that `seed` makes, without those that were
    tried or are under way.
    """

    def __init__(self, search_space: Mapping[str, Sequence[Any]], seed: int | None = None):
        self._names = list(search_space)
        self._points = list(itertools.product(*search_space.values()))
        random.Random(seed).shuffle(self._points)
        self._drawn: dict[int, Mapping[str, Any]] = {}

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Choose the point of `trial`; where none is left, one again: whoever asked looks for that."""
        taken = {
            self._point(trial) for trial in study.get_trials(deepcopy=False) if _is_taken(trial)
        }
        free = (point for point in self._points if tuple(map(str, point)) not in taken)
        self._drawn[trial.number] = dict(zip(self._names, next(free, self._points[0]), strict=True))

    def infer_relative_search_space(
        self,
        study: Study,  # noqa: ARG002
        trial: FrozenTrial,  # noqa: ARG002
    ) -> dict[str, BaseDistribution]:
        """Nothing is drawn together."""
        return {}

    def sample_relative(
        self,
        study: Study,  # noqa: ARG002
        trial: FrozenTrial,  # noqa: ARG002
        search_space: Any,  # noqa: ARG002
    ) -> dict[str, Any]:
        """Nothing is drawn together."""
        return {}

    def sample_independent(
        self,
        study: Study,  # noqa: ARG002
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,  # noqa: ARG002
    ) -> Any:
        """The value at the point of `trial`.

        Raises: ValueError for what is no part of the grid.
        """
        if param_name not in self._names:
            raise ValueError(
                f"a grid holds what was declared and {param_name} was not; take"
                " hydra/sweeper/sampler=brute_force"
            )
        return self._drawn[trial.number][param_name]

    def _point(self, trial: FrozenTrial) -> tuple[str, ...]:
        values = trial.params or trial.system_attrs.get("fixed_params", {})  # of one that waits
        return tuple(str(values.get(name)) for name in self._names)


def _is_taken(trial: FrozenTrial) -> bool:
    return trial.state in (TrialState.RUNNING, TrialState.WAITING) or ending_of(trial) in TRIED
