"""What an earlier study has found, told to the sampler of this one.

Its finished trials are added as trials of this study, with their values: beside the `n_trials`, for
no card time, and never tried again.
"""

from pathlib import Path
from typing import Any

from filelock import FileLock
from omegaconf import OmegaConf

from medexp.config.schema import RunConfig
from medexp.errors import ConfigError, listing, nearest
from medexp.sweep import fixed_part
from medexp.sweep.spec import SweepSpec
from medexp.sweep.study import storage
from medexp.sweep.study.history import (
    BESIDE_S,
    CONCLUSIVE_ENDINGS,
    ENDING,
    FOLDER,
    MEASURED,
    PLANNED,
    PLANNED_STEP_S,
    REPEAT_VALUES,
    RUN,
    STEP_S,
    WARM,
    WHY,
    ending_of,
    is_outside,
)
from medexp.sweep.study.optuna_factory import make_distribution
from medexp.sweep.study.study import Study
from medexp.sweep.study.trial_files import Ending
from medexp.system.console import DONE, Console

_KEPT_ATTRS = (
    FOLDER, WHY, PLANNED, MEASURED, RUN, STEP_S, PLANNED_STEP_S, BESIDE_S, REPEAT_VALUES,
)  # fmt: skip
# Ends that another trial with the same parameters would have, too.
_TELLING = (*CONCLUSIVE_ENDINGS, Ending.infeasible)


def find_earlier_study(spec: SweepSpec, base_config: RunConfig) -> Any:
    """Return Optuna's study that sweep.warm_start names, None where it names none.

    Raises: ConfigError where there is no such study, or its trials do not compare with these.
    """
    name = spec.options.warm_start
    if name is None:
        return None
    earlier = _load_study(name, spec)
    if earlier.study_name == spec.hydra_config.hydra.sweeper.study_name:
        raise ConfigError(
            f"sweep.warm_start={name} is this study itself, which goes on by itself; leave it out"
        )
    _check_comparable(earlier, spec, base_config)
    return earlier


def add_trials(study: Study, earlier: Any, folder: Path, console: Console) -> None:
    """Add the trials of `earlier` that `study` has not, and say how many those are."""
    all_trials = earlier.get_trials(deepcopy=False)
    telling = [trial for trial in all_trials if _tells(trial, study)]
    with FileLock(folder / ".warm_start.lock"):
        present = {trial.user_attrs.get(WARM) for trial in study.trials()}
        copies = [_copy_trial(trial, earlier.study_name, study) for trial in telling]
        added = [trial for trial in copies if trial.user_attrs[WARM] not in present]
        study.optuna.add_trials(added)
    left_out = len(all_trials) - len(telling)
    console.info(
        f"{len(added)} trials of study {earlier.study_name} are known; {left_out} say nothing about"
        " this space",
        DONE,
    )


def _load_study(name: str, spec: SweepSpec) -> Any:
    """Return Optuna's study that `name` means: a folder, or a study in the shared storage.

    Raises: ConfigError naming those there are.
    """
    import optuna

    # A study's folder lies beside those of others.
    root = spec.folder.parent
    for folder in (spec.launch_dir / name, root / name):
        if (folder / "multirun.yaml").is_file():
            sweeper = OmegaConf.load(folder / "multirun.yaml").hydra.sweeper
            url = sweeper.storage or storage.default_url(folder)
            return optuna.load_study(study_name=sweeper.study_name, storage=storage.connect(url))
    url = spec.options.storage
    if url is not None and name in storage.list_study_names(url):
        return optuna.load_study(study_name=name, storage=storage.connect(url))
    known = sorted(file.parent.name for file in root.glob("*/multirun.yaml"))
    others = [other for other in known if other != spec.folder.name]
    raise ConfigError(
        f"sweep.warm_start={name} is no study{nearest(name, others)}; in {root} there are"
        f" {listing(others) if others else 'none'}. Give a name there, or the folder of a study"
    )


def _check_comparable(earlier: Any, spec: SweepSpec, base_config: RunConfig) -> None:
    """Raises ConfigError where the trials of `earlier` and these differ in more than parameters."""
    name, dimensions = earlier.study_name, spec.space.dimensions
    varied = {key for trial in earlier.get_trials(deepcopy=False) for key in trial.params}
    if varied and varied != set(dimensions):
        raise ConfigError(
            f"sweep.warm_start={name} does not help: it varied {listing(sorted(varied))} and this"
            f" sweep varies {listing(sorted(dimensions))}; leave it out, or vary the same"
        )
    current = fixed_part.compute(base_config, dimensions, spec.options)
    stored = fixed_part.read(earlier.user_attrs, current, base_config) or {}
    directions = tuple(direction.name.lower() for direction in earlier.directions)
    changes = fixed_part.describe_changes(stored, current)
    if not changes and directions != spec.options.directions:
        changes = f"hydra.sweeper.direction (was {listing(directions)})"
    if changes:
        raise ConfigError(
            f"sweep.warm_start={name} does not help: its trials were run with other settings"
            f" ({changes}) and do not compare with these; set them as they were, or leave it out"
        )


def _tells(trial: Any, study: Study) -> bool:
    """Does `trial`, of another study, say something about a point of this one's space?"""
    is_known = ending_of(trial) in _TELLING and not is_outside(trial)
    return (
        is_known
        and set(trial.params) == set(study.space.dimensions)
        and study.is_in_space(trial.params)
    )


def _copy_trial(trial: Any, name: str, study: Study) -> Any:
    """Return `trial` of study `name` as a trial of `study`."""
    import optuna

    ending = ending_of(trial)
    assert ending is not None
    attrs = {key: trial.user_attrs[key] for key in _KEPT_ATTRS if key in trial.user_attrs}
    is_complete = trial.state is optuna.trial.TrialState.COMPLETE
    return optuna.trial.create_trial(
        state=trial.state,
        values=trial.values if is_complete else None,
        params=dict(trial.params),
        distributions={
            key: make_distribution(dimension) for key, dimension in study.space.dimensions.items()
        },
        user_attrs=attrs | {ENDING: ending.value, WARM: f"{name} #{trial.number}"},
        intermediate_values=dict(trial.intermediate_values),
        constraints=dict(trial.constraints),
    )
