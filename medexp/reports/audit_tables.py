"""An audit of the cases on the console: cases in the colours of their parts, lengths, findings."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.text import Text

from medexp.data.audit.inspection import Inspection, describe_missing_columns
from medexp.data.audit.review_sheet import VERDICTS, Review
from medexp.data.token_roles import Role, TokenSpan
from medexp.evaluation.paired_stats import estimate_proportion
from medexp.system.console import DONE, WRONG, Console
from medexp.system.visible import visible

# Of the sixteen colours that every terminal has.
_ROLE_STYLES = {
    Role.instructions: "black on magenta",
    Role.question: "white on blue",
    Role.reasoning: "black on cyan",
    Role.answer: "black on green",
    Role.marks: "black on yellow",
    Role.eos: "bold white on red",
}
# As many of a span are printed.
PREVIEW_CHARACTERS = 130


def print_inspection(inspection: Inspection, files: tuple[Path, Path], console: Console) -> None:
    """Print previews, token lengths, findings and broken rules, and where `files` were written."""
    console.results.print(_build_legend())
    for spans in inspection.previews:
        console.results.print(_render_preview(spans))
    rows = [
        (
            part,
            f"{lengths.median:g}",
            f"{lengths.p95:,}",
            f"{lengths.longest:,}",
            _draw_bars(lengths.bins),
        )
        for part, lengths in inspection.lengths.items()
    ]
    title = f"Tokens per training case, limit {inspection.max_tokens:,}"
    console.table(title, ("part", "median", "p95", "longest", "from 0 to the longest"), rows)
    console.table("", ("", ""), _build_summary_rows(inspection))
    for rule in inspection.broken:
        console.result(rule, WRONG)
    if not inspection.broken:
        console.result("all checks passed", DONE)
    console.result(f"Written: {files[0]} and {files[1]}")


def print_review(review: Review, file: Path, console: Console) -> None:
    """Print what a reviewer found: verdicts with their intervals, kinds, every remark."""
    judged = len(review.verdicts)
    console.result(
        f"{judged} of {review.rows} cases were judged"
        + (f"; {review.changed} more are no longer what they were" if review.changed else "")
    )
    if judged:
        rows = []
        for verdict, meaning in VERDICTS.items():
            share = estimate_proportion([given == verdict for given in review.verdicts])
            low, high = share.wilson
            count = review.verdicts.count(verdict)
            rows.append(
                (verdict, str(count), f"{share.share:.0%} [{low:.0%}, {high:.0%}]", meaning)
            )
        console.table("Judged", ("verdict", "cases", "share, 95 %", "meaning"), rows)
    if review.remarks:
        console.table("Errors by kind", ("kind", "cases"), _count_rows(review.count_kinds()))
    for remark in review.remarks:
        instead = f" -> {remark.instead}" if remark.instead else ""
        console.result(
            visible(f"{remark.condition}: {remark.wrong or remark.kind}{instead}"), WRONG
        )
    console.result(f"Written: {file}")


def _count_rows(counts: Mapping[str, int]) -> list[tuple[str, str]]:
    return [(name, str(count)) for name, count in counts.items()]


def _build_summary_rows(inspection: Inspection) -> list[tuple[str, str]]:
    total = sum(inspection.label_tokens.values())
    shares = ", ".join(
        f"{name} {100 * count / total:.1f} %" for name, count in inspection.label_tokens.items()
    )
    repeats, near_held_out = len(inspection.repeats), len(inspection.near_held_out)
    overlap = (
        f"{len(inspection.leaks)} training cases share a question or 13 words with:"
        f" {', '.join(inspection.measured)}"
    )
    columns = describe_missing_columns(inspection)
    faults = inspection.reasoning
    reasoning = (
        f"{len(faults.empty)} empty, {len(faults.of_another_case)} of another case,"
        f" {len(faults.same_as_answer)} the same as the answer, {len(faults.in_circles)}"
        " repetitive"
    )
    languages = ", ".join(f"{name} {count}" for name, count in inspection.languages[:6])
    return [
        ("cases", inspection.audit.sentence()),
        *([("roles", talk.sentence())] if (talk := inspection.conversations) else []),
        ("in the loss", f"{total:,} tokens, each case once: {shares}"),
        ("near duplicates", f"{repeats} in training, {near_held_out} of a held-out question"),
        ("overlap", overlap),
        ("reasoning", reasoning),
        ("missing values", f"{len(inspection.missing_values)} as answer or reasoning"),
        *([("columns missing", columns)] if columns else []),
        ("language", languages),
    ]


def _draw_bars(bins: tuple[int, ...]) -> str:
    """Return a histogram of `bins` (cases each) in a line of text."""
    tallest = max(bins)
    return "".join(" ▁▂▃▄▅▆▇█"[-(-8 * cases // tallest)] for cases in bins)


def _build_legend() -> Text:
    """Return what the colours mean."""
    text = Text("In the loss: ")
    for role, look in _ROLE_STYLES.items():
        text.append(f" {role.value} ", look).append(" ")
    return text.append("grey: read, not in the loss", "bright_black").append("\n")


def _render_preview(spans: Sequence[TokenSpan]) -> Text:
    """Return a case in the colours of `_ROLE_STYLES`, on few lines; long spans are cut in their
    middle, what is not learnt is grey.
    """
    text = Text()
    for span in spans:
        words = "⟨EOS⟩" if span.role is Role.eos else visible(_cut_middle(span.text))
        text.append(words, _ROLE_STYLES[span.role] if span.learnt else "bright_black")
    return text.append("\n")


def _cut_middle(text: str) -> str:
    text, half = text.replace("\n", "⏎"), PREVIEW_CHARACTERS // 2
    return text if len(text) <= PREVIEW_CHARACTERS else f"{text[:half]} … {text[-half:]}"
