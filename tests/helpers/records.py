"""Runs as they come out of an evaluation, made by hand: as many cases, answers and losses as a test
needs.
"""

from collections.abc import Mapping, Sequence

from helpers.vignettes import QUESTION, REFERENCE
from medexp.comparison.comparison import ComparedRun, Cost
from medexp.comparison.contrasts import EvaluatedRun
from medexp.evaluation.measures import lexicon
from medexp.evaluation.record import Answer, AnsweredCase, CaseLoss, Record
from medexp.evaluation.scorecard import build_scorecard

# Two measures that every record made here has, so that runs can be called better or worse.
PRIMARY = ("loss_answer", "structure")


def evaluated(
    cases: Sequence[int] = range(8),
    answers: int | None = None,
    nats: float = 20.0,
    text: str = REFERENCE,
    digests: bool = True,
    settings: Mapping[str, str] | None = None,
    primary: tuple[str, ...] = PRIMARY,
    **more: object,
) -> EvaluatedRun:
    """A run on held-out `cases`, of which it answered the first `answers` (all); its answers lose
    `nats` / 40 a token.
    """
    said = [
        AnsweredCase(
            f"{QUESTION} {case}",
            REFERENCE,
            {},
            Answer(at, "", 0, False),
            Answer(at, f"So.</think>{text}", 9, True),
        )
        for at, case in enumerate(list(cases)[:answers])
    ]
    names = (
        tuple(
            AnsweredCase(f"{QUESTION} {case}", REFERENCE, {}, said[0].base, said[0].base).digest
            for case in cases
        )
        if said
        else ()
    )
    names = names or tuple(f"case {case}" for case in cases)
    losses = [
        tuple(CaseLoss(2 * value + case / 7, 100 + case, value, 40) for case in cases)
        for value in (30.0, nats)
    ]
    record = Record(
        True,
        tuple(said),
        losses[0],
        losses[1],
        held_out=names if digests else (),
        primary=primary,
        **more,
    )  # type: ignore[arg-type]
    return EvaluatedRun(record, build_scorecard(record, lexicon.load()), settings or {})


def run(
    label: str,
    made: EvaluatedRun | None,
    cost: Cost | None = None,
    missing: str = "",
    **settings: str,
) -> ComparedRun:
    """A finished run with what came of it, and its settings with __ for a dot."""
    known = {name.replace("__", "."): value for name, value in settings.items()}
    page = f"#/experiments/1/runs/id-{label}"
    return ComparedRun(
        label,
        f"run {label}",
        f"asked-{label}",
        f"id-{label}",
        "finished",
        known,
        cost or Cost(),
        made,
        missing,
        page,
    )
