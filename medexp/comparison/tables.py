"""A comparison in words: sentences and rows of text, for a terminal and a page alike."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from medexp.comparison.comparison import (
    AgainstReference,
    ComparedRun,
    RunComparison,
    find_measure_result,
)
from medexp.evaluation.resampling import min_groups_needed
from medexp.evaluation.scorecard import Measure
from medexp.system.units import GIB, duration, figure

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
_WHOLE = {  # what makes two runs more than two adapters
    "model": ("model.name", "model.path", "model.revision", "model.quantisation"),
    "prompt": ("prompt.question", "prompt.completion"),
    "evaluation.max_new_tokens": ("evaluation.max_new_tokens",),
}
_COSTS: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "loss_before": ("held-out loss, before", figure),
    "loss_after": ("held-out loss, after", figure),
    "planned_bytes": ("GiB of VRAM planned", lambda num_bytes: f"{num_bytes / GIB:.2f}"),
    "measured_bytes": ("GiB of VRAM measured", lambda num_bytes: f"{num_bytes / GIB:.2f}"),
    "ceiling_bytes": ("GiB of VRAM allowed", lambda num_bytes: f"{num_bytes / GIB:.2f}"),
    "steps": ("steps", lambda count: f"{count:,}"),
    "trained": ("parameters trained", lambda count: f"{count:,}"),
    "tokens_per_s": ("tokens/s", lambda speed: f"{speed:,.0f}"),
    "elapsed_s": ("whole run", duration),
    "energy_wh": ("GPU energy, Wh", lambda energy: f"{energy:,.1f}"),
}
_ALWAYS = ("loss_", "structure")  # measures that are shown whatever came of them
_FRACTION = re.compile(r"-?\d*\.\d+(e[+-]?\d+)?|-?\d+(\.\d+)?e[+-]?\d+")
# groups whose name says what their other settings are
_NAMED = ("model", "dataset", "prompt", "hardware")


def describe_shared_settings(found: RunComparison) -> str:
    """What all runs have in common, in a line."""
    configured = [run.settings for run in found.runs if run.settings]
    if len(configured) < 2:
        return "Fewer than two of these runs have kept their config."
    common = {key: value for key, value in configured[0].items() if key not in found.differences}
    named = [
        words.format(_round_fraction(common[key], 4))
        for key, words in SHARED.items()
        if common.get(key, "null") != "null"
    ]
    return (
        f"All: {', '.join(named)}; {len(common)} settings are the same in all, different:"
        f" {len(found.differences)}."
    )


def build_setting_rows(found: RunComparison) -> tuple[list[tuple[str, ...]], list[str]]:
    """A row for every setting that differs, a cell for every run; and the names of those that say
    nothing more: they come with another model or data set, or are off where they are known (a run
    of an older medexp has not heard of them)."""
    names = [
        name
        for name, values in found.differences.items()
        if not _follows_from_name(name, found) and not _is_off(values)
    ]
    labels = [run.label for run in found.runs if run.settings]
    cells = {name: dict(zip(labels, found.differences[name], strict=True)) for name in names}
    rows = [
        (name, *_format_cells([cells[name].get(run.label) for run in found.runs])) for name in names
    ]
    return rows, [name for name in found.differences if name not in names]


def _follows_from_name(name: str, found: RunComparison) -> bool:
    group = name.partition(".")[0]
    return group in _NAMED and name != f"{group}.name" and f"{group}.name" in found.differences


def _is_off(values: Sequence[str | None]) -> bool:
    return None in values and all(value in (None, "null", "false", "[]", "0") for value in values)


def _format_cells(values: Sequence[str | None]) -> list[str]:
    """`values` of one setting, fractions with as few digits as tell them apart, and four at least."""
    given = {value for value in values if value is not None}
    for digits in range(4, 18):
        short = {value: _round_fraction(value, digits) for value in given}
        if len({*short.values()}) == len(given):
            break
    return [_shorten_cell(None if value is None else short[value]) for value in values]


def _round_fraction(value: str, digits: int) -> str:
    return (
        min(value, f"{float(value):.{digits}g}", key=len) if _FRACTION.fullmatch(value) else value
    )


def _shorten_cell(value: str | None) -> str:
    text = "–" if value is None else " ".join(value.split())
    return text if len(text) <= 60 else text[:58] + " …"


def build_run_rows(found: RunComparison) -> list[tuple[str, ...]]:
    """A row for every run: label, name, how it ended, what was evaluated, its id in MLflow or its
    folder.
    """
    rows: list[tuple[str, ...]] = []
    for run in found.runs:
        record = run.evaluated.record if run.evaluated else None
        counts = (
            f"{len(record.tuned_losses)} held out, {len(record.cases)} answered"
            if record
            else run.missing
        )
        rows.append((run.label, run.name, run.ended, counts, run.run_id or run.requested_as))
    return rows


def caveats(found: RunComparison) -> list[str]:
    """What a reader must know before comparing: runs that cannot be compared, or only in part, and
    why.
    """
    said = [f"{run.label}: {run.missing}" for run in found.runs if run.evaluated is None]
    silent = [
        run.label
        for run in found.runs
        if run.evaluated is not None and not run.evaluated.record.cases
    ]
    if silent:
        said.append(
            f"{', '.join(silent)}: no question was answered (evaluation.answers=0); compared by"
            " losses alone."
        )
    if found.reference is None:
        return [
            *said,
            (
                "Nothing is compared case by case: fewer than two of these runs have stored answers"
                " or losses."
            ),
        ]
    said += [
        sentence
        for each in found.against_reference
        for sentence in _explain_unshared_cases(found.reference, each)
    ]
    return [*said, found.caution] if found.caution else said


def _explain_unshared_cases(first: ComparedRun, against: AgainstReference) -> Iterator[str]:
    lap, run = against.shared_cases, against.run
    shared_cases, mine, yours = lap.held_out
    answered, my_answers, your_answers = lap.answered
    who = f"{run.label} against {first.label}"
    if not shared_cases and not lap.is_known:
        yield (
            f"{who}: a record is older than the digests of held-out cases, and the counts of"
            f" labelled tokens are not the same ({yours} cases, {mine}): no loss is paired."
        )
    elif not shared_cases:
        yield (
            f"{who}: other held-out cases ({yours} and {mine}, none in common): no loss is paired."
        )
    elif shared_cases < max(mine, yours):
        yield f"{who}: {yours} and {mine} held-out cases, the {shared_cases} in common are paired."
    if my_answers and your_answers and answered < max(my_answers, your_answers):
        yield (
            f"{who}: {your_answers} and {my_answers} answered questions, the {answered} in common"
            " are paired."
        )
    yield from _explain_other_model(first, run, against)


def _explain_other_model(
    first: ComparedRun, run: ComparedRun, against: AgainstReference
) -> Iterator[str]:
    if not (first.settings and run.settings):
        return
    other = [
        names
        for names, keys in _WHOLE.items()
        if any(first.settings.get(key) != run.settings.get(key) for key in keys)
    ]
    if other:
        loss = against.contrast("loss_completion")
        is_unpaired = (
            loss is not None and loss.comparison is None and against.shared_cases.held_out[0]
        )
        alone = " Losses are not paired: the labelled tokens differ." if is_unpaired else ""
        who = f"{run.label} against {first.label}"
        yield (
            f"{who}: another {' and another '.join(other)}; what is compared is that too, not the"
            f" adapter alone.{alone}"
        )


def build_change_rows(found: RunComparison, measures: Sequence[Measure]) -> list[tuple[str, ...]]:
    """A row for every measure and run: measure (once), label, before -> after, verdict, change with
    its interval.
    """
    rows: list[tuple[str, ...]] = []
    for measure in measures:
        title = measure.title
        for run in found.runs:
            line = find_measure_result(run, measure.key)
            if line is not None and line.comparison is not None:
                change = f"{figure(line.before)} -> {figure(line.after)}"
                rows.append((title, run.label, change, line.verdict, line.comparison.figures()))
                title = ""
    return rows


def build_contrast_rows(found: RunComparison, measures: Sequence[Measure]) -> list[tuple[str, ...]]:
    """A row for every measure and other run: measure (once), label, both means over the pairs,
    verdict, difference, p, pairs.
    """
    rows: list[tuple[str, ...]] = []
    for measure in measures:
        title = measure.title
        for against in found.against_reference:
            each = against.contrast(measure.key)
            if each is not None and (compared := each.comparison) is not None:
                means = f"{figure(compared.before)} | {figure(compared.after)}"
                p_values = f"{compared.p_value:.2g} | {each.adjusted_p:.2g}"
                row = (
                    title,
                    against.run.label,
                    means,
                    each.verdict,
                    compared.interval(),
                    p_values,
                    str(compared.pairs),
                )
                rows.append(row)
                title = ""
    return rows


def unchanged_measures(found: RunComparison) -> list[Measure]:
    """The measures beside losses and structure in which no run changed beyond chance, and none
    differs from the reference.
    """
    return [
        each
        for each in found.measures
        if not each.key.startswith(_ALWAYS) and not _is_news(found, each.key)
    ]


def _is_news(found: RunComparison, key: str) -> bool:
    lines = [find_measure_result(run, key) for run in found.runs]
    others = [against.contrast(key) for against in found.against_reference]
    return any(line and line.comparison and line.comparison.is_detected for line in lines) or any(
        each and each.is_hinted for each in others
    )


def reading_notes(found: RunComparison) -> list[str]:
    """How the verdicts are to be read, and what so many comparisons allow."""
    lines = [
        line
        for run in found.runs
        if run.evaluated is not None
        for line in run.evaluated.scorecard.results
    ]
    verdicts = sum(line.comparison is not None for line in lines)
    said = [
        "before -> after is each run against its own base. A verdict there stands for itself: had"
        f" nothing changed, up to one in twenty of the {verdicts} would still claim so."
    ]
    if (first := found.reference) is not None and found.comparisons:
        said += [_explain_correction(first, found.comparisons), *_warn_of_too_few_pairs(found)]
    return said


def _explain_correction(first: ComparedRun, comparisons: int) -> str:
    return (
        f"{first.label} is the reference. better and worse: the 95 % bootstrap interval of the"
        " paired differences is without zero, and the sign test points the same way and holds"
        f" after Holm's correction for all {comparisons} comparisons. maybe: it would hold if it"
        " were the only one; a reason to look again, no finding. Intervals are not corrected. In a"
        " loss every token counts the same, in its sign test every case. Cases are resampled,"
        " training is not: what another seed would change is in none of this (python -m"
        " medexp.train -m sweep=seeds)."
    )


def _warn_of_too_few_pairs(found: RunComparison) -> Iterator[str]:
    """Is there a measure with too few pairs to pass unless others pass before it?"""
    fewest = min(
        each.comparison.groups
        for against in found.against_reference
        for each in against.contrasts
        if each.comparison is not None
    )
    needed = min_groups_needed(found.comparisons)
    if fewest < needed:
        yield (
            f"Beside {found.comparisons} comparisons a measure passes on its own with {needed}"
            f" pairs or more; some here have {fewest}. Compare fewer runs, or answer more"
            " questions: python -m medexp.evaluate run=ID evaluation.answers=N."
        )


def build_cost_rows(found: RunComparison) -> list[tuple[str, ...]]:
    """A row for every figure of cost that some run has, a cell for every run."""
    rows: list[tuple[str, ...]] = []
    for name, (title, written) in _COSTS.items():
        values = [getattr(run.cost, name) for run in found.runs]
        if any(value is not None for value in values):
            rows.append((title, *("–" if value is None else written(value) for value in values)))
    return rows
