"""Every point once, by medexp's own count of what was tried.

Optuna's GridSampler knows a point by its index in a list that its seed shuffles, and takes every
finished trial for a visited point. That has three faults in a sweep that is continued. With another
seed the indexes mean other points. A proposal that was one too many is never made again. A trial
that continues another has no index, and ends the sweep in a KeyError.
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
    """Proposes the points of `search_space` in an order that `seed` makes, without those that were
    tried, are running or wait.
    """

    def __init__(self, search_space: Mapping[str, Sequence[Any]], seed: int | None = None):
        self._names = list(search_space)
        self._points = list(itertools.product(*search_space.values()))
        random.Random(seed).shuffle(self._points)
        self._params: dict[int, Mapping[str, Any]] = {}

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Choose the point of `trial`.

        Where none is left the first is chosen again, because a sampler must return a point; the
        study sees that it repeats another.
        """
        taken = {
            self._point_of(other) for other in study.get_trials(deepcopy=False) if _is_taken(other)
        }
        free = (point for point in self._points if tuple(map(str, point)) not in taken)
        point = next(free, self._points[0])
        self._params[trial.number] = dict(zip(self._names, point, strict=True))

    def infer_relative_search_space(
        self,
        study: Study,  # noqa: ARG002
        trial: FrozenTrial,  # noqa: ARG002
    ) -> dict[str, BaseDistribution]:
        """Return nothing: a grid has no parameters that are drawn together."""
        return {}

    def sample_relative(
        self,
        study: Study,  # noqa: ARG002
        trial: FrozenTrial,  # noqa: ARG002
        search_space: Any,  # noqa: ARG002
    ) -> dict[str, Any]:
        """Return nothing: a grid has no parameters that are drawn together."""
        return {}

    def sample_independent(
        self,
        study: Study,  # noqa: ARG002
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,  # noqa: ARG002
    ) -> Any:
        """Return the value of `param_name` at the point of `trial`.

        Raises: ValueError for a parameter that is not in the grid.
        """
        if param_name not in self._names:
            raise ValueError(
                f"a grid holds what was declared and {param_name} was not; take"
                " hydra/sweeper/sampler=brute_force"
            )
        return self._params[trial.number][param_name]

    def _point_of(self, trial: FrozenTrial) -> tuple[str, ...]:
        # A trial that waits has no parameters yet, only those that it was enqueued with.
        params = trial.params or trial.system_attrs.get("fixed_params", {})
        return tuple(str(params.get(name)) for name in self._names)


def _is_taken(trial: FrozenTrial) -> bool:
    return trial.state in (TrialState.RUNNING, TrialState.WAITING) or ending_of(trial) in TRIED
