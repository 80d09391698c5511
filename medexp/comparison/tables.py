"""A comparison in words: sentences and rows of text, for a terminal and a page alike."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from medexp.comparison.comparison import (
    AgainstReference,
    ComparedRun,
    RunComparison,
    find_measure_result,
)
from medexp.evaluation.leading_lines import Tone, make_leading_lines
from medexp.evaluation.measure_table import Measure
from medexp.evaluation.resampling import count_groups_needed
from medexp.system.units import GIB, format_duration, format_figure

SHARED = {
    "model.name": "{} fine-tuned",
    "dataset.name": "on {}",
    "prompt.name": "prompt {}",
    "hardware.name": "hardware {}",
    "lora.r": "rank {}",
    "training.learning_rate": "learning rate {}",
    "training.max_seq_tokens": "{} tokens per case",
    "training.max_steps": "{} steps",
    "training.seed": "seed {}",
}
# What makes two runs differ in more than their adapters.
_BEYOND_ADAPTER = {
    "model": ("model.name", "model.path", "model.revision", "model.quantisation"),
    "prompt": ("prompt.question", "prompt.completion"),
    "evaluation.max_new_tokens": ("evaluation.max_new_tokens",),
}
_COSTS: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "loss_before": ("held-out loss, before", format_figure),
    "loss_after": ("held-out loss, after", format_figure),
    "planned_bytes": ("GiB of VRAM planned", lambda num_bytes: f"{num_bytes / GIB:.2f}"),
    "measured_bytes": ("GiB of VRAM measured", lambda num_bytes: f"{num_bytes / GIB:.2f}"),
    "ceiling_bytes": ("GiB of VRAM allowed", lambda num_bytes: f"{num_bytes / GIB:.2f}"),
    "steps": ("steps", lambda count: f"{count:,}"),
    "trained": ("parameters trained", lambda count: f"{count:,}"),
    "tokens_per_s": ("tokens/s", lambda speed: f"{speed:,.0f}"),
    "elapsed_s": ("whole run", format_duration),
    "energy_wh": ("GPU energy, Wh", lambda energy: f"{energy:,.1f}"),
}
# Measures that are shown whatever came of them, by how their keys begin.
_ALWAYS_SHOWN = ("loss_", "structure")
_FRACTION = re.compile(r"-?\d*\.\d+(e[+-]?\d+)?|-?\d+(\.\d+)?e[+-]?\d+")
# Groups whose name says what their other settings are.
_NAMED_GROUPS = ("model", "dataset", "prompt", "hardware")
# A cell that is longer is cut.
_CELL_CHARACTERS = 60


def describe_shared_settings(comparison: RunComparison) -> str:
    """Return what all runs have in common, in a line."""
    configured = [run.settings for run in comparison.runs if run.settings]
    if len(configured) < 2:
        return "Fewer than two of these runs have kept their config."
    common = {
        key: value for key, value in configured[0].items() if key not in comparison.differences
    }
    named = [
        words.format(_round_fraction(common[key], 4))
        for key, words in SHARED.items()
        if common.get(key, "null") != "null"
    ]
    return (
        f"All: {', '.join(named)}; {len(common)} settings are the same in all, different:"
        f" {len(comparison.differences)}."
    )


def build_setting_rows(comparison: RunComparison) -> tuple[list[tuple[str, ...]], list[str]]:
    """Return a row for every setting that differs, a cell for every run; and the names of those
    that say nothing more: they come with another model or data set, or are off where they are known
    (a run of an older medexp has not heard of them).
    """
    names = [
        name
        for name, values in comparison.differences.items()
        if not _follows_from_name(name, comparison) and not _is_off(values)
    ]
    labels = [run.label for run in comparison.runs if run.settings]
    cells = {name: dict(zip(labels, comparison.differences[name], strict=True)) for name in names}
    rows = [
        (name, *_format_cells([cells[name].get(run.label) for run in comparison.runs]))
        for name in names
    ]
    return rows, [name for name in comparison.differences if name not in names]


def _follows_from_name(name: str, comparison: RunComparison) -> bool:
    group = name.partition(".")[0]
    return (
        group in _NAMED_GROUPS
        and name != f"{group}.name"
        and f"{group}.name" in comparison.differences
    )


def _is_off(values: Sequence[str | None]) -> bool:
    return None in values and all(value in (None, "null", "false", "[]", "0") for value in values)


def _format_cells(values: Sequence[str | None]) -> list[str]:
    """Return `values` of one setting, fractions with as few digits as tell them apart, and four at
    least.
    """
    given = {value for value in values if value is not None}
    for digits in range(4, 18):
        short = {value: _round_fraction(value, digits) for value in given}
        if len({*short.values()}) == len(given):
            break
    return [_shorten_cell(None if value is None else short[value]) for value in values]


def _round_fraction(value: str, digits: int) -> str:
    if not _FRACTION.fullmatch(value):
        return value
    return min(value, f"{float(value):.{digits}g}", key=len)


def _shorten_cell(value: str | None) -> str:
    text = "–" if value is None else " ".join(value.split())
    return text if len(text) <= _CELL_CHARACTERS else text[: _CELL_CHARACTERS - 2] + " …"


def build_run_rows(comparison: RunComparison) -> list[tuple[str, ...]]:
    """Return a row for every run: label, name, how it ended, what was evaluated, its id in MLflow
    or its folder.
    """
    rows: list[tuple[str, ...]] = []
    for run in comparison.runs:
        counts = run.missing
        if run.evaluated is not None:
            record = run.evaluated.record
            counts = f"{len(record.tuned_losses)} held out, {len(record.cases)} answered"
        rows.append((run.label, run.name, run.ended, counts, run.run_id or run.requested_as))
    return rows


def caveats(comparison: RunComparison) -> list[str]:
    """Return what a reader must know before comparing: runs that cannot be compared, or only in
    part, and why.
    """
    sentences = [f"{run.label}: {run.missing}" for run in comparison.runs if run.evaluated is None]
    without_answers = [
        run.label for run in comparison.runs if run.evaluated and not run.evaluated.record.cases
    ]
    if without_answers:
        sentences.append(
            f"{', '.join(without_answers)}: no question was answered (evaluation.answers=0);"
            " compared by losses alone."
        )
    if comparison.reference is None:
        return [
            *sentences,
            "Nothing is compared case by case: fewer than two of these runs have stored answers or"
            " losses.",
        ]
    for other in comparison.against_reference:
        sentences += _explain_unshared_cases(comparison.reference, other)
        sentences += _explain_other_model(comparison.reference, other)
    return [*sentences, comparison.caution] if comparison.caution else sentences


def _explain_unshared_cases(reference: ComparedRun, other: AgainstReference) -> Iterator[str]:
    cases, pair = other.shared_cases, f"{other.run.label} against {reference.label}"
    held_out, in_reference, in_other = cases.held_out
    answered, answered_in_reference, answered_in_other = cases.answered
    if not held_out and not cases.is_known:
        yield (
            f"{pair}: a record is older than the digests of held-out cases, and the counts of"
            f" labelled tokens are not the same ({in_other} cases, {in_reference}): no loss is"
            " paired."
        )
    elif not held_out:
        yield (
            f"{pair}: other held-out cases ({in_other} and {in_reference}, none in common): no loss"
            " is paired."
        )
    elif held_out < max(in_reference, in_other):
        yield (
            f"{pair}: {in_other} and {in_reference} held-out cases, the {held_out} in common are"
            " paired."
        )
    are_both_answered = answered_in_reference and answered_in_other
    if are_both_answered and answered < max(answered_in_reference, answered_in_other):
        yield (
            f"{pair}: {answered_in_other} and {answered_in_reference} answered questions, the"
            f" {answered} in common are paired."
        )


def _explain_other_model(reference: ComparedRun, other: AgainstReference) -> Iterator[str]:
    run = other.run
    if not (reference.settings and run.settings):
        return
    differing = [
        name
        for name, keys in _BEYOND_ADAPTER.items()
        if any(reference.settings.get(key) != run.settings.get(key) for key in keys)
    ]
    if not differing:
        return
    loss = other.find_contrast("loss_completion")
    is_unpaired = loss is not None and loss.comparison is None and other.shared_cases.held_out[0]
    yield (
        f"{run.label} against {reference.label}: another {' and another '.join(differing)}; what is"
        " compared is that too, not the adapter alone."
        + (" Losses are not paired: the labelled tokens differ." if is_unpaired else "")
    )


def build_change_rows(
    comparison: RunComparison, measures: Sequence[Measure]
) -> list[tuple[str, ...]]:
    """Return a row for every measure and run: measure (once), label, before -> after, verdict,
    change with its interval.
    """
    rows: list[tuple[str, ...]] = []
    for measure in measures:
        title = measure.title
        for run in comparison.runs:
            result = find_measure_result(run, measure.key)
            if result is not None and result.comparison is not None:
                values = f"{format_figure(result.before)} -> {format_figure(result.after)}"
                change = result.comparison.figures()
                rows.append((title, run.label, values, result.verdict, change))
                title = ""
    return rows


def build_contrast_rows(
    comparison: RunComparison, measures: Sequence[Measure]
) -> list[tuple[str, ...]]:
    """Return a row for every measure and other run: measure (once), label, both means over the
    pairs, verdict, difference, p, pairs.
    """
    rows: list[tuple[str, ...]] = []
    for measure in measures:
        title = measure.title
        for other in comparison.against_reference:
            contrast = other.find_contrast(measure.key)
            if contrast is None or contrast.comparison is None:
                continue
            change = contrast.comparison
            means = f"{format_figure(change.before)} | {format_figure(change.after)}"
            adjusted = "–" if contrast.adjusted_p is None else f"{contrast.adjusted_p:.2g}"
            p_values = f"{change.p_value:.2g} | {adjusted}"
            sample = change.sample().removeprefix("n ")
            shown = (contrast.verdict, change.interval(), p_values, sample)
            rows.append((title, other.run.label, means, *shown))
            title = ""
    return rows


def unchanged_measures(comparison: RunComparison) -> list[Measure]:
    """Return the measures beside losses and structure in which no run changed beyond chance, and
    none differs from the reference.
    """
    return [
        measure
        for measure in comparison.measures
        if not measure.key.startswith(_ALWAYS_SHOWN) and not _has_news(comparison, measure.key)
    ]


def _has_news(comparison: RunComparison, key: str) -> bool:
    results = [find_measure_result(run, key) for run in comparison.runs]
    contrasts = [other.find_contrast(key) for other in comparison.against_reference]
    has_change = any(
        result and result.comparison and result.comparison.is_detected for result in results
    )
    return has_change or any(
        contrast
        and (contrast.is_hinted or (contrast.comparison and contrast.comparison.is_detected))
        for contrast in contrasts
    )


def build_leading_rows(comparison: RunComparison) -> list[tuple[str, str, str, Tone]]:
    """Return for every evaluated run its three lines: label, FORM, MEDICINE or HARM, text, tone."""
    return [
        (run.label, line.name, line.text, line.tone)
        for run in comparison.runs
        if run.evaluated is not None
        for line in make_leading_lines(run.evaluated.scorecard)
    ]


def build_seed_rows(comparison: RunComparison) -> list[tuple[str, ...]]:
    """Return a row for every measure of runs that differ in their seed alone: measure, labels, mean
    of the tuned models, lowest to highest, standard deviation, half an interval over cases.
    """
    return [
        (
            spread.measure.title,
            ", ".join(spread.labels),
            format_figure(spread.mean),
            f"{format_figure(spread.low)} to {format_figure(spread.high)}",
            f"{spread.deviation:.2g}",
            "–" if spread.half_width is None else f"± {spread.half_width:.2g}",
        )
        for spread in comparison.seed_spreads
    ]


def reading_notes(comparison: RunComparison) -> list[str]:
    """Return how the verdicts are to be read, and what so many comparisons allow."""
    notes = [
        "before -> after is each run against its own base. Only primary measures"
        " (evaluation.primary) and harm measures give a verdict; everything else is described."
    ]
    reference = comparison.reference
    if reference is not None and comparison.primary_contrasts:
        notes.append(_explain_correction(reference, len(comparison.primary_contrasts)))
        notes += _warn_of_too_few_groups(comparison)
    elif reference is not None and comparison.num_comparisons:
        notes.append(
            f"{reference.label} is the reference. No primary measure is in both runs, so nothing is"
            " called better or worse: higher and lower are descriptions."
        )
    return notes


def _explain_correction(reference: ComparedRun, comparisons: int) -> str:
    return (
        f"{reference.label} is the reference, and its primary measures are those of the page."
        " better and worse: the BCa 95 % interval of the paired differences is without zero, and"
        " the sign-flip test by group (condition, patient) holds after Holm's correction for all"
        f" {comparisons} comparisons in primary measures. maybe: it would hold if it were the only"
        " one; a reason to look again, no finding. Harm is called worse one-sided below 0.1, or"
        " where a case newly says what it names as harmful. Intervals are not corrected. In a loss"
        " every token counts the same. Groups are resampled, training is not: what another seed"
        " would change is in none of this (python -m medexp.train -m sweep=seeds)."
    )


def _warn_of_too_few_groups(comparison: RunComparison) -> Iterator[str]:
    """Yield a warning where a primary measure has too few groups to pass before others do."""
    contrasts = comparison.primary_contrasts
    fewest = min(contrast.comparison.groups for contrast in contrasts if contrast.comparison)
    needed = count_groups_needed(len(contrasts))
    if fewest < needed:
        yield (
            f"Beside {len(contrasts)} comparisons a measure passes on its own with {needed} groups"
            f" or more; some here have {fewest}. Compare fewer runs, or answer more questions:"
            " python -m medexp.evaluate run=ID evaluation.answers=N."
        )


def build_cost_rows(comparison: RunComparison) -> list[tuple[str, ...]]:
    """Return a row for every figure of cost that some run has, a cell for every run."""
    rows: list[tuple[str, ...]] = []
    for name, (title, write) in _COSTS.items():
        values = [getattr(run.cost, name) for run in comparison.runs]
        if any(value is not None for value in values):
            rows.append((title, *("–" if value is None else write(value) for value in values)))
    return rows
