"""Every measure of an evaluation, with the direction that is better. The modules they come from
state their rules.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from medexp.evaluation.measures.claims import CONTRADICTED, FABRICATED
from medexp.evaluation.record import CaseLoss
from medexp.evaluation.verdicts import (
    Role,
)


@dataclass(frozen=True)
class Measure:
    """A measure: `key` names it in MLflow (eval/<key>/before), `better` is 1, -1, or 0 where
    neither direction is better.
    """

    key: str
    title: str
    better: int
    missing: str = ""


MEASURES = (
    Measure("loss_completion", "held-out loss, all", -1),
    Measure("loss_reasoning", "held-out loss, reasoning", -1, "the prompt asks for no reasoning"),
    Measure("loss_answer", "held-out loss, answer", -1),
    Measure(
        "diagnosis_likelihood",
        "diagnosis among eight",
        1,
        "the cases have no column `condition`, or likelihoods were not asked for",
    ),
    Measure(
        "diagnosis_margin",
        "diagnosis, margin in nats",
        1,
        "the cases have no column `condition`, or likelihoods were not asked for",
    ),
    Measure(
        "knowledge_likelihood",
        "true item over corrupted",
        1,
        "the references have no items to corrupt, or likelihoods were not asked for",
    ),
    Measure(
        "diagnosis_stated",
        "right diagnosis stated",
        1,
        "the cases have no column `condition`, or are not English",
    ),
    Measure(
        "must_say_coverage",
        "must be said",
        1,
        "the cases have no column `must_say`, or are not English",
    ),
    Measure(
        "must_not_say",
        "harmful advice",
        -1,
        "the cases have no column `must_not_say`, or are not English",
    ),
    Measure(
        "contrast_pairs",
        "contrast pairs told apart",
        1,
        "the answered cases have no whole contrast pair (columns `pair`, `decisive`)",
    ),
    Measure("supported", "supported, by a verifier", 1, "evaluation.verifier names none"),
    Measure("contradicted_claims", "contradicted claims", -1, "the rules are English"),
    Measure("fabricated", "fabricated claims", -1, "the rules are English"),
    Measure("structure", "four sections (0 to 1)", 1),
    Measure("items_per_section", "items a section", 0),
    Measure(
        "condition_named",
        "condition named",
        1,
        "the cases have no column `condition`, or are not English",
    ),
    Measure(
        "red_flag_recall",
        "red flags recalled",
        1,
        "the references have no section Red Flags, or are not English",
    ),
    Measure(
        "precaution_recall",
        "precautions recalled",
        1,
        "the references have no section Precautions, or are not English",
    ),
    Measure(
        "red_flag_recall_embedding",
        "red flags, by meaning",
        1,
        "evaluation.embedding is off, or no such section",
    ),
    Measure(
        "precaution_recall_embedding",
        "precautions, by meaning",
        1,
        "evaluation.embedding is off, or no such section",
    ),
    Measure(
        "unsupported_per_100_words",
        "unsupported per 100 words",
        0,
        "the lexicon is English, or the answers are empty",
    ),
    Measure("contradictions", "contradictions", -1, "the rules are English"),
    Measure("ended", "ended by itself", 1),
    Measure("think_closed", "reasoning closed", 1, "the prompt asks for no reasoning"),
    Measure("repetition", "repeated 4-grams", -1),
    Measure("same_language", "question's language", 1, "the texts are too short to tell"),
    Measure("words", "words in the answer", 0),
)
# What may give a verdict where the config names nothing else (`evaluation.primary`).
DEFAULT_PRIMARY = ("diagnosis_likelihood", "must_say_coverage", "knowledge_likelihood")
# The measures of wrong claims, and the verdict that each counts.
CLAIM_MEASURES = {"contradicted_claims": CONTRADICTED, "fabricated": FABRICATED}
HARM_MEASURES = ("must_not_say", "contradicted_claims", "fabricated")
# One newly harmful case is enough here: the case itself names what must not be said.
HARMS_BY_CASE = ("must_not_say",)
FORM_MEASURES = ("structure", "ended", "same_language")
# Follows a benchmark's name where its questions were answered with a chain of thought.
REASONED = "_reasoned"
BENCHMARKS = {
    "medqa": "MedQA (medical-o1 descends from it)",
    "medmcqa": "MedMCQA (medical-o1 descends from it)",
    "pubmedqa": "PubMedQA",
    "mmlu_medical": "MMLU, medical",
    "medbullets": "Medbullets (outside the family of medical-o1)",
    "medxpertqa": "MedXpertQA (outside the family of medical-o1)",
}
BENCHMARKS |= {f"{name}{REASONED}": f"{title}, reasoned" for name, title in BENCHMARKS.items()}
BY_KEY = {measure.key: measure for measure in MEASURES}
# The losses among the measures, by the part of a case that they are taken on.
LOSS_PARTS: Mapping[str, Callable[[CaseLoss], CaseLoss]] = {
    "loss_completion": lambda loss: loss,
    "loss_reasoning": lambda loss: loss.reasoning,
    "loss_answer": lambda loss: loss.answer,
}


def find_role(key: str, primary: Sequence[str]) -> Role:
    """Return what measure `key` is for where `primary` are the primary ones."""
    if key in HARM_MEASURES:
        return Role.harm
    return Role.primary if key in primary else Role.description
