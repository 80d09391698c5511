"""A sweep as a story: the space, the study as an earlier command left it, trial after trial until
there are enough, and the results.
"""

import shlex
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from medexp.cli.hub_shape import fill_hub_shape
from medexp.config.resolve import fill_shape, make_paths_absolute
from medexp.config.schema import RunConfig
from medexp.errors import ConfigError, OutputError, RunInterrupted, first_line
from medexp.sweep import first_trial, fixed_part, warm_start
from medexp.sweep.executor import TrialExecutor
from medexp.sweep.final_run import FinalRun
from medexp.sweep.optimize import TrialScheduler
from medexp.sweep.reporting import best_preset, charts, results
from medexp.sweep.reporting.live_page import LivePage
from medexp.sweep.reporting.live_table import LiveTable
from medexp.sweep.search import configured, labels
from medexp.sweep.search.options import SweepOptions, check_options
from medexp.sweep.search.search_space import parse_search_space
from medexp.sweep.signals import SignalHandlers
from medexp.sweep.spec import SweepSpec
from medexp.sweep.study import storage
from medexp.sweep.study.final_results import FinalResult
from medexp.sweep.study.history import ELAPSED, is_from_other_study, values_of
from medexp.sweep.study.study import Study, open_study
from medexp.sweep.workers.ray_cluster import connect_first
from medexp.system import disk_space
from medexp.system.console import NOTE, Console
from medexp.system.private_names import list_untested_libraries
from medexp.system.units import format_duration
from medexp.tracking.artifact_names import CHARTS
from medexp.tracking.tracker import Tracker


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
    sweep_options = check_options(options)
    console = Console()
    space = parse_search_space(
        sweep_options.params,
        arguments,
        context.config_loader,
        sweep_options.custom_search_space is not None,
    )
    spec = SweepSpec(sweep_options, space, config, context)
    base_config = spec.check()
    final_run = FinalRun(spec, console)
    reserve = final_run.check()
    name = spec.name_study(base_config)
    # A study that is refused for it must not have been begun.
    earlier = warm_start.find_earlier_study(spec, base_config)
    study = _open_study(name, spec, base_config)
    _refuse_spent_budget(study)
    executor = TrialExecutor(study, spec, _make_launcher(spec, task, sweep_options.trial_timeout))
    scheduler = TrialScheduler(study, spec, base_config, executor, console)
    scheduler.costs.reserve = reserve
    _announce(study, spec, base_config, console)
    parent_run = results.open_parent_run(base_config.tracking, study, spec.folder, console.info)
    with parent_run as parent:
        executor.parent_run_id = parent.run_id
        final_results: list[FinalResult] = []
        try:
            scheduler.recover_orphans()
            if earlier is not None:
                warm_start.add_trials(study, earlier, spec.folder, console)
            if all(is_from_other_study(trial) for trial in study.trials()):
                first_trial.enqueue_configured(study, spec, console)
            page = LivePage(parent, study)
            _run_workers(scheduler, LiveTable(console, study), page, sweep_options)
            scheduler.failures.check_has_result()
            if not scheduler.is_cut_by_timeout:
                # A timeout that is meant for short trials must not end the final run.
                executor.set_launcher(_make_launcher(spec, task, trial_timeout=None))
                final_results = final_run.train(study, executor, scheduler.costs)
            elif final_run.is_wanted:
                console.info(
                    "the final run waits for the end of the search: the same command", NOTE
                )
        except BaseException as error:
            # What ended the sweep may keep the results from being written too. The user is told of
            # the first error, which is the cause.
            with suppress(Exception):
                results.log_results(parent, study, _write_best_preset(spec, study))
            raise results.explain_error(error, spec.folder, study) from error
        best_file = _write_best_preset(spec, study)
        results.log_results(parent, study, best_file, final_results)
        _draw_charts(study, base_config, spec.folder / "charts", parent, console)
        registered = results.register_best(base_config.tracking, study, final_results)
    results.print_results(console, study, best_file, registered, final_results)
    return study.best_trials()


def _announce(study: Study, spec: SweepSpec, base_config: RunConfig, console: Console) -> None:
    """Say what is searched, and what a person should know of it before it begins."""
    console.info(labels.format_headline(study, base_config, spec.folder), title=study.name)
    for warning in list_untested_libraries(("hydra-core", "optuna")):
        console.info(warning, NOTE)
    if remark := configured.remark_on_rank(base_config, spec.space):
        console.info(remark, NOTE)
    if not base_config.dataset.validation and study.chooses:
        console.info(
            "dataset.validation=0: the trials are chosen by their test part, which then no longer"
            " judges the best of them; dataset.validation=16 holds other cases out to choose by",
            NOTE,
        )


def _draw_charts(
    study: Study, base_config: RunConfig, folder: Path, parent: Tracker, console: Console
) -> None:
    """Draw the charts and log them; without them the sweep is still complete."""
    try:
        with console.status("drawing the charts"):
            charts.draw_charts(study, base_config, folder)
            parent.log_folder(folder, CHARTS)
    except Exception as error:
        if disk_space.find_disk_full_error(error) is not None:
            raise
        console.info(f"the charts could not be drawn ({first_line(error)})", NOTE)


def _open_study(name: str, spec: SweepSpec, base_config: RunConfig) -> Study:
    """Return the study of `spec`, new or as an earlier command left it, and its folder with it."""
    try:
        spec.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{spec.folder} cannot be written ({error.strerror}); set hydra.sweep.dir=FOLDER"
        ) from error
    url = spec.options.storage or storage.default_url(spec.folder)
    study = open_study(name, url, spec.space, spec.options)
    study.folder = spec.folder
    fixed_part.check_unchanged(study, base_config)
    config_file = spec.folder / "multirun.yaml"
    config_file.touch()
    # hydra.sweeper.storage may hold a password, so only this user may read the file.
    config_file.chmod(0o600)
    OmegaConf.save(spec.hydra_config, config_file)
    return study


def _refuse_spent_budget(study: Study) -> None:
    """Raises ConfigError where the study has more finished trials than the command asks for."""
    done, wanted = study.count_done(), study.options.n_trials
    if done > wanted:
        raise ConfigError(
            f"sweep.n_trials={wanted} is a total and study {study.name} has {done} finished trials"
            f" already: nothing to do; set sweep.n_trials above {done} for more"
        )


def _make_launcher(spec: SweepSpec, task: TaskFunction, trial_timeout: float | None) -> Any:
    from hydra.core.plugins import Plugins

    config = spec.hydra_config.copy()
    with open_dict(config):
        config.hydra.sweeper.trial_timeout = trial_timeout
    launcher = Plugins.instance().instantiate_launcher(
        hydra_context=spec.hydra_context, task_function=task, config=config
    )
    connect_first(launcher)
    return launcher


def _run_workers(
    scheduler: TrialScheduler, table: LiveTable, page: LivePage, options: SweepOptions
) -> None:
    """Run one thread for each trial at a time; this thread shows how far they are and hears Ctrl-C.

    Raises: RunInterrupted after a stop; the error of the sweep that a worker met.
    """
    workers = [threading.Thread(target=scheduler.run, daemon=True) for _ in range(options.n_jobs)]
    next_beat_at = 0.0
    with SignalHandlers(scheduler.request_stop), table:
        for worker in workers:
            worker.start()
        while any(worker.is_alive() for worker in workers) and not scheduler.abandons_trials:
            if time.monotonic() >= next_beat_at:
                scheduler.send_heartbeat()
                next_beat_at = time.monotonic() + options.heartbeat_s / 2
            table.refresh(scheduler.in_flight)
            page.refresh()
            for worker in workers:
                worker.join(0.1 / options.n_jobs)
    page.refresh(at_once=True)
    if scheduler.stop_requests:
        raise RunInterrupted(
            f"stopped with {scheduler.study.count_done()} of {options.n_trials} trials done;"
            " everything is kept, the same command continues",
            scheduler.stopped_by,
        )
    if scheduler.error is not None:
        raise scheduler.error


def _write_best_preset(spec: SweepSpec, study: Study) -> Path | None:
    """Write best.yaml of the best trial, of a Pareto front of the one with the best first
    objective.

    Returns its path, None before there is a best trial.
    """
    trial = results.select_best_trial(study)
    if trial is None:
        return None
    elapsed_s = sum(other.user_attrs.get(ELAPSED, 0.0) for other in study.trials())
    figures = ", ".join(
        f"{name} {value:.6g}"
        for name, value in zip(study.options.objectives, values_of(trial), strict=True)
    )
    if (repeats := study.options.repeats) > 1:
        figures += (
            f" (the mean of {repeats} runs with training.seed from the one below up: the command is"
            " the first of them)"
        )
    folder = shlex.quote(str(spec.folder))
    duration = format_duration(elapsed_s)
    header = (
        f"Question: {study.name}: which {', '.join(study.space.dimensions)} is best?\n"
        f"Result: trial {trial.number} of {study.count_done()}"
        f" ({labels.format_params(trial.params)}): {figures}; {duration} of training in all.\n"
        f"  python -m medexp.train --config-dir {folder} experiment=best"
    )
    composed = spec.compose(study.space.overrides(trial.params))
    cfg = fill_shape(fill_hub_shape(composed), spec.launch_dir)
    # A preset is read from another folder than the sweep was started in.
    cfg = make_paths_absolute(cfg, spec.launch_dir)
    preset = best_preset.format_preset(cfg, spec.compose_defaults, header)
    return best_preset.write_preset(preset, spec.folder)
