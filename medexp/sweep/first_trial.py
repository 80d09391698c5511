"""The trial that comes first: the run as it is configured, in the space or beside it."""

from medexp.errors import BadInput
from medexp.sweep.search import configured
from medexp.sweep.search.proposal import resolve_config
from medexp.sweep.spec import SweepSpec
from medexp.sweep.study.study import Study
from medexp.system import machine
from medexp.system.console import NOTE, Console


def enqueue_configured(study: Study, spec: SweepSpec, console: Console) -> None:
    """Have the run as it is configured tried first: it is the one to beat.

    Outside the space it is a trial beside the others, unless the sweep chooses nothing.
    """
    cfg = spec.compose(study.space.fixed)
    point = configured.find_configured_point(cfg, study.space)
    try:
        resolve_config(cfg, machine.read(), spec.launch_dir)
    except BadInput as error:
        console.info(f"the run as configured is not tried first: {error}", NOTE)
        return
    if point is not None:
        study.enqueue(point)
        return
    if not (study.options.configured_first and study.chooses):
        return
    if str(study.options.sampler["_target_"]).endswith("BruteForceSampler"):
        # Optuna's own takes a trial without parameters for the whole space.
        console.info(
            "the run as configured lies outside the space and is not tried first: the brute-force"
            " sampler knows no other points; hydra/sweeper/sampler=grid tries it",
            NOTE,
        )
        return
    study.enqueue_outside()
    console.info(
        "the run as configured lies outside the space: it is trial 0, beside the"
        f" {study.options.n_trials}; sweep.configured_first=false leaves it out"
    )
