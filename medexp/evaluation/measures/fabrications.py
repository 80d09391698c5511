"""What in a text can't be: drugs that nobody makes, and doses that nobody gives. By two lists and a
few shapes.

The rules, in full:
- A word is shaped like a drug when it has the ending of a class (DRUG_ENDINGS, international
  nonproprietary name stems) behind at least MIN_HEAD letters. It is invented when it is part of no
  name in the lexicon, nor in the evidence. WORDS_SO_SHAPED are words of other kinds with such an
  ending.
- A dose belongs to the drug named last before it in its sentence, at most NEAR words away, or to
  the one right behind it ("4 g of paracetamol"). By route (oral, where none is named) it is
  compared with dose_limits.tsv: the dose itself with the largest single dose (or the largest daily
  one), times how often a day with the largest daily one; "3 g a day" is a day's dose. How often
  is read up to the next dose or drug. A dose by weight or surface (mg/kg) is not
  judged.

Source: dose_limits.tsv names one for every row. It holds adult doses: in children a smaller dose is
too much, which is not seen.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from medexp.data.words import split_words
from medexp.evaluation.measures.clinical_terms import Lexicon, Mention, find_mentions
from medexp.evaluation.measures.quantities import Quantity, find_quantities
from medexp.evaluation.measures.words import fold_spelling, to_singular

# Letters before the ending of a class, and words between a drug and its dose.
MIN_HEAD, NEAR = 3, 4
DRUG_ENDINGS = (
    "mab", "tinib", "ciclib", "parib", "rafenib", "zomib", "pril", "sartan", "olol", "dipine",
    "vastatin", "cillin", "mycin", "micin", "floxacin", "cycline", "conazole", "prazole", "gliptin",
    "gliflozin", "glitazone", "glutide", "ciclovir", "cyclovir", "navir", "tegravir", "buvir",
    "asvir", "parin", "xaban", "gatran", "triptan", "setron", "oxetine", "azepam", "zolam",
    "barbital", "caine", "lukast", "dronate", "terol", "tidine", "thiazide", "semide", "profen",
    "coxib", "fibrate", "sone", "solone", "olone", "curium", "curonium", "platin", "rubicin",
    "taxel", "bactam", "penem", "sulfa", "quine", "oxacin", "peridone", "apine", "idone", "trexate",
)  # fmt: skip
WORDS_SO_SHAPED = frozenset(
    "cocaine vaccine monotone methadone ketone hydrocarbon unison comparison poison prison"
    " person reason season mason samson thomson johnson jackson anderson wilson robinson"
    " parkinson addison pristine routine medicine quinine carbapenem penicillin macrolide"
    " protocol alcohol cholesterol sterol glycerol aldosterone testosterone progesterone"
    " corticosterone cortisone androstenedione dehydroepiandrosterone gemstone cornerstone"
    " milestone gallstone kidneystone pheromone erythromycin april headache chloroquine"
    " adenine esmolol quinolone fluoroquinolone anthracycline povidone nirsevimab".split()
)
_WORD = re.compile(r"[A-Za-z][a-z]{5,}")
_SHAPE = re.compile(rf"^[a-z]{{{MIN_HEAD},}}(?:{'|'.join(DRUG_ENDINGS)})$")
_SENTENCE = re.compile(r"[^.!?\n](?:[^.!?\n]|\.(?=\d))*")
_BY_SIZE = re.compile(r"\s*(?:/|per\s+)\s*(?:kg|kilo\w*|m2|m²|square|hour|h\b|min)", re.IGNORECASE)
_ROUTES = {
    "intravenous": re.compile(r"\b(?:iv|i\.v\.|intravenous\w*|infusion|infused|bolus)(?!\w)", re.I),
    "intramuscular": re.compile(r"\b(?:im|i\.m\.|intramuscular\w*)(?!\w)", re.I),
    "inhaled": re.compile(r"\b(?:inhal\w+|nebuli\w+|puffs?)\b", re.I),
    "other": re.compile(
        r"\b(?:topical\w*|rectal\w*|subcutaneous\w*|intrathecal\w*|gel|cream)\b", re.I
    ),
}
_TIMES_A_DAY = tuple(
    (re.compile(rf"\b(?:{wordings})\b", re.I), times)
    for wordings, times in (
        (r"six times (?:a day|daily)|every 4 hours|4[- ]hourly|q4h", 6),
        (r"four times (?:a day|daily)|every (?:6|six) hours|6[- ]hourly|q6h|qid|qds", 4),
        (r"three times (?:a day|daily)|every (?:8|eight) hours|8[- ]hourly|q8h|tid|tds", 3),
        (r"twice (?:a day|daily)|every (?:12|twelve) hours|12[- ]hourly|q12h|bid|bd", 2),
    )
)
# Behind a dose: it is that of a whole day ("at most 3 g daily").
_A_DAY = re.compile(
    r"\s*(?:/|an?\s|per\s|in\s|each\s|every\s)?\s*(?:day|daily|24 ?h)", re.IGNORECASE
)
FILE = Path(__file__).with_name("dose_limits.tsv")


@dataclass(frozen=True)
class DoseLimit:
    """The largest dose and the largest daily dose of a drug by a route, in mg; None where its
    source gives none.
    """

    single_mg: float | None
    daily_mg: float | None
    source: str


@dataclass(frozen=True)
class ExcessiveDose:
    """A dose above its limit, and why in a sentence."""

    drug: str
    quantity: Quantity
    reason: str


@cache
def load_dose_limits() -> Mapping[tuple[str, str], DoseLimit]:
    """Return the limits by drug name and route."""
    limits: dict[tuple[str, str], DoseLimit] = {}
    for line in FILE.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            names, route, single, daily, source = line.split("\t")
            limit = DoseLimit(_parse_number(single), _parse_number(daily), source)
            limits |= {(name, route): limit for name in names.split("|")}
    return limits


def find_invented_drugs(text: str, lexicon: Lexicon, evidence: str = "") -> list[str]:
    """Return the drug-shaped words of `text` that are in no name of `lexicon` nor in `evidence`."""
    shaped = [
        match[0] for match in _WORD.finditer(text) if _SHAPE.match(to_singular(match[0].casefold()))
    ]
    if not shaped:
        return []
    known = {
        to_singular(fold_spelling(word)) for word in split_words(evidence)
    } | _list_lexicon_words(lexicon)
    return [
        word
        for word in dict.fromkeys(shaped)
        if to_singular(fold_spelling(word.casefold())) not in known
        and to_singular(word.casefold()) not in WORDS_SO_SHAPED
    ]


def find_excessive_doses(text: str, lexicon: Lexicon) -> list[ExcessiveDose]:
    """Return the doses of `text` above what an adult is given by that route."""
    excessive_doses = []
    for match in _SENTENCE.finditer(text):
        doses = [quantity for quantity in find_quantities(match[0]) if quantity.unit == "mg"]
        drugs = (
            [mention for mention in find_mentions(match[0], lexicon) if mention.kind == "drug"]
            if doses
            else []
        )
        for dose in doses:
            others = [other.start for other in doses] + [drug.start for drug in drugs]
            until = min((at for at in others if at >= dose.end), default=len(match[0]))
            excess = _find_excess(match[0], dose, drugs, until)
            if excess:
                excessive_doses.append(excess)
    return excessive_doses


def _find_excess(
    sentence: str, dose: Quantity, drugs: list[Mention], until: int
) -> ExcessiveDose | None:
    """Return why `dose` is too much, None where it is not; how often it is given stands before
    `until`, where the next dose or drug begins.
    """
    drug = _find_drug_of_dose(sentence, dose, drugs)
    if drug is None or drug.negated or _BY_SIZE.match(sentence, dose.end):
        return None
    limit = _find_limit(drug, _find_route(sentence))
    if limit is None:
        return None
    how_often = sentence[dose.end : until]
    times = next((count for rule, count in _TIMES_A_DAY if rule.search(how_often)), 1)
    is_total = times == 1 and bool(_A_DAY.match(how_often))
    most = limit.daily_mg if is_total else limit.single_mg or limit.daily_mg
    if most and dose.value > most:
        return ExcessiveDose(drug.text, dose, _explain_excess(drug, dose, 1, most, limit.source))
    if limit.daily_mg and dose.value * times > limit.daily_mg:
        return ExcessiveDose(
            drug.text, dose, _explain_excess(drug, dose, times, limit.daily_mg, limit.source)
        )
    return None


def _explain_excess(drug: Mention, dose: Quantity, times: int, most: float, source: str) -> str:
    often = f" {times} times a day" if times > 1 else ""
    return f"{drug.text} {dose.text}{often}: at most {most:g} mg ({source})"


def _find_drug_of_dose(sentence: str, dose: Quantity, drugs: list[Mention]) -> Mention | None:
    before = [drug for drug in drugs if drug.end <= dose.start]
    between = sentence[before[-1].end : dose.start] if before else ""
    if before and ";" not in between and len(split_words(between)) <= NEAR:
        return before[-1]
    behind = [drug for drug in drugs if drug.start >= dose.end]
    is_next = behind and len(split_words(sentence[dose.end : behind[0].start])) <= 1
    return behind[0] if is_next else None


def _find_limit(drug: Mention, route: str) -> DoseLimit | None:
    names = {drug.text.casefold(), *(concept.name for concept in drug.concepts)}
    limits = load_dose_limits()
    return next((limits[name, route] for name in sorted(names) if (name, route) in limits), None)


def _find_route(sentence: str) -> str:
    return next((route for route, rule in _ROUTES.items() if rule.search(sentence)), "oral")


def _parse_number(cell: str) -> float | None:
    return None if cell == "-" else float(cell)


@cache
def _split_names(names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(word for name in names for word in name.split())


def _list_lexicon_words(lexicon: Lexicon) -> frozenset[str]:
    return _split_names(tuple(lexicon.names))
