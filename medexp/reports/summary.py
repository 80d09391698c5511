"""What a finished run says about itself: the summary, and every answered question before and after.
Text only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medexp.data.cases import Case
from medexp.evaluation.paired_stats import PairedComparison
from medexp.system.units import GIB, format_duration

NOT_FOR_CLINICAL_USE = (
    "Not for clinical use: these answers are a model's, written to study fine-tuning, and can be"
    " wrong."
)


@dataclass(frozen=True)
class RunSummary:
    """The figures of a finished run.

    Losses are in nats a token, over all tokens; `last_loss` is the training loss of the last step;
    `loss` compares held-out cases by their tokens, `structure` the answers one by one (None where
    none were asked for).
    """

    loss_before: float
    loss_after: float
    last_loss: float
    steps: int
    tokens: int
    steps_s: float
    elapsed_s: float
    trainable: int
    peak_bytes: int
    ceiling_bytes: int
    planned_bytes: int = 0
    loss: PairedComparison | None = None
    structure: PairedComparison | None = None


def run_metrics(outcome: RunSummary) -> dict[str, float]:
    """Return the figures that are logged with the run beside those of its steps."""
    values = {
        "result/loss_before": outcome.loss_before,
        "result/loss_after": outcome.loss_after,
        "result/loss_change": outcome.loss_after - outcome.loss_before,
        "result/elapsed_s": outcome.elapsed_s,
        "result/steps": outcome.steps,
    }
    for name, comparison in (("loss", outcome.loss), ("structure", outcome.structure)):
        if comparison is not None:
            values |= _comparison_metrics(name, comparison)
    if outcome.planned_bytes and outcome.peak_bytes:
        values["vram/planned_bytes"] = outcome.planned_bytes
        values["vram/measured_bytes"] = outcome.peak_bytes
        values["vram/planned_error_percent"] = 100 * (
            outcome.planned_bytes / outcome.peak_bytes - 1
        )
    if outcome.steps_s:
        values["result/training_s"] = outcome.steps_s
        values["result/tokens_per_s"] = outcome.tokens / outcome.steps_s
    return values


def build_summary_rows(outcome: RunSummary, adapter: str, mlflow_run: str) -> list[tuple[str, str]]:
    """Return the rows of the summary table."""
    rows = [
        (
            "held-out loss",
            _describe_change(outcome.loss_before, outcome.loss_after, outcome.loss),
        ),
        ("training loss, last step", f"{outcome.last_loss:.4f}"),
        ("steps", f"{outcome.steps}, {outcome.trainable:,} parameters trained"),
    ]
    if outcome.structure is not None:
        structure = outcome.structure
        rows.insert(
            1,
            (
                "four sections",
                _describe_change(structure.before, structure.after, structure),
            ),
        )
    if outcome.steps_s:
        rows.append(
            (
                "speed",
                f"{outcome.tokens / outcome.steps_s:,.0f} tokens/s over {outcome.tokens:,} tokens",
            )
        )
    if outcome.ceiling_bytes:
        planned = f", {outcome.planned_bytes / GIB:.2f} planned" if outcome.planned_bytes else ""
        rows.append(
            (
                "peak VRAM reserved",
                f"{outcome.peak_bytes / GIB:.2f} of {outcome.ceiling_bytes / GIB:.2f} GiB{planned}",
            )
        )
    return [
        *rows,
        ("whole run", format_duration(outcome.elapsed_s)),
        ("adapter", adapter),
        ("MLflow run", mlflow_run),
    ]


def _comparison_metrics(name: str, comparison: PairedComparison) -> dict[str, float]:
    return {
        f"result/{name}_paired_change": comparison.change,
        f"result/{name}_paired_low": comparison.low,
        f"result/{name}_paired_high": comparison.high,
        # The name is that of the test of before 2026-11-29; the p is that of the sign flips.
        f"result/{name}_sign_test_p": comparison.p_value,
    }


def _describe_change(before: float, after: float, comparison: PairedComparison | None) -> str:
    """Return before -> after, the change with its 95 % interval, cases, groups and p."""
    figures = f"{before:.4f} -> {after:.4f}"
    if comparison is None:
        return figures
    interval = f"{comparison.change:+.3f} [{comparison.low:+.3f}, {comparison.high:+.3f}]"
    return f"{figures} ({interval}, {comparison.sample()}, p {comparison.p_value:.2g})"


def build_answer_columns(
    cases: Sequence[Case], before: Sequence[str], after: Sequence[str]
) -> Mapping[str, Sequence[str]]:
    """Return the answered questions as columns: question, reference, base answer, tuned answer."""
    return {
        "question": [case.question for case in cases],
        "reference": [case.answer for case in cases],
        "base": list(before),
        "tuned": list(after),
    }


def clip_text(text: str, longest: int) -> str:
    """Return `text` with at most `longest` characters, cut at a word (in it, if it is longer than
    that).
    """
    if len(text) <= longest:
        return text
    words = text[:longest].rsplit(maxsplit=1)
    return (words[0] if len(words) == 2 else text[: longest - 2]) + " …"
