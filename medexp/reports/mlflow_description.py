"""What a run says about itself on its page in MLflow, in Markdown: the question it was made for,
what came of it, what next.
"""

from collections.abc import Mapping, Sequence

from medexp.config.schema import RunConfig
from medexp.evaluation.leading_lines import LeadingLine, Tone, make_leading_lines
from medexp.evaluation.scorecard import MeasureResult, Scorecard
from medexp.reports.console_tables import make_harm_rows
from medexp.reports.summary import NOT_FOR_CLINICAL_USE, RunSummary
from medexp.system.units import GIB, format_duration, format_figure
from medexp.tracking.artifact_names import (
    AUDIT_PAGE,
    BEST_PRESET,
    CHARTS,
    COMPOSED_CONFIG,
    REPORT,
    SWEEP_PAGE,
    TRIALS,
)
from medexp.tracking.views import TRAINING_PAGES

_SHOWN = (
    "loss_completion",
    "loss_answer",
    "structure",
    "condition_named",
    "unsupported_per_100_words",
    "ended",
    "words",
)


def extract_question(yaml: str) -> str:
    """Return the question in the head of an experiment's YAML: what follows `# Question:` up to
    `# Result` or the end of the comment.
    """
    lines: list[str] = []
    for line in yaml.splitlines():
        text = line.removeprefix("#").strip()
        if lines and (not line.startswith("#") or text.startswith(("Result", "python "))):
            break
        if lines or text.startswith("Question:"):
            lines.append(text.removeprefix("Question:").strip())
    return " ".join(lines)


def describe_started_run(config: RunConfig, question: str) -> str:
    """Return the description of a run that is under way."""
    return _join_paragraphs(
        _format_question(question),
        f"{_describe_setup(config)}. Under way, or ended before its figures were complete.",
    )


def describe_finished_run(
    config: RunConfig,
    question: str,
    outcome: RunSummary,
    scorecard: Scorecard,
    page: str,
    run_id: str,
) -> str:
    """Return the description of a finished run; `page` is the path of its page in MLflow
    (`#/experiments/1/runs/...`).
    """
    return _join_paragraphs(
        _format_opening(scorecard, page),
        _format_question(question),
        _list_measures(scorecard),
        "Kept with it: "
        + _format_links(page, (AUDIT_PAGE, "the cases"), (COMPOSED_CONFIG, "the whole config")),
        f"{_describe_setup(config)}: {_describe_effort(outcome)}.",
        _list_commands(run_id),
        f"*{NOT_FOR_CLINICAL_USE}*",
    )


def describe_evaluation(scorecard: Scorecard, page: str) -> str:
    """Return the description of an evaluation of a finished run, which is the run above it."""
    return _join_paragraphs(
        _format_opening(scorecard, page), _list_measures(scorecard), f"*{NOT_FOR_CLINICAL_USE}*"
    )


def describe_study(
    dimensions: Sequence[str],
    best: str,
    figures: Mapping[str, float],
    counts: Mapping[str, int],
    page: str,
    folder: str,
    final: str = "",
) -> str:
    """Return the description of a sweep's own run; `best` is its best point in words, "" before
    there is one, `folder` where it lies, `final` what its final run and its luck came to.
    """
    tally = ", ".join(f"{number} {ending}" for ending, number in counts.items())
    question = _ask_which(dimensions)
    trials = (
        f"Trials: {tally or 'none yet'}. They are nested under this run; `python -m medexp.ui`"
        " links to their comparison."
    )
    if not best:
        return _join_paragraphs(question, trials)
    values = ", ".join(f"{key} **{value:.6g}**" for key, value in figures.items())
    links = _format_links(
        page, (f"{CHARTS}/{SWEEP_PAGE}", "charts"), (TRIALS, "trials"), (BEST_PRESET, BEST_PRESET)
    )
    command = f"    python -m medexp.train --config-dir {folder} experiment=best"
    return _join_paragraphs(
        f"Best so far: **{best}**, {values}. {links}", final, question, trials, command
    )


def describe_running_study(
    dimensions: Sequence[str],
    progress: str,
    now: str,
    running: Sequence[str],
    ended: Sequence[str],
    num_refused: int,
) -> str:
    """Return the description of a sweep that is under way: `progress` as it stood at `now`, a line
    of each trial that runs, and of those that have ended, the best first.
    """
    refused = f"{num_refused} proposals could not fit and were not started." if num_refused else ""
    return _join_paragraphs(
        f"**Under way: {progress}** (at {now}; load the page again for more)",
        _list_under("Running", running),
        _list_under("Ended, the best first", ended),
        refused,
        _ask_which(dimensions),
    )


def _list_under(title: str, lines: Sequence[str]) -> str:
    return "\n".join([f"{title}:", "", *(f"- {line}" for line in lines)]) if lines else ""


def _ask_which(dimensions: Sequence[str]) -> str:
    return f"**Question:** which {', '.join(f'`{name}`' for name in dimensions)} is best?"


def _join_paragraphs(*parts: str) -> str:
    return "\n\n".join(filter(None, parts))


def _format_links(page: str, *artifacts: tuple[str, str]) -> str:
    return " · ".join(
        f"[{text}]({page}/artifacts/{file}?{TRAINING_PAGES})" for file, text in artifacts
    )


def _format_question(question: str) -> str:
    return f"**Question:** {question}" if question else ""


def _describe_setup(config: RunConfig) -> str:
    ceiling = (
        f", ceiling {config.hardware.vram_ceiling_gib:g} GiB"
        if config.hardware.vram_ceiling_gib
        else ""
    )
    return (
        f"`{config.model.name}` on `{config.dataset.name}`, prompt `{config.prompt.name}`, hardware"
        f" `{config.hardware.name}`{ceiling}"
    )


def _format_opening(card: Scorecard, page: str) -> str:
    """Return the three lines and the worst cases; the first line has the link, because it is all
    that can be clicked before MLflow unfolds a description.
    """
    link = _format_links(page, (REPORT, "Before and after, side by side"))
    lines = [f"**{line.name}** {_emphasise(line)}" for line in make_leading_lines(card)]
    rows = [f"- **{row}**" for row in make_harm_rows(card)]
    return "\n".join([f"- {lines[0]} · {link}", *(f"- {line}" for line in lines[1:]), *rows])


def _emphasise(line: LeadingLine) -> str:
    text = line.text.replace(" -> ", " → ")
    return f"**{text}**" if line.tone is Tone.bad else text


def _list_measures(scorecard: Scorecard) -> str:
    """Return a list, because MLflow draws a Markdown table without space between its cells."""
    return "\n".join(
        _format_measure(line)
        for key in _SHOWN
        if (line := scorecard.find_result(key)).comparison is not None
    )


def _format_measure(result: MeasureResult) -> str:
    comparison = result.comparison
    assert comparison is not None
    values = f"{format_figure(result.before)} → {format_figure(result.after)}"
    change = f"{comparison.interval()}, {comparison.sample()}"
    return f"- {result.measure.title}: {values}, {result.verdict} ({change})"


def _describe_effort(outcome: RunSummary) -> str:
    parts = [
        f"{outcome.steps} steps",
        f"{outcome.trainable:,} parameters trained",
        format_duration(outcome.elapsed_s),
    ]
    if outcome.steps_s:
        parts.append(f"{outcome.tokens / outcome.steps_s:,.0f} tokens/s")
    if outcome.ceiling_bytes:
        parts.append(
            f"peak {outcome.peak_bytes / GIB:.2f} GiB of VRAM, {outcome.planned_bytes / GIB:.2f}"
            " planned"
        )
    return ", ".join(parts)


def _list_commands(run_id: str) -> str:
    """Return an indented block: what a person does next with this run."""
    commands = (
        'ask run={} question="..."',
        "evaluate run={}",
        "export run={} to=merged",
        "train experiment=from_run run={}",
    )
    return "\n".join(f"    python -m medexp.{command.format(run_id)}" for command in commands)
