"""Does a model find what the references say likelier than the same with one fact turned wrong,
without being asked to write? Every reference item against its minimal corruptions.

The rules, in full:
- The item follows the question in its form (the prompt of the run; the base's own), with nothing in
  the place of the reasoning, and the heading of the item's section. The heading and the rest of the
  reference are the same for both, and are not counted.
- An item is preferred where it costs fewer nats a token (`measures.forced_choice` says why).
- The corruptions are made by rules (`measures.corruptions`), at most MAX_A_CASE a case, the same
  for every model.

It sees errors of relation (the dose of one drug given to another, left for right, "rest at home")
that a comparison of terms cannot see. It says nothing of what a model writes by itself.
"""

from collections.abc import Callable, Sequence

from medexp.data.cases import Case
from medexp.evaluation.likelihood import Continuation, measure_groups
from medexp.evaluation.measures.corruptions import Corruption, corrupt_reference
from medexp.evaluation.measures.forced_choice import ItemScores, KnowledgeScores
from medexp.evaluation.question_forms import QuestionForm
from medexp.models.adapter_model import AdapterModel


def score_knowledge(
    model: AdapterModel,
    form: QuestionForm,
    cases: Sequence[Case],
    fits: Callable[[int, int], bool],
    shares_prefix: bool,
    advance: Callable[[int], None] = lambda _: None,
) -> list[KnowledgeScores]:
    """Return the scores of those of `cases` whose reference has items that can be corrupted, asked
    in `form`.

    `fits` and `shares_prefix` are as in `likelihood.measure_log_likelihoods`; `advance` is told how
    many cases have been measured.
    """
    found = [(case, corrupt_reference(case.answer, case.question)) for case in cases]
    corrupted = [(case, corruptions) for case, corruptions in found if corruptions]
    advance(len(cases) - len(corrupted))
    asked = [
        _build_continuations(corruptions, form.encode_prefix(case, ""), form.encode)
        for case, corruptions in corrupted
    ]
    measured = measure_groups(
        model, [[*texts.values()] for texts in asked], fits, shares_prefix, advance
    )
    scores = []
    for (case, corruptions), texts, values in zip(corrupted, asked, measured, strict=True):
        nats = dict(zip(texts, values, strict=True))
        pairs = tuple(_pair_scores(corruption, texts, nats) for corruption in corruptions)
        group = case.extra.get("condition", case.digest)
        scores.append(KnowledgeScores(case.digest, group, pairs))
    return scores


Key = tuple[str, str]


def _build_continuations(
    corruptions: Sequence[Corruption],
    prefix: tuple[int, ...],
    encode: Callable[[str], list[int]],
) -> dict[Key, Continuation]:
    """Return each text once, by its section and words; what precedes the item is not counted."""
    continuations: dict[Key, Continuation] = {}
    for corruption in corruptions:
        heading = encode(f"## {corruption.section.title()}\n-")
        for text in (corruption.item, corruption.text):
            ids = encode(f" {text}")
            continuations[corruption.section, text] = Continuation(
                prefix, (*heading, *ids), len(heading)
            )
    return continuations


def _pair_scores(
    corruption: Corruption, texts: dict[Key, Continuation], nats: dict[Key, float]
) -> ItemScores:
    true, corrupted = (
        (corruption.section, corruption.item),
        (corruption.section, corruption.text),
    )
    return ItemScores(
        corruption.kind,
        -nats[true],
        texts[true].counted,
        -nats[corrupted],
        texts[corrupted].counted,
    )
