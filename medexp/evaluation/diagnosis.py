"""Does a model find the right diagnosis likelier than others, without being asked to write? For
every case the log-likelihood of its condition's name where the answer names it, minus that of the
same words without the question, against seven other conditions.

The rules, in full:
- The name follows the question in its form (the prompt of the run; the base's own), with nothing in
  the place of the reasoning, and STEM.
- What a name costs without the question (its prior) is taken off, so that neither a short name nor
  a common one wins by that.
- Rivals are conditions of the same specialty, and where there are fewer than RIVALS, of others.
  One that is a synonym of the right condition, or broader or narrower, is none. There are DRAWS
  draws of rivals, the same for every model: the seed is that of the split, and the case's digest.

It sees which diagnosis a model would give, not how it would word it. A tuned model has read the
names of conditions that it was trained on more often than held-out ones; the prior takes that off.
"""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from functools import cache

from medexp.config.shipped import SHIPPED
from medexp.data.cases import Case
from medexp.evaluation.likelihood import (
    Continuation,
    measure_groups,
    measure_log_likelihoods,
)
from medexp.evaluation.measures.conditions import are_related, write_condition_name
from medexp.evaluation.measures.forced_choice import DiagnosisScores
from medexp.evaluation.question_forms import QuestionForm
from medexp.models.adapter_model import AdapterModel

STEM = "The most likely diagnosis is"
RIVALS, DRAWS = 7, 5


def score_diagnoses(
    model: AdapterModel,
    form: QuestionForm,
    cases: Sequence[Case],
    fits: Callable[[int, int], bool],
    shares_prefix: bool,
    seed: int,
    advance: Callable[[int], None] = lambda _: None,
) -> list[DiagnosisScores]:
    """Return the scores of those of `cases` that have a condition, asked in `form`; `seed` draws
    their rivals.

    `fits` and `shares_prefix` are as in `likelihood.measure_log_likelihoods`; `advance` is told how
    many cases have been measured.
    """
    cases = [case for case in cases if case.extra.get("condition")]
    known = list_known_conditions(cases)
    drawn = [draw_rivals(case, known, seed) for case in cases]
    names = [
        [case.extra["condition"], *sorted({rival for draw in draws for rival in draw})]
        for case, draws in zip(cases, drawn, strict=True)
    ]
    everything = list(dict.fromkeys(name for candidates in names for name in candidates))
    ids = {name: tuple(form.encode(f" {write_condition_name(name)}")) for name in everything}
    without = form.encode_prefix("", STEM)
    priors = dict(
        zip(
            everything,
            measure_log_likelihoods(
                model,
                [Continuation(without, ids[name]) for name in everything],
                fits,
                shares_prefix,
            ),
            strict=True,
        )
    )
    prefixes = [form.encode_prefix(case, STEM) for case in cases]
    asked = [
        [Continuation(prefix, ids[name]) for name in candidates]
        for prefix, candidates in zip(prefixes, names, strict=True)
    ]
    measured = measure_groups(model, asked, fits, shares_prefix, advance)
    return [
        DiagnosisScores(
            case.digest,
            candidates[0],
            tuple(candidates),
            tuple(own - priors[name] for own, name in zip(nats, candidates, strict=True)),
            tuple(tuple(candidates.index(rival) for rival in draw) for draw in draws),
        )
        for case, candidates, draws, nats in zip(cases, names, drawn, measured, strict=True)
    ]


def draw_rivals(
    case: Case, known: Mapping[str, str], seed: int, draws: int = DRAWS
) -> list[tuple[str, ...]]:
    """Return `draws` draws of RIVALS conditions that `case` does not have, of its specialty first.

    `known` holds the specialty of every condition ("" where it is not known).
    """
    right = case.extra["condition"]
    specialty = case.extra.get("specialty") or known.get(right, "")
    rivals = sorted(name for name in known if not are_related(name, right))
    near = [name for name in rivals if specialty and known[name] == specialty]
    far = [name for name in rivals if name not in near]
    chance = random.Random(f"{seed} {case.digest}")
    drawn = []
    for _ in range(draws):
        first = chance.sample(near, min(RIVALS, len(near)))
        rest = chance.sample(far, min(RIVALS - len(first), len(far)))
        drawn.append(tuple(first + rest))
    return drawn


def list_known_conditions(cases: Sequence[Case]) -> dict[str, str]:
    """Return the specialty of every shipped condition, and of those of `cases`."""
    return _load_shipped_conditions() | {
        case.extra["condition"]: case.extra.get("specialty", "") for case in cases
    }


@cache
def _load_shipped_conditions() -> dict[str, str]:
    with (SHIPPED / "clinical_cases.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return {row["condition"]: row["specialty"] for row in rows}
