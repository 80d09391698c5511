"""Every measure of an evaluation, before and after, case by case and compared. It is made from a
`record.Record` and a lexicon, from nothing else.

MEASURES lists them with the direction that is better; the modules they come from state their rules.
A measure that cannot be taken (no sections in the reference, no English, an answer too short) is
None for that case, the comparison is over the cases that have it on both sides, and where none has,
the card says why.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import exp
from statistics import fmean

from medexp.data.cases import parse_items
from medexp.data.words import split_words
from medexp.evaluation.measures.claim_evidence import gather_evidence
from medexp.evaluation.measures.claims import CONTRADICTED, FABRICATED, check_claims
from medexp.evaluation.measures.clinical_terms import Lexicon
from medexp.evaluation.measures.contradictions import Contradiction, find_contradictions
from medexp.evaluation.measures.contrast_pairs import mark_pairs_told_apart
from medexp.evaluation.measures.forced_choice import LIKELIHOOD_MEASURES
from medexp.evaluation.measures.reference_recall import (
    list_reference_items,
    measure_embedded_recall,
    measure_lexical_recall,
    names_condition,
    split_answer_lines,
)
from medexp.evaluation.measures.safety import (
    Harm,
    find_harmful_advice,
    measure_must_say_coverage,
    split_alternatives,
)
from medexp.evaluation.measures.sections import score_structure
from medexp.evaluation.measures.stated_diagnosis import grade_stated_diagnosis
from medexp.evaluation.measures.text_form import has_same_language, is_closed, measure_repetition
from medexp.evaluation.measures.unsupported_claims import (
    Claim,
    find_unsupported_claims,
    read_evidence,
)
from medexp.evaluation.measures.words import detect_language, end_reasoning, extract_answer
from medexp.evaluation.paired_stats import (
    PairedComparison,
    Proportion,
    compare_pairs,
    estimate_proportion,
)
from medexp.evaluation.record import Answer, AnsweredCase, CaseLoss, Record, mean_loss
from medexp.evaluation.verdicts import (
    MeasuredChange,
    Role,
    Verdict,
    describe_direction,
    give_verdicts,
)

Cosines = Callable[[Sequence[str], Sequence[str]], Sequence[Sequence[float]]]
NO_CASES = "no held-out question was answered"


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


@dataclass(frozen=True)
class HarmfulPassage:
    """A sentence of an answer that could harm, at [start, end) of it, the `rule` that it breaks,
    and the key of the harm measure that counted it.
    """

    key: str
    rule: str
    text: str
    start: int = 0
    end: int = 0


@dataclass(frozen=True)
class ScoredAnswer:
    """The answer of a model to a case: its value of every measure (None where it has none), and the
    places in it that count against it.

    Where a question was answered several times, values are means over the draws, and harms are
    those of every draw; claims and contradictions are those of the first, which is the one shown.
    """

    values: Mapping[str, float | None]
    claims: tuple[Claim, ...]
    contradictions: tuple[Contradiction, ...]
    harms: tuple[HarmfulPassage, ...] = ()

    def describe(self) -> str:
        """Return what counts for and against the answer, in words."""
        harms = f", {len(self.harms)} harmful" if self.harms else ""
        return (
            f"{self.values['structure']:.2f} for its sections,"
            f" {len(self.claims)} unsupported{harms}"
        )


@dataclass(frozen=True)
class MeasureResult:
    """A measure over all cases: before, after and the paired comparison, or the reason why there is
    none.

    `before` is the base that the tuned model is held against: the better one, where it was also
    asked its best way. `against` is that arm, and `bases` has the mean of each that was asked.
    """

    measure: Measure
    before: float | None = None
    after: float | None = None
    comparison: PairedComparison | None = None
    missing: str = ""
    judged: Verdict | None = None
    bases: Mapping[str, float] = field(default_factory=dict)
    against: str = "base"
    harm_before: tuple[float, ...] = ()
    harm_after: tuple[float, ...] = ()

    @property
    def role(self) -> Role:
        """Primary, harm or description."""
        return self.judged.role if self.judged is not None else Role.description

    @property
    def verdict(self) -> str:
        """Improved, worse, no detectable change or too few groups of a primary or harm measure;
        higher, lower or same of a description; or not measured.
        """
        if self.comparison is None:
            return "not measured"
        if self.judged is not None:
            return self.judged.word
        return describe_direction(self.comparison.change)


@dataclass(frozen=True)
class Scorecard:
    """All measures, in the order of MEASURES, and the answers of every case as scored; `base_best`
    is empty where the base was not asked its best way. `primary` names the measures that may give a
    verdict.
    """

    results: tuple[MeasureResult, ...]
    before: tuple[ScoredAnswer, ...]
    after: tuple[ScoredAnswer, ...]
    base_best: tuple[ScoredAnswer, ...] = ()
    questions: tuple[str, ...] = ()
    primary: tuple[str, ...] = DEFAULT_PRIMARY

    def find_result(self, key: str) -> MeasureResult:
        """Return the result of measure `key`."""
        return next(result for result in self.results if result.measure.key == key)

    def side(self, arm: str) -> tuple[ScoredAnswer, ...]:
        """Return the scored answers of `arm`: base, base_best or tuned."""
        return {"base": self.before, "base_best": self.base_best, "tuned": self.after}[arm]

    def results_of(self, role: Role) -> list[MeasureResult]:
        """Return the results of the measures of `role` that were taken."""
        return [result for result in self.results if result.comparison and result.role is role]

    def metrics(self) -> dict[str, float]:
        """Return eval/<measure>/before, after and delta with its interval and p, of what was
        measured; perplexity beside each loss.
        """
        values: dict[str, float] = {}
        for result in self.results:
            before, after, comparison = result.before, result.after, result.comparison
            if comparison is not None and before is not None and after is not None:
                key = result.measure.key
                values |= _list_metrics(key, before, after, comparison)
                if len(result.bases) > 1:
                    values |= {f"eval/{key}/{arm}": mean for arm, mean in result.bases.items()}
        return values


def build_scorecard(record: Record, lexicon: Lexicon, cosines: Cosines | None = None) -> Scorecard:
    """Return the scorecard of `record`; `cosines` (items x lines) adds what is recalled by
    meaning.
    """
    reasons = {"base_best": record.base_best_reasons}
    arms = {
        arm: _add_support(
            _score_arm(record.cases, arm, reasons.get(arm, record.reasons), lexicon, cosines),
            record.verified.get(arm, ()),
        )
        for arm in ("base", "base_best", "tuned")
        if all(case.answers(arm) for case in record.cases)
    }
    bases = {arm: scored for arm, scored in arms.items() if arm != "tuned"}
    groups = record.list_answered_groups()
    losses = {key: _compare_losses(key, record) for key in LOSS_PARTS}
    without_answers = losses | {
        key: _compare_likelihoods(key, record) for key in LIKELIHOOD_MEASURES
    }
    results = [
        without_answers.get(measure.key) or _compare_answers(measure, bases, arms["tuned"], groups)
        for measure in MEASURES
    ]
    results += [*_compare_marks(record), *_compare_benchmarks(record)]
    primary = record.primary or DEFAULT_PRIMARY
    return Scorecard(
        _add_verdicts(results, primary),
        arms["base"],
        arms["tuned"],
        arms.get("base_best", ()),
        tuple(case.question for case in record.cases),
        primary,
    )


def _add_verdicts(
    results: Sequence[MeasureResult], primary: Sequence[str]
) -> tuple[MeasureResult, ...]:
    """Return `results` with a verdict for every measure that was taken."""
    changes = {
        result.measure.key: MeasuredChange(
            find_role(result.measure.key, primary),
            result.measure.better,
            result.comparison,
            result.harm_before,
            result.harm_after,
            result.measure.key in HARMS_BY_CASE,
        )
        for result in results
        if result.comparison is not None
    }
    verdicts = give_verdicts(changes)
    return tuple(replace(result, judged=verdicts.get(result.measure.key)) for result in results)


def find_role(key: str, primary: Sequence[str]) -> Role:
    """Return what measure `key` is for where `primary` are the primary ones."""
    if key in HARM_MEASURES:
        return Role.harm
    return Role.primary if key in primary else Role.description


def _score_arm(
    cases: Sequence[AnsweredCase],
    arm: str,
    reasons: bool,
    lexicon: Lexicon,
    cosines: Cosines | None,
) -> tuple[ScoredAnswer, ...]:
    """Return the scored answers of `arm`, one a case; pairs of cases are marked together."""
    scored = [_score_draws(case, arm, reasons, lexicon, cosines) for case in cases]
    return _add_values(scored, "contrast_pairs", _mark_pairs(cases, arm, reasons))


def _add_support(
    scored: tuple[ScoredAnswer, ...], verified: Sequence[float]
) -> tuple[ScoredAnswer, ...]:
    """Return the answers with whether a verifier says yes to each, where one was asked."""
    if len(verified) != len(scored):
        return scored
    return _add_values(scored, "supported", [float(support > 0) for support in verified])


def _add_values(
    scored: Sequence[ScoredAnswer], key: str, values: Sequence[float | None]
) -> tuple[ScoredAnswer, ...]:
    """Return the answers with the value of one more measure each."""
    return tuple(
        replace(answer, values={**answer.values, key: value})
        for answer, value in zip(scored, values, strict=True)
    )


def _mark_pairs(cases: Sequence[AnsweredCase], arm: str, reasons: bool) -> list[float | None]:
    """Return the share of the draws in which the pair of a case was told apart, None where it is of
    no pair.
    """
    extras = [case.extra for case in cases]
    draws = [
        mark_pairs_told_apart(
            [end_reasoning(answer.text) if reasons else answer.text for answer in of_draw], extras
        )
        for of_draw in zip(*(case.answers(arm) for case in cases), strict=True)
    ]
    return [
        None if None in marks else fmean(mark for mark in marks if mark is not None)
        for marks in zip(*draws, strict=True)
    ]


def _score_draws(
    case: AnsweredCase, arm: str, reasons: bool, lexicon: Lexicon, cosines: Cosines | None
) -> ScoredAnswer:
    """Return the scores of all answers of `arm` to `case` as one: their means."""
    scored = [score_answer(case, answer, reasons, lexicon, cosines) for answer in case.answers(arm)]
    if len(scored) == 1:
        return scored[0]
    values: dict[str, float | None] = {}
    for key in scored[0].values:
        taken = [value for answer in scored if (value := answer.values.get(key)) is not None]
        values[key] = fmean(taken) if taken else None
    harms = tuple(dict.fromkeys(harm for answer in scored for harm in answer.harms))
    return replace(scored[0], values=values, harms=harms)


def score_answer(
    case: AnsweredCase,
    answer: Answer,
    reasons: bool,
    lexicon: Lexicon,
    cosines: Cosines | None = None,
) -> ScoredAnswer:
    """Return all measures of `answer` to `case`; `reasons` where its prompt begins a reasoning.

    Reasoning that was cut off is no answer: such an answer is scored as an empty one.
    """
    text = end_reasoning(answer.text) if reasons else answer.text
    built = score_structure(text)
    # None: too short to tell, and then taken for English, in which the lexicon and the rules are.
    languages = {detect_language(case.question), detect_language(case.reference)}
    is_english = languages <= {"en", None}
    count = len(split_words(extract_answer(text)))
    claims, against = _find_against(case, text, lexicon) if is_english else ((), ())
    is_same_language = has_same_language(text, case.question)
    values: dict[str, float | None] = {
        "structure": built.score,
        "items_per_section": built.items_per_section,
        "unsupported_per_100_words": 100 * len(claims) / count if count and is_english else None,
        "contradictions": float(len(against)) if is_english else None,
        "ended": float(answer.ended),
        "think_closed": float(is_closed(answer.text)) if reasons else None,
        "repetition": measure_repetition(answer.text),
        "same_language": None if is_same_language is None else float(is_same_language),
        "words": float(count),
    }
    content = _score_content(case, text, reasons, lexicon, cosines) if is_english else {}
    forbidden = parse_items(case.extra.get("must_not_say", "")) if is_english else []
    harms = tuple(_name_harm(harm) for harm in find_harmful_advice(text, forbidden))
    content |= {"must_not_say": float(len(harms))} if forbidden else {}
    wrong = _find_wrong_claims(case, text, lexicon) if is_english else ()
    for key in CLAIM_MEASURES if is_english else ():
        content[key] = float(sum(passage.key == key for passage in wrong))
    return ScoredAnswer(values | content, claims, against, (*harms, *wrong))


def _find_wrong_claims(
    case: AnsweredCase, text: str, lexicon: Lexicon
) -> tuple[HarmfulPassage, ...]:
    """Return the statements of an answer that question and reference contradict, or that name what
    is made up.
    """
    known = gather_evidence([case.question, case.reference], lexicon)
    return tuple(
        HarmfulPassage(
            key, claim.why, claim.statement.text, claim.statement.start, claim.statement.end
        )
        for claim in check_claims(text, known)
        for key, verdict in CLAIM_MEASURES.items()
        if claim.verdict == verdict
    )


def _name_harm(harm: Harm) -> HarmfulPassage:
    """Return `harm` with the first wording of its statement as the rule that it breaks."""
    rule = split_alternatives(harm.statement)[0]
    return HarmfulPassage("must_not_say", rule, harm.text, harm.start, harm.end)


def _find_against(
    case: AnsweredCase, text: str, lexicon: Lexicon
) -> tuple[tuple[Claim, ...], tuple[Contradiction, ...]]:
    """Return what in an answer counts against it."""
    known = read_evidence(case.question, case.reference, lexicon)
    claims = find_unsupported_claims(text, known, lexicon)
    return tuple(claims), tuple(find_contradictions(text, case.question, lexicon))


def _score_content(
    case: AnsweredCase, text: str, reasons: bool, lexicon: Lexicon, cosines: Cosines | None
) -> dict[str, float | None]:
    """Return how much of the reference the answer has."""
    values: dict[str, float | None] = {}
    if names := _condition_names(case.extra):
        values["condition_named"] = float(names_condition(text, names, lexicon))
        condition, *synonyms = names
        stated = grade_stated_diagnosis(text, condition, reasons, synonyms)
        values["diagnosis_stated"] = float(stated.is_right)
    required = parse_items(case.extra.get("must_say", ""))
    values["must_say_coverage"] = measure_must_say_coverage(text, required)
    for key, section in (("red_flag_recall", "red flags"), ("precaution_recall", "precautions")):
        wanted = list_reference_items(case.reference, section)
        values[key] = measure_lexical_recall(wanted, text)
        if cosines is not None:
            rows = cosines(wanted, split_answer_lines(text)) if wanted else ()
            values[f"{key}_embedding"] = measure_embedded_recall(rows)
    return values


def _condition_names(extra: Mapping[str, str]) -> list[str]:
    """Return the names of a case's condition, synonyms too; none where it has no condition."""
    names, synonyms = (parse_items(extra.get(name, "")) for name in ("condition", "synonyms"))
    return [*names, *synonyms] if extra.get("condition") else []


def _compare_answers(
    measure: Measure,
    bases: Mapping[str, Sequence[ScoredAnswer]],
    after: Sequence[ScoredAnswer],
    groups: Sequence[str],
) -> MeasureResult:
    """Return the result of `measure`, over the cases that have it in every arm."""
    key = measure.key
    # A way of asking that has no such measure at all (a chain of thought) is no base for it.
    arms = [
        arm
        for arm, answers in bases.items()
        if arm == "base" or any(answer.values.get(key) is not None for answer in answers)
    ]
    rows = [
        ([answer.values.get(key) for answer in (*sides, late)], group)
        for *sides, late, group in zip(*(bases[arm] for arm in arms), after, groups, strict=True)
    ]
    taken = [(values, group) for values, group in rows if None not in values]
    if not taken:
        return MeasureResult(measure, missing=measure.missing or NO_CASES if rows else NO_CASES)
    columns = list(zip(*(values for values, _ in taken), strict=True))
    means = {arm: fmean(column) for arm, column in zip(arms, columns, strict=False)}
    # The tuned model has to beat the base at its best; without a better side it is held against
    # the base that had the same prompt.
    better = max(means, key=lambda arm: measure.better * means[arm]) if measure.better else "base"
    before, after_values = columns[arms.index(better)], columns[-1]
    pairs = list(zip(before, after_values, strict=True))
    result = _compare_values(measure, pairs, [group for _, group in taken])
    is_harm = key in HARM_MEASURES
    return replace(
        result,
        bases=means,
        against=better,
        harm_before=tuple(before) if is_harm else (),
        harm_after=tuple(after_values) if is_harm else (),
    )


def _compare_values(
    measure: Measure, pairs: Sequence[tuple[float, float]], groups: Sequence[str] | None = None
) -> MeasureResult:
    before, after = zip(*pairs, strict=True)
    comparison = compare_pairs(before, after, groups=groups)
    return MeasureResult(measure, comparison.before, comparison.after, comparison)


def _compare_losses(key: str, record: Record) -> MeasureResult:
    """Return loss `key` compared: every token counts the same in before, after, change,
    interval and test.
    """
    measure, take_part = BY_KEY[key], LOSS_PARTS[key]
    before = [take_part(loss) for loss in record.base_losses]
    after = [take_part(loss) for loss in record.tuned_losses]
    if not before or not all(loss.tokens for loss in before):
        return MeasureResult(measure, missing=measure.missing or "no held-out losses were measured")
    comparison = compare_pairs(
        [loss.per_token for loss in before],
        [loss.per_token for loss in after],
        [loss.tokens for loss in after],
        groups=record.groups if len(record.groups) == len(after) else None,
    )
    return MeasureResult(measure, mean_loss(before), mean_loss(after), comparison)


def _compare_likelihoods(key: str, record: Record) -> MeasureResult:
    """Return likelihood measure `key` compared over the held-out cases that have it."""
    measure = BY_KEY[key]
    by_arm = {arm: scores.values(key) for arm, scores in record.likelihoods.items()}
    after = by_arm.pop("tuned", {})
    bases = {arm: values for arm, values in by_arm.items() if values}
    cases = [case for case in after if all(case in values for values in bases.values())]
    if not cases or "base" not in bases:
        return MeasureResult(measure, missing=measure.missing)
    means = {arm: fmean(values[case] for case in cases) for arm, values in bases.items()}
    better = max(means, key=lambda arm: measure.better * means[arm])
    groups = record.map_groups_by_digest()
    result = _compare_values(
        measure,
        [(bases[better][case], after[case]) for case in cases],
        [groups.get(case, case) for case in cases],
    )
    return replace(result, bases=means, against=better)


def _compare_marks(record: Record) -> list[MeasureResult]:
    """Return the judge's marks compared, none where no judge was asked."""
    if record.judged is None:
        return []
    measure = Measure("judge", "judge (1 to 5)", 1)
    # The first cases, as many as were judged, and of these the ones with two marks.
    judgements = zip(
        record.judged.base, record.judged.tuned, record.list_answered_groups(), strict=False
    )
    marked = [
        (base.mark, tuned.mark, group)
        for base, tuned, group in judgements
        if base.mark is not None and tuned.mark is not None
    ]
    if not marked:
        return [MeasureResult(measure, missing=record.judged.failure or "the judge gave no mark")]
    pairs, groups = [(base, tuned) for base, tuned, _ in marked], [group for *_, group in marked]
    return [_compare_values(measure, pairs, groups)]


def _compare_benchmarks(record: Record) -> list[MeasureResult]:
    results = []
    for name, grades in record.benchmarks.items():
        measure = Measure(f"benchmark_{name}", f"{BENCHMARKS.get(name, name)}, accuracy", 1)
        pairs = zip(map(float, grades.base), map(float, grades.tuned), strict=True)
        results.append(_compare_values(measure, [*pairs]))
    return results


def list_accuracies(record: Record) -> list[tuple[str, str, Proportion]]:
    """Return each benchmark's title, side (base, tuned) and accuracy with its two intervals."""
    return [
        (BENCHMARKS.get(name, name), side, estimate_proportion(are_right))
        for name, grades in record.benchmarks.items()
        for side, are_right in (("base", grades.base), ("tuned", grades.tuned))
    ]


def _list_metrics(
    key: str, before: float, after: float, comparison: PairedComparison
) -> dict[str, float]:
    values = {
        "before": before,
        "after": after,
        "delta": after - before,
        "low": comparison.low,
        "high": comparison.high,
        "p": comparison.p_value,
    }
    metrics = {f"eval/{key}/{name}": value for name, value in values.items()}
    if key.startswith("loss_"):
        perplexity = f"eval/perplexity_{key.removeprefix('loss_')}"
        metrics |= {
            f"{perplexity}/before": exp(before),
            f"{perplexity}/after": exp(after),
            f"{perplexity}/delta": exp(after) - exp(before),
        }
    return metrics
