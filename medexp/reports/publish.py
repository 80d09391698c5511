"""An evaluation written to its MLflow run: the record, metrics, tables and report.html. All but the
record is computed from the record.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from medexp.evaluation.record import Record
from medexp.evaluation.scorecard import Scorecard
from medexp.reports.run_report import ReportHeader, render_report
from medexp.tracking.artifact_names import PER_CASE, RECORD, REPORT
from medexp.tracking.tracker import Tracker


def publish_evaluation(
    tracker: Tracker,
    record: Record,
    scorecard: Scorecard,
    header: ReportHeader,
    step: int,
    folder: Path,
) -> Path:
    """Write record, metrics, tables and report.html to the run in MLflow; record and page also into
    `folder`. Return the page's path there.
    """
    stored_record, page = record.as_json(), render_report(record, scorecard, header)
    tracker.log_json(stored_record, RECORD)
    tracker.log_metrics(step, scorecard.metrics())
    if record.judged is not None:
        judgements = [*record.judged.base, *record.judged.tuned]
        tokens = float(sum(judgement.tokens for judgement in judgements))
        dollars = float(sum(judgement.dollars for judgement in judgements))
        tracker.log_metrics(step, {"judge/tokens": tokens, "judge/dollars": dollars})
    if record.cases:
        tracker.log_table(per_case_table(record, scorecard), PER_CASE)
    tracker.log_text(page, REPORT)
    folder.mkdir(parents=True, exist_ok=True)
    page_file, record_file = folder / REPORT, folder / RECORD
    page_file.write_text(page, encoding="utf-8")
    # The record lies beside the adapter in MLflow, too.
    record_file.parent.mkdir(exist_ok=True)
    record_file.write_text(json.dumps(stored_record), encoding="utf-8")
    return page_file


def per_case_table(record: Record, scorecard: Scorecard) -> Mapping[str, Sequence[object]]:
    """Return a row for every answered case, as columns: its question, and every measure before and
    after.
    """
    table: dict[str, list[object]] = {"question": [case.question for case in record.cases]}
    sides = (("before", scorecard.before), ("after", scorecard.after))
    for result in scorecard.results:
        key = result.measure.key
        if result.comparison is not None and not key.startswith("loss_"):
            for side, answers in sides:
                table[f"{key}_{side}"] = [answer.values.get(key) for answer in answers]
    for side, answers in sides:
        table[f"unsupported_{side}"] = [
            "; ".join(f"{claim.kind}: {claim.text}" for claim in answer.claims)
            for answer in answers
        ]
        table[f"contradicting_{side}"] = [
            "; ".join(f"{found.about}: {found.text}" for found in answer.contradictions)
            for answer in answers
        ]
        table[f"harmful_{side}"] = [
            "; ".join(harm.text for harm in answer.harms) for answer in answers
        ]
    return table


def read_loss_curves(tracker: Tracker) -> dict[str, list[tuple[int, float]]]:
    """Return the loss curves of a training run, for `run_report.ReportHeader`."""
    return {
        "training_loss": tracker.read_history("train/loss"),
        "held_out_loss": tracker.read_history("eval/loss"),
    }
