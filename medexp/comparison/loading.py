"""Runs found again to be compared: what each kept of its config, its answers and its figures, read
from MLflow or an adapter's folder. Loads no model: the stored answers are scored again, in
milliseconds."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from string import ascii_uppercase

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from medexp.comparison.comparison import ComparedRun, Cost, RunComparison, integrate_energy_wh
from medexp.comparison.contrasts import EvaluatedRun
from medexp.config.flatten import list_settings
from medexp.config.former_values import fill_former_values
from medexp.config.resolve import make_movable
from medexp.config.schema import Bias, Lora, Model, ModelShape, RunConfig, Tracking
from medexp.errors import BadInput, RunError
from medexp.evaluation import scorecard
from medexp.evaluation.measures import lexicon
from medexp.evaluation.record import Record
from medexp.models import adapter_files
from medexp.planning.memory_terms import count_lora_parameters
from medexp.planning.planner import LEVER_PARAMS
from medexp.system.units import bytes_of_gib
from medexp.tracking import finished_run, queries
from medexp.tracking.artifact_names import ADAPTER, RECORD
from medexp.tracking.finished_run import FinishedRun
from medexp.tracking.queries import StoredRun

FEWEST, MOST = 2, 12
CAUTION = (
    "The order was made on these same held-out cases: the winner's score is optimistically biased,"
    " because it was selected on these cases."
)
_POWER = re.compile(r"system/gpu_\d+_power_usage_watts")
# So many runs are named in a title.
NAMED = 3


def load_runs(names: Sequence[str], tracking: Tracking, launch_dir: Path) -> RunComparison:
    """Return a comparison of the runs that `names` name (ids, folders of adapters, last), in that
    order.

    Raises: RunError for one that is not there, or two that are the same; DataError for a stored
        evaluation that cannot be read.
    """
    runs = [finished_run.find_run(name, tracking.root or "", launch_dir) for name in names]
    _refuse_repeated(runs)
    more = f" and {len(runs) - NAMED} more" if len(runs) > NAMED else ""
    title = f"Compared: {', '.join(run.name for run in runs[:NAMED])}{more}"
    return _load_comparison(title, runs, tracking)


def _refuse_repeated(runs: Sequence[FinishedRun]) -> None:
    """Refuse runs of which two are the same, whatever they were named by."""
    names: dict[str, str] = {}
    for run in runs:
        identity = run.kept.run_id if run.kept is not None else str(run.adapter)
        if (earlier := names.get(identity)) is not None:
            both = f"{earlier} and {run.asked} are the same run"
            same = run.asked if earlier == run.asked else both
            raise RunError(f"run= names a run twice ({same}); give each once")
        names[identity] = run.asked


def load_study_trials(name: str, tracking: Tracking, launch_dir: Path) -> RunComparison:
    """Return a comparison of the finished trials of study `name`, best first, the best `MOST` of
    them.

    Raises: RunError if there is no such study, or if fewer than two trials have finished.
    """
    ids, objective = queries.find_study(tracking, name)
    if len(ids) < FEWEST:
        raise RunError(
            f"study={name} has {len(ids)} finished trials with {objective} and {FEWEST} are needed;"
            " let the sweep go on"
        )
    which = f"the best {MOST} of {len(ids)}" if len(ids) > MOST else f"all {len(ids)}"
    runs = [finished_run.find_run(run_id, tracking.root or "", launch_dir) for run_id in ids[:MOST]]
    title = f"Study {name}: {which} finished trials by {objective}, best first"
    return replace(_load_comparison(title, runs, tracking), caution=CAUTION)


def _load_comparison(title: str, runs: Sequence[FinishedRun], tracking: Tracking) -> RunComparison:
    labelled = zip(ascii_uppercase, runs, strict=False)
    return RunComparison(title, tuple(_load_run(label, run, tracking) for label, run in labelled))


def _load_run(label: str, run: FinishedRun, tracking: Tracking) -> ComparedRun:
    composed_of = _read_settings(run)
    evaluated, trained = _score_stored_answers(run, composed_of), _find_training_run(run, tracking)
    run_id, ended, page = None, "a folder", ""
    if run.kept is not None:
        run_id, ended = run.kept.run_id, run.kept.status.lower()
        page = f"#/experiments/{run.kept.tracker.experiment_id}/runs/{run_id}"
    return ComparedRun(
        label,
        run.name,
        requested_as=run.asked,
        run_id=run_id,
        ended=ended,
        settings=composed_of,
        cost=_read_cost(run, trained),
        evaluated=evaluated,
        missing="" if evaluated else _explain_missing(run),
        page=page,
        trained_on=trained.trained_on if trained is not None else None,
    )


def _read_settings(run: FinishedRun) -> dict[str, str]:
    """Return what the run was composed of; of the levers what the plan chose, where MLflow has
    it.
    """
    if run.composed is None:
        return {}
    groups = make_movable(OmegaConf.to_container(OmegaConf.load(run.composed)))
    if not isinstance(groups, dict):
        return {}
    composed_of = list_settings({str(name): group for name, group in groups.items()})
    params = run.kept.params if run.kept is not None else {}
    # MLflow has Python's words where a config has YAML's.
    yaml_words = {"None": "null", "True": "true", "False": "false"}
    levers = {
        name: yaml_words.get(params[param], params[param])
        for name, param in LEVER_PARAMS.items()
        if composed_of and param in params
    }
    return composed_of | levers


def _score_stored_answers(run: FinishedRun, composed_of: Mapping[str, str]) -> EvaluatedRun | None:
    if run.record is None:
        return None
    record = Record.from_json(
        run.record.read_text(encoding="utf-8"), f"{RECORD} of run {run.asked}"
    )
    return EvaluatedRun(record, scorecard.build_scorecard(record, lexicon.load()), composed_of)


def _explain_missing(run: FinishedRun) -> str:
    """Return why there is no stored evaluation."""
    if run.kept is None:
        return (
            f"no {RECORD} beside the adapter; measure it first: python -m medexp.evaluate"
            f" run={run.asked}"
        )
    if run.kept.status == "RUNNING":
        return "still running, no stored answers yet"
    if run.kept.status != "FINISHED":
        why = run.kept.tags.get("medexp.ended_by", "no reason kept").partition("\n")[0][:120]
        return f"{run.kept.status.lower()} before its answers were stored ({why})"
    return (
        f"no stored answers ({RECORD}); measure it: python -m medexp.evaluate run={run.kept.run_id}"
    )


def _find_training_run(run: FinishedRun, tracking: Tracking) -> StoredRun | None:
    """Return the run that trained: of an evaluation the one it measured."""
    kept = run.kept
    if kept is not None and "medexp.evaluates" in kept.tags and "mlflow.parentRunId" in kept.tags:
        return queries.find_run(tracking, kept.tags["mlflow.parentRunId"], (ADAPTER,))
    return kept


def _read_cost(run: FinishedRun, kept: StoredRun | None) -> Cost:
    """Return what training took; `kept` is the run that trained."""
    adapter = run.adapter if kept is run.kept or kept is None else kept.artifacts.get(ADAPTER)
    trained = (
        adapter_files.count_parameters(adapter)
        if adapter is not None
        else _count_trained_parameters(run)
    )
    if kept is None:
        return Cost(trained=trained)
    values, steps = kept.metrics, kept.tracker.read_history("train/loss")
    ceiling = kept.tags.get("medexp.vram_ceiling_gib")
    return Cost(
        elapsed_s=values.get("result/elapsed_s"),
        steps=steps[-1][0] if steps else None,
        tokens_per_s=values.get("result/tokens_per_s"),
        trained=trained,
        planned_bytes=_to_int(values.get("vram/planned_bytes")),
        measured_bytes=_read_measured_bytes(values),
        ceiling_bytes=bytes_of_gib(float(ceiling)) if ceiling is not None else None,
        energy_wh=_read_energy_wh(kept),
        loss_before=values.get("result/loss_before"),
        loss_after=values.get("result/loss_after"),
    )


def _count_trained_parameters(run: FinishedRun) -> int | None:
    """Return how many parameters the config of `run` trains: most trials of a sweep keep no adapter
    to count them in. None where the config does not say it.
    """
    if run.composed is None:
        return None
    try:
        loaded = OmegaConf.load(run.composed)
        assert isinstance(loaded, DictConfig)
        stored = fill_former_values(loaded)
        shape = OmegaConf.to_object(
            OmegaConf.merge(
                OmegaConf.structured(ModelShape), OmegaConf.select(stored, "model.shape")
            )
        )
        lora = OmegaConf.to_object(
            OmegaConf.merge(OmegaConf.structured(Lora), OmegaConf.select(stored, "lora"))
        )
    # The config is of an older medexp, or only the weights say what shape the model has.
    except (OmegaConfBaseException, BadInput, ValueError):
        return None
    assert isinstance(shape, ModelShape)
    assert isinstance(lora, Lora)
    return (
        count_lora_parameters(RunConfig(model=Model(shape=shape), lora=lora))
        if lora.bias is Bias.none
        else None
    )


def _read_measured_bytes(values: Mapping[str, float]) -> int | None:
    if "vram/measured_bytes" in values:
        return _to_int(values["vram/measured_bytes"])
    # A run without a plan has only the peak of its steps.
    peak_gib = values.get("vram/peak_gib")
    return bytes_of_gib(peak_gib) if peak_gib is not None else None


def _to_int(value: float | None) -> int | None:
    return None if value is None else int(value)


def _read_energy_wh(kept: StoredRun) -> float | None:
    """Return what the card took, where MLflow has measured one; of several it cannot be told which
    was the run's.
    """
    cards = [name for name in kept.metrics if _POWER.fullmatch(name)]
    return integrate_energy_wh(kept.tracker.read_timed(cards[0])) if len(cards) == 1 else None
