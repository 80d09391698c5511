"""TODO: say what this module holds."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from medexp.evaluation.record import Record
from medexp.evaluation.scorecard import Scorecard
from medexp.reports import run_report
from medexp.tracking.artifact_names import PER_CASE, RECORD, REPORT
from medexp.tracking.tracker import Tracker


def publish_evaluation(
    tracker: Tracker,
    record: Record,
    found: Scorecard,
    about: run_report.ReportHeader,
    step: int,
    folder: Path,
) -> Path:
    """Write record, metrics, tables and report.html to the run in MLflow; record and page also into
    `folder`. Returns the page.
    """
    tracker.log_json(record.as_json(), RECORD)
    tracker.log_metrics(step, found.metrics())
    if record.judged is not None:
        asked = [*record.judged.base, *record.judged.tuned]
        cost = {
            "tokens": sum(each.tokens for each in asked),
            "dollars": sum(each.dollars for each in asked),
        }
        tracker.log_metrics(step, {f"judge/{name}": float(value) for name, value in cost.items()})
    if record.cases:
        tracker.log_table(per_case_table(record, found), PER_CASE)
    rendered = run_report.render_report(record, found, about)
    tracker.log_text(rendered, REPORT)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / REPORT
    file.write_text(rendered, encoding="utf-8")
    beside = folder / RECORD  # where it lies beside the adapter in MLflow, too
    beside.parent.mkdir(exist_ok=True)
    beside.write_text(json.dumps(record.as_json()), encoding="utf-8")
    return file


def per_case_table(record: Record, found: Scorecard) -> Mapping[str, Sequence[object]]:
    """A row for every answered case: its question, and every measure before and after."""
    table: dict[str, list[object]] = {"question": [case.question for case in record.cases]}
    for line in found.results:
        if line.comparison is not None and not line.measure.key.startswith("loss_"):
            table[f"{line.measure.key}_before"] = [
                each.values.get(line.measure.key) for each in found.before
            ]
            table[f"{line.measure.key}_after"] = [
                each.values.get(line.measure.key) for each in found.after
            ]
    for side, scored in (("before", found.before), ("after", found.after)):
        table[f"unsupported_{side}"] = [
            "; ".join(f"{claim.kind}: {claim.text}" for claim in each.claims) for each in scored
        ]
        table[f"contradicting_{side}"] = [
            "; ".join(f"{one.about}: {one.text}" for one in each.contradictions) for each in scored
        ]
    return table


def read_loss_curves(tracker: Tracker) -> dict[str, list[tuple[int, float]]]:
    """The loss curves of a training run, for `run_report.ReportHeader`."""
    return {
        "training_loss": tracker.read_history("train/loss"),
        "held_out_loss": tracker.read_history("eval/loss"),
    }
