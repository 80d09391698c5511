"""The metrics that a run logs, as far as their names are known before it: a typo in an objective is
then found before the first trial and not after it.
"""

from dataclasses import fields
from functools import cache
from typing import Any

from medexp.config.schema import Evaluation
from medexp.errors import nearest
from medexp.evaluation.measure_table import BY_KEY, LOSS_PARTS, MEASURES
from medexp.evaluation.measures.forced_choice import LIKELIHOOD_MEASURES
from medexp.evaluation.paired_stats import compare_pairs
from medexp.evaluation.scorecard import MeasureResult, Scorecard
from medexp.reports import summary

# Metrics of these families depend on the machine and the run, so any name is allowed there.
OPEN_FAMILIES = ("train", "speed", "vram", "host", "judge")
TRIAL_METRICS = (
    "sweep/planned_bytes",
    "sweep/peak_gib",
    "sweep/planned_s",
    "sweep/elapsed_s",
    "sweep/steps",
)


def find_metric_problem(name: str) -> str:
    """Return what is wrong with `name` as a metric, "" where nothing is or only a run can tell."""
    family = name.partition("/")[0]
    if name in _known_metrics() or family in OPEN_FAMILIES or _is_benchmark_metric(name):
        return ""
    return (
        f"{name} is no metric of a run{nearest(name, _known_metrics())}; metrics begin with"
        f" {', '.join(_metric_families())}"
    )


def find_missing_setting(name: str, evaluation: Evaluation) -> str:
    """Return what must be set for a run of this evaluation to log `name`, "" where nothing must."""
    family, _, rest = name.partition("/")
    key, _, figure = rest.partition("/")
    if family != "eval" or not figure or key not in BY_KEY or key in LOSS_PARTS:
        return ""
    if key in LIKELIHOOD_MEASURES:
        return "" if evaluation.likelihoods else "evaluation.likelihoods=true"
    return "" if evaluation.answers else "evaluation.answers=8"


def _is_benchmark_metric(name: str) -> bool:
    """Is it eval/BENCHMARK/FIGURE? A benchmark has a name of its own and a measure's figures."""
    parts = name.split("/")
    return (
        len(parts) == 3
        and parts[0] == "eval"
        and any(metric.endswith(f"/{parts[2]}") for metric in _known_metrics())
    )


def _metric_families() -> list[str]:
    families = {*OPEN_FAMILIES, *(name.partition("/")[0] for name in _known_metrics())}
    return [f"{family}/" for family in sorted(families)]


@cache
def _known_metrics() -> frozenset[str]:
    """Return the metrics of a run that has every figure.

    They are asked of the functions that name them, with made-up figures, so no list can grow stale.
    """
    comparison = compare_pairs([1.0], [1.0])
    figures: dict[str, Any] = {field.name: 1 for field in fields(summary.RunSummary)}
    figures |= {"loss": comparison, "structure": comparison}
    results = tuple(MeasureResult(measure, 1.0, 1.0, comparison) for measure in MEASURES)
    return frozenset(
        {
            *summary.run_metrics(summary.RunSummary(**figures)),
            *Scorecard(results, (), ()).metrics(),
            "eval/loss",
            *TRIAL_METRICS,
        }
    )
