"""What a run says about itself on its page in MLflow, in Markdown: the question it was made for,
what came of it, what next.
"""

from collections.abc import Mapping, Sequence

from medexp.config.schema import RunConfig
from medexp.evaluation.scorecard import Line, Scorecard
from medexp.reports.summary import NOT_FOR_CLINICAL_USE, RunSummary
from medexp.system.units import GIB, duration, figure
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


def question(yaml: str) -> str:
    """The question in the head of an experiment's YAML: what follows `# Question:` up to `# Result`
    or the end of the comment.
    """
    found: list[str] = []
    for line in yaml.splitlines():
        text = line.removeprefix("#").strip()
        if found and (not line.startswith("#") or text.startswith(("Result", "python "))):
            break
        if found or text.startswith("Question:"):
            found.append(text.removeprefix("Question:").strip())
    return " ".join(found)


def begun(run: RunConfig, asked: str) -> str:
    """The description of a run that is under way."""
    return _paragraphs(
        _question(asked), f"{_what(run)}. Under way, or ended before its figures were complete."
    )


def finished(
    run: RunConfig, asked: str, outcome: RunSummary, card: Scorecard, page: str, run_id: str
) -> str:
    """The description of a finished run; `page` is the path of its page in MLflow
    (`#/experiments/1/runs/...`).
    """
    return _paragraphs(
        _opening(card, page),
        _question(asked),
        _measures(card),
        "Kept with it: "
        + _links(
            page, ("data/audit.html", "the cases"), ("config/composed.yaml", "the whole config")
        ),
        f"{_what(run)}: {_effort(outcome)}.",
        _commands(run_id),
        f"*{NOT_FOR_CLINICAL_USE}*",
    )


def measured(card: Scorecard, page: str) -> str:
    """The description of an evaluation of a finished run, which is the run above it."""
    return _paragraphs(_opening(card, page), _measures(card), f"*{NOT_FOR_CLINICAL_USE}*")


def study(
    dimensions: Sequence[str],
    best: str,
    figures: Mapping[str, float],
    counts: Mapping[str, int],
    page: str,
    folder: str,
) -> str:
    """The description of a sweep's own run; `best` is its best point in words, "" before there is
    one, `folder` where it lies.
    """
    tally = ", ".join(f"{number} {ending}" for ending, number in counts.items())
    asked = f"**Question:** which {', '.join(f'`{each}`' for each in dimensions)} is best?"
    trials = (
        f"Trials: {tally or 'none yet'}. They are nested under this run; `python -m medexp.ui`"
        " links to their comparison."
    )
    if not best:
        return _paragraphs(asked, trials)
    said = ", ".join(f"{key} **{value:.6g}**" for key, value in figures.items())
    links = _links(
        page, ("charts/sweep.html", "charts"), ("trials.json", "trials"), ("best.yaml", "best.yaml")
    )
    again = f"    python -m medexp.train --config-dir {folder} experiment=best"
    return _paragraphs(f"Best so far: **{best}**, {said}. {links}", asked, trials, again)


def _paragraphs(*parts: str) -> str:
    return "\n\n".join(filter(None, parts))


def _links(page: str, *artifacts: tuple[str, str]) -> str:
    return " · ".join(
        f"[{text}]({page}/artifacts/{file}?{TRAINING_PAGES})" for file, text in artifacts
    )


def _question(asked: str) -> str:
    return f"**Question:** {asked}" if asked else ""


def _what(run: RunConfig) -> str:
    ceiling = (
        f", ceiling {run.hardware.vram_ceiling_gib:g} GiB" if run.hardware.vram_ceiling_gib else ""
    )
    return (
        f"`{run.model.name}` on `{run.dataset.name}`, prompt `{run.prompt.name}`, hardware"
        f" `{run.hardware.name}`{ceiling}"
    )


def _opening(card: Scorecard, page: str) -> str:
    """One line, all that can be clicked before MLflow unfolds a description."""
    return " ".join(
        filter(
            None, [_verdict(card), _links(page, ("report.html", "Before and after, side by side"))]
        )
    )


def _verdict(card: Scorecard) -> str:
    """The two figures everything turns on, as a sentence."""
    said = [
        f"{title} **{figure(line.before)} → {figure(line.after)}** ({line.verdict})"
        for key, title in (("loss_completion", "held-out loss"), ("structure", "four sections"))
        if (line := card.line(key)).comparison is not None
    ]
    sentence = "; ".join(said)
    return f"{sentence[:1].upper()}{sentence[1:]}." if sentence else ""


def _measures(card: Scorecard) -> str:
    """A list: MLflow draws a Markdown table without any space between its cells."""
    return "\n".join(
        _measure(line) for key in _SHOWN if (line := card.line(key)).comparison is not None
    )


def _measure(line: Line) -> str:
    compared = line.comparison
    assert compared is not None
    change = (
        f"{compared.change:+.3g} [{compared.low:+.3g}, {compared.high:+.3g}], {compared.pairs}"
        " cases"
    )
    return (
        f"- {line.measure.title}: {figure(line.before)} → {figure(line.after)}, {line.verdict}"
        f" ({change})"
    )


def _effort(outcome: RunSummary) -> str:
    said = [
        f"{outcome.steps} steps",
        f"{outcome.trainable:,} parameters trained",
        duration(outcome.elapsed_s),
    ]
    if outcome.steps_s:
        said.append(f"{outcome.tokens / outcome.steps_s:,.0f} tokens/s")
    if outcome.ceiling_bytes:
        said.append(
            f"peak {outcome.peak_bytes / GIB:.2f} GiB of VRAM, {outcome.planned_bytes / GIB:.2f}"
            " planned"
        )
    return ", ".join(said)


def _commands(run_id: str) -> str:
    """An indented block: what a person does next with this run."""
    doors = (
        'ask run={} question="..."',
        "evaluate run={}",
        "export run={} to=merged",
        "train experiment=from_run run={}",
    )
    return "\n".join(f"    python -m medexp.{each.format(run_id)}" for each in doors)
