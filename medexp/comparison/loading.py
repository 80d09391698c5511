"""Runs found again to be compared: what each kept of its config, its answers and its figures, read
from MLflow or an adapter's folder. Loads no model: the stored answers are scored again, in
milliseconds."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from string import ascii_uppercase

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from medexp.comparison.comparison import ComparedRun, Cost, RunComparison, integrate_energy_wh
from medexp.comparison.contrasts import EvaluatedRun
from medexp.config.flatten import settings
from medexp.config.resolve import movable
from medexp.config.schema import Bias, Lora, Model, ModelShape, RunConfig, Tracking
from medexp.errors import BadInput, RunError
from medexp.evaluation import scorecard
from medexp.evaluation.measures import lexicon
from medexp.evaluation.record import Record
from medexp.models import adapter_files as artifact
from medexp.planning.memory_terms import lora_parameters
from medexp.planning.planner import LEVER_PARAMS
from medexp.system.units import bytes_of_gib
from medexp.tracking import finished_run as finished
from medexp.tracking import queries as kept_runs
from medexp.tracking.artifact_names import ADAPTER, RECORD
from medexp.tracking.finished_run import FinishedRun
from medexp.tracking.queries import KeptRun

FEWEST, MOST = 2, 12
CAUTION = (
    "The order was made on these same held-out cases: the winner's score is optimistically biased,"
    " because it was selected on these cases."
)
_POWER = re.compile(r"system/gpu_\d+_power_usage_watts")
NAMED = 3  # runs in a title


def load_runs(asked: Sequence[str], where: Tracking, launch_dir: Path) -> RunComparison:
    """The runs that `asked` name (ids, folders of adapters, last), in that order.

    Raises: RunError for one that is not there, or two that are the same; DataError for a stored
        evaluation that cannot be read.
    """
    found = [finished.find(each, where.root or "", launch_dir) for each in asked]
    seen: dict[str, str] = {}
    for each in found:
        identity = each.kept.run_id if each.kept is not None else str(each.adapter)
        if identity in seen:
            same = (
                f"{seen[identity]} and {each.asked} are the same run"
                if seen[identity] != each.asked
                else each.asked
            )
            raise RunError(f"run= names a run twice ({same}); give each once")
        seen[identity] = each.asked
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return _load_comparison(
        f"Compared: {', '.join(each.name for each in found[:NAMED])}{more}", found, where
    )


def load_study_trials(name: str, where: Tracking, launch_dir: Path) -> RunComparison:
    """The finished trials of study `name`, best first, the best `MOST` of them.

    Raises: RunError if there is no such study, or if fewer than two trials have finished.
    """
    ids, objective = kept_runs.find_study(where, name)
    if len(ids) < FEWEST:
        raise RunError(
            f"study={name} has {len(ids)} finished trials with {objective} and {FEWEST} are needed;"
            " let the sweep go on"
        )
    chosen = ids[:MOST]
    which = f"the best {MOST} of {len(ids)}" if len(ids) > MOST else f"all {len(ids)}"
    found = [finished.find(each, where.root or "", launch_dir) for each in chosen]
    title = f"Study {name}: {which} finished trials by {objective}, best first"
    return replace(_load_comparison(title, found, where), caution=CAUTION)


def _load_comparison(title: str, found: Sequence[FinishedRun], where: Tracking) -> RunComparison:
    return RunComparison(
        title,
        tuple(
            _load_run(label, each, where)
            for label, each in zip(ascii_uppercase, found, strict=False)
        ),
    )


def _load_run(label: str, each: FinishedRun, where: Tracking) -> ComparedRun:
    made = _read_settings(each)
    evaluated, trained = _score_stored_answers(each, made), _find_training_run(each, where)
    run_id, ended = (
        (each.kept.run_id, each.kept.status.lower())
        if each.kept is not None
        else (None, "a folder")
    )
    page = (
        f"#/experiments/{each.kept.tracker.experiment_id}/runs/{run_id}"
        if each.kept is not None
        else ""
    )
    missing = "" if evaluated else _explain_missing(each)
    digest = trained.trained_on if trained is not None else None
    return ComparedRun(
        label,
        each.name,
        each.asked,
        run_id,
        ended,
        made,
        _read_cost(each, trained),
        evaluated,
        missing,
        page,
        digest,
    )


def _read_settings(each: FinishedRun) -> dict[str, str]:
    """What the run was composed of; of the levers what the plan chose, where MLflow has it."""
    stored = (
        movable(OmegaConf.to_container(OmegaConf.load(each.composed)))
        if each.composed is not None
        else None
    )
    made = (
        settings({str(name): group for name, group in stored.items()})
        if isinstance(stored, dict)
        else {}
    )
    params = each.kept.params if each.kept is not None else {}
    words = {"None": "null", "True": "true", "False": "false"}
    chosen = {
        name: params[param] for name, param in LEVER_PARAMS.items() if made and param in params
    }
    return made | {name: words.get(value, value) for name, value in chosen.items()}


def _score_stored_answers(each: FinishedRun, made: Mapping[str, str]) -> EvaluatedRun | None:
    if each.record is None:
        return None
    record = Record.of_json(
        each.record.read_text(encoding="utf-8"), f"{RECORD} of run {each.asked}"
    )
    return EvaluatedRun(record, scorecard.build_scorecard(record, lexicon.load()), made)


def _explain_missing(each: FinishedRun) -> str:
    """Why there is not a stored evaluation."""
    if each.kept is None:
        return (
            f"no {RECORD} beside the adapter; measure it first: python -m medexp.evaluate"
            f" run={each.asked}"
        )
    if each.kept.status == "RUNNING":
        return "still running, no stored answers yet"
    if each.kept.status != "FINISHED":
        why = each.kept.tags.get("medexp.ended_by", "no reason kept").partition("\n")[0][:120]
        return f"{each.kept.status.lower()} before its answers were stored ({why})"
    return (
        f"no stored answers ({RECORD}); measure it: python -m medexp.evaluate"
        f" run={each.kept.run_id}"
    )


def _find_training_run(each: FinishedRun, where: Tracking) -> KeptRun | None:
    """The run that trained: of an evaluation the one it measured."""
    kept = each.kept
    if kept is not None and "medexp.evaluates" in kept.tags and "mlflow.parentRunId" in kept.tags:
        return kept_runs.find_run(where, kept.tags["mlflow.parentRunId"], (ADAPTER,))
    return kept


def _read_cost(each: FinishedRun, kept: KeptRun | None) -> Cost:
    """What training took: `kept` is the run that trained."""
    adapter = each.adapter if kept is each.kept or kept is None else kept.artifacts.get(ADAPTER)
    trained = (
        artifact.parameters(adapter) if adapter is not None else _count_trained_parameters(each)
    )
    if kept is None:
        return Cost(trained=trained)
    values, steps = kept.metrics, kept.tracker.history("train/loss")
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


def _count_trained_parameters(each: FinishedRun) -> int | None:
    """How many parameters the config of `each` trains: most trials of a sweep keep no adapter to
    count them in. None where the config does not say it."""
    if each.composed is None:
        return None
    try:
        stored = OmegaConf.load(each.composed)
        shape = OmegaConf.to_object(
            OmegaConf.merge(
                OmegaConf.structured(ModelShape), OmegaConf.select(stored, "model.shape")
            )
        )
        lora = OmegaConf.to_object(
            OmegaConf.merge(OmegaConf.structured(Lora), OmegaConf.select(stored, "lora"))
        )
    # of an older medexp, or a shape that the weights alone say
    except (OmegaConfBaseException, BadInput, ValueError):
        return None
    assert isinstance(shape, ModelShape)
    assert isinstance(lora, Lora)
    return (
        lora_parameters(RunConfig(model=Model(shape=shape), lora=lora))
        if lora.bias is Bias.none
        else None
    )


def _read_measured_bytes(values: Mapping[str, float]) -> int | None:
    if "vram/measured_bytes" in values:
        return _to_int(values["vram/measured_bytes"])
    peak = values.get("vram/peak_gib")  # of a run without a plan
    return bytes_of_gib(peak) if peak is not None else None


def _to_int(value: float | None) -> int | None:
    return None if value is None else int(value)


def _read_energy_wh(kept: KeptRun) -> float | None:
    """What the card took, where MLflow has measured one; of several it cannot be told which was the
    run's.
    """
    cards = [name for name in kept.metrics if _POWER.fullmatch(name)]
    return integrate_energy_wh(kept.tracker.timed(cards[0])) if len(cards) == 1 else None
