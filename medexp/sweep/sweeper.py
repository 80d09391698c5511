"""A sweep as a story: the space, the study as it was left, then trial after trial until there are
enough, and what came of it.
"""

import shlex
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from medexp.config import flatten
from medexp.config.resolve import anchored, with_shape
from medexp.config.schema import RunConfig
from medexp.errors import ConfigError, OutputError, RunInterrupted, first_line
from medexp.sweep.optimize import Trials
from medexp.sweep.reporting import best_preset, charts, results
from medexp.sweep.reporting.live_table import LiveTable
from medexp.sweep.search import labels
from medexp.sweep.search.options import SweepOptions, check_options
from medexp.sweep.search.search_space import parse_search_space
from medexp.sweep.spec import SweepSpec
from medexp.sweep.study import storage
from medexp.sweep.study.study import Study, open_study
from medexp.system import disk_space
from medexp.system.console import NOTE, Screen
from medexp.system.private_names import untested
from medexp.system.stopping import is_same_again
from medexp.system.units import duration
from medexp.tracking.artifact_names import CHARTS
from medexp.tracking.tracker import Tracker

_OBJECTIVE = "hydra.sweeper.objective"
_FIXED_PART = "asked"  # of a study: its fixed part, as `flatten.identity` has it


def sweep(
    options: Mapping[str, Any],
    arguments: Sequence[str],
    config: DictConfig,
    context: HydraContext,
    task: TaskFunction,
) -> list[Any]:
    """Run the sweep; returns the best trials (one, or a Pareto front).

    Raises: BadInput before anything starts; SweepFailed; RunInterrupted, with everything kept for
        the same command.
    """
    asked, show = check_options(options), Screen()
    over = parse_search_space(
        asked.params, arguments, context.config_loader, asked.custom_search_space is not None
    )
    question = SweepSpec(asked, over, config, context)
    base = question.checked()
    study = _open_study(question, base)
    _refuse_spent_budget(study)
    trials = Trials(study, question, base, _make_launcher(question, task), show)
    show.say(labels.format_headline(study, base, question.folder), title=study.name)
    for each in untested(("hydra-core", "optuna")):
        show.say(each, NOTE)
    with results.open_parent_run(base.tracking, study, question.folder, show.say) as parent:
        trials.parent_run_id = parent.run_id
        try:
            trials.take_up()
            if not study.trials():
                _enqueue_defaults(study, base)
            _run_workers(trials, LiveTable(show, study), asked)
            trials.refuse_failures()
        except BaseException as error:
            # what ended the sweep may keep this from being written too; it is the one to be told of
            with suppress(Exception):
                results.log_results(parent, study, _write_best_preset(question, study))
            raise results.explain_error(error, question.folder, study) from error
        best_file = _write_best_preset(question, study)
        results.log_results(parent, study, best_file)
        _draw_charts(study, base, question.folder / "charts", parent, show)
        registered = results.register_best(base.tracking, study)
    results.print_results(show, study, best_file, registered)
    return study.best()


def _draw_charts(
    study: Study, base: RunConfig, folder: Path, parent: Tracker, show: Screen
) -> None:
    """Draw the charts; what the study came to does not depend on them."""
    try:
        with show.stage("drawing the charts"):
            charts.draw_charts(study, base, folder)
            parent.folder(folder, CHARTS)
    except Exception as error:
        if disk_space.out_of_room(error) is not None:
            raise
        show.say(f"the charts could not be drawn ({first_line(error)})", NOTE)


def _open_study(question: SweepSpec, base: RunConfig) -> Study:
    """The study of `question`, new or as it was left."""
    name = question.named(base)
    try:
        question.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{question.folder} cannot be written ({error.strerror}); set hydra.sweep.dir=FOLDER"
        ) from error
    url = question.settings.storage or storage.default_url(question.folder)
    study = open_study(name, url, question.space, question.settings)
    study.folder = question.folder
    _check_base_unchanged(study, base)
    kept = question.folder / "multirun.yaml"
    kept.touch()
    kept.chmod(0o600)  # the storage may hold a password
    OmegaConf.save(question.config, kept)
    return study


def _check_base_unchanged(study: Study, base: RunConfig) -> None:
    """A study compares runs that differ in its dimensions only: refuse another base."""
    varies = tuple(study.space.dimensions)
    now = {name: value for name, value in flatten.identity(base).items() if name not in varies}
    now[_OBJECTIVE] = list(study.settings.objectives)
    attrs = study.optuna.user_attrs
    kept = attrs.get(_FIXED_PART) or _migrate_fixed_part(attrs.get("base"), now, base)
    has_value = any(each.state.name == "COMPLETE" for each in study.trials())
    if kept is not None and not has_value:  # what was optimised has left no trace
        kept[_OBJECTIVE] = now[_OBJECTIVE]
    study.optuna.set_user_attr(_FIXED_PART, now if kept is None else kept)
    if kept is None:
        return
    keys = sorted({*now, *kept})
    changed = [
        f"{key}={now.get(key)} (was {kept.get(key)})"
        for key in keys
        if now.get(key) != kept.get(key)
    ]
    if changed:
        more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
        raise ConfigError(
            f"study {study.name} was begun with other settings: {', '.join(changed[:4])}{more}; "
            "set them back, or give the new study a name: hydra.sweeper.study_name=NAME"
        )


def _migrate_fixed_part(
    kept: dict[str, Any] | None,
    now: Mapping[str, Any],
    base: RunConfig,
) -> dict[str, Any] | None:
    """What an older medexp has `kept` of a study's fixed part, as it is kept today; None where that
    is nothing.

    It kept what the machine had added, which is not held against this one, and absolute paths, of
    which the name has to do; and it kept more.
    """
    if kept is None:
        return None

    def is_same(name: str) -> bool:
        was, given = kept[name], now[name]
        paths = isinstance(was, str) and isinstance(given, str) and Path(was).is_absolute()
        return name in base.asked or (paths and Path(was).name == Path(given).name)

    of_today = (name for name in kept if name in now or flatten.is_of_identity(name))
    return {name: now[name] if name in now and is_same(name) else kept[name] for name in of_today}


def _refuse_spent_budget(study: Study) -> None:
    done, wanted = study.done(), study.settings.n_trials
    if done > wanted:
        raise ConfigError(
            f"sweep.n_trials={wanted} is a total and study {study.name} has {done} finished trials"
            f" already: nothing to do; set sweep.n_trials above {done} for more"
        )


def _make_launcher(question: SweepSpec, task: TaskFunction) -> Any:
    from hydra.core.plugins import Plugins

    return Plugins.instance().instantiate_launcher(
        hydra_context=question.context, task_function=task, config=question.config
    )


def _enqueue_defaults(study: Study, base: RunConfig) -> None:
    """Where a sampler is free to begin anywhere, the run as it is configured comes first: the one
    to beat.
    """
    values = labels.find_configured_point(base, study.space)
    if values is not None and not str(study.settings.sampler["_target_"]).endswith(
        ("GridSampler", "BruteForceSampler")
    ):
        study.enqueue(values)


def _run_workers(trials: Trials, board: LiveTable, asked: SweepOptions) -> None:
    """As many threads as trials at a time; this one shows the table and hears Ctrl-C."""
    workers = [threading.Thread(target=trials.work, daemon=True) for _ in range(asked.n_jobs)]
    beat_at = 0.0
    with _SignalHandlers(trials.asked_to_stop), board:
        for each in workers:
            each.start()
        while any(each.is_alive() for each in workers) and not trials.leaves_now:
            if time.monotonic() >= beat_at:
                trials.beat()
                beat_at = time.monotonic() + asked.heartbeat_s / 2
            board.refresh(trials.in_flight)
            for each in workers:
                each.join(0.1 / asked.n_jobs)
    if trials.stops:
        raise RunInterrupted(
            f"stopped with {trials.study.done()} of {asked.n_trials} trials done; everything is"
            " kept, the same command continues",
            trials.stopped_by,
        )
    if trials.error is not None:
        raise trials.error


def _write_best_preset(question: SweepSpec, study: Study) -> Path | None:
    """best.yaml of the best trial, None before there is one; of a Pareto front, of the one with the
    best first objective.
    """
    trial = results.select_best_trial(study)
    if trial is None:
        return None
    took = sum(each.user_attrs.get("elapsed_s", 0.0) for each in study.trials())
    said = ", ".join(
        f"{name} {value:.6g}"
        for name, value in zip(study.settings.objectives, trial.values, strict=True)
    )
    if (repeats := study.settings.repeats) > 1:
        said += (
            f" (the mean of {repeats} runs with training.seed from the one below up: the command is"
            " the first of them)"
        )
    head = (
        f"Question: {study.name}: which {', '.join(study.space.dimensions)} is best?\n"
        f"Result: trial {trial.number} of {study.done()} ({labels.format_params(trial.params)}): {said}; "
        f"{duration(took)} of training in all.\n"
        f"  python -m medexp.train --config-dir {shlex.quote(str(question.folder))} experiment=best"
    )
    cfg = with_shape(question.compose(study.space.overrides(trial.params)), question.launch_dir)
    anywhere = anchored(cfg, question.launch_dir)
    return best_preset.write_preset(
        best_preset.format_preset(anywhere, question.plain, head), question.folder
    )


class _SignalHandlers:
    """While open, Ctrl-C and SIGTERM call `heard` with their number instead of ending the process."""

    def __init__(self, heard: Callable[[int], None]):
        self._heard = heard
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._before = {
                number: signal.signal(number, self._hear)
                for number in (signal.SIGINT, signal.SIGTERM)
            }

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        if not is_same_again(number):
            self._heard(number)
