"""What the final run of a sweep came to, in MLflow and in words."""

from collections.abc import Sequence
from statistics import fmean, stdev

from medexp.sweep.reporting import luck
from medexp.sweep.study.final_results import FinalResult
from medexp.sweep.study.history import StudyHistory
from medexp.tracking.tracker import Tracker

BEFORE, AFTER = "result/loss_before", "result/loss_after"


def final_rows(study: StudyHistory, results: Sequence[FinalResult]) -> list[tuple[str, str]]:
    """Return the rows of the results about the final runs and about luck, none without either."""
    rows = [
        ("final run", describe_final_results(study, results)),
        ("luck", luck.describe_luck(study)),
    ]
    return [(title, text) for title, text in rows if text]


def describe_final_results(study: StudyHistory, results: Sequence[FinalResult]) -> str:
    """Return in a sentence what the final runs came to on the test part, "" without any."""
    if not results:
        return ""
    first = results[0]
    names = dict.fromkeys((AFTER, *study.options.objectives))
    values = [
        f"{name} {_format_values([result.metrics[name] for result in results])}"
        for name in names
        if all(name in result.metrics for result in results)
    ]
    seeds = ", ".join(str(result.seed) for result in results)
    before = f" ({BEFORE} {first.metrics[BEFORE]:.4f})" if BEFORE in first.metrics else ""
    return (
        f"trial {first.trial}'s settings over {first.steps} steps, training.seed={seeds}, on the"
        f" test part: {', '.join(values)}{before}"
    )


def _format_values(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.4f}"
    deviation = stdev(values)
    return f"{fmean(values):.4f} on average, standard deviation {deviation:.4f}"


def log_final_results(parent: Tracker, step: int, results: Sequence[FinalResult]) -> None:
    """Log the mean of the final runs' results with the study's own run, and which run is first."""
    if not results:
        return
    shared = set.intersection(*(set(result.metrics) for result in results))
    names = sorted(name for name in shared if name.startswith("result/"))
    parent.log_metrics(
        step, {f"final/{name}": fmean(run.metrics[name] for run in results) for name in names}
    )
    parent.set_tags({"final.run_id": results[0].run_id, "final.trial": results[0].trial})
