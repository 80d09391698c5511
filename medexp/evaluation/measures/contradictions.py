"""Does an answer contradict what its question says of the patient: age, sex, pregnancy, allergy? By
rules over the texts.

The rules, in full:
- Age: the question states exactly one age and the answer states another ("45-year-old", "aged 45"),
  or calls a person of 18 or more a child or baby, or one under 13 a man, woman or elderly, where
  the question speaks of nobody else. Limits ("over 65 years") are not ages.
- Sex: the question's words are all of one sex (woman, she, his ...) and the answer's all of the
  other.
- Pregnancy: the question says pregnant and the answer says not pregnant; or the question says not
  pregnant, or its words are all male, and the answer says that the patient is pregnant.
- Allergy: the question says allergic to a drug (allergic, anaphylaxis or a reaction to it; its name
  before "allergy") and the answer recommends it or one of its family (FAMILIES) without denying it.
  A drug that is only taken is no allergen; or the answer says that there is no allergy where the
  question states one, or the other way round.

It misses whatever is put in other words, and says nothing of conditions, history or organs. English
only.
"""

import re
from dataclasses import dataclass

from medexp.data.words import split_words
from medexp.evaluation.measures.clinical_terms import Concept, Lexicon, find_mentions
from medexp.evaluation.measures.words import extract_answer

FAMILIES = {
    "penicillins": (
        "penicillin g", "penicillin v", "penicillin v potassium", "penicillin g procaine",
        "penicillin g benzathine", "amoxicillin", "amoxicillin and clavulanic acid", "co-amoxiclav",
        "ampicillin", "flucloxacillin", "dicloxacillin", "piperacillin",
        "piperacillin and tazobactam", "pivmecillinam",
    ),
    "anti-inflammatory agents, non-steroidal": (
        "ibuprofen", "naproxen", "diclofenac", "aspirin", "ketorolac", "indomethacin",
        "mefenamic acid", "celecoxib", "ketoprofen",
    ),
    "cephalosporins": (
        "ceftriaxone", "cefuroxime", "cephalexin", "cefalexin", "cefotaxime", "ceftazidime",
        "cefixime",
    ),
    "sulfonamides": ("co-trimoxazole", "sulfamethoxazole", "sulfasalazine", "sulfadiazine"),
    "macrolides": ("erythromycin", "clarithromycin", "azithromycin"),
}  # fmt: skip
_FEMALE = frozenset(
    "woman women female girl she her hers herself lady mother housewife waitress actress"
    " widow".split()
)
_MALE = frozenset("man men male boy he his him himself gentleman father widower".split())
_CHILD = re.compile(
    r"\b(?:this|the|a) (?:child|baby|infant|toddler|newborn|boy|girl)\b", re.IGNORECASE
)
_ADULT = re.compile(
    r"\b(?:this|the|an?) (?:(?:elderly|adult|old)"
    r" (?:man|woman|patient|person)|man|woman|lady|gentleman)\b",
    re.IGNORECASE,
)
_AGE = re.compile(
    r"(?<![\w.])(\d{1,3})[\s-](?:(year|month|week|day)s?[\s-]old)\b|\baged?"
    r" (\d{1,3})\b(?!\s*(?:month|week|day|or|and|to))",
    re.IGNORECASE,
)
_LIMIT = re.compile(
    r"\b(?:over|under|above|below|than|least|most|from|to|after|before|until|every|any)\s+$",
    re.IGNORECASE,
)
_PREGNANT = re.compile(r"\b(?:pregnant|gestation|trimester|antenatal|gravid)\b", re.IGNORECASE)
_OTHERS = re.compile(
    r"\b(?:pregnan\w*|birth|born|baby|deliver\w*|mother|father|son|daughter|"
    r"children|breastfe\w+|nurser\w+)\b",
    re.IGNORECASE,
)
_IS_PREGNANT = re.compile(
    r"\b(?:(?:is|being|currently|patient['’]s|her|his|this|current) (?:\w+"
    r" )?pregnan(?:t|cy)|pregnant (?:woman|patient|lady))\b",
    re.IGNORECASE,
)
_NOT_PREGNANT = re.compile(
    r"\b(?:not pregnant|n['’]t pregnant|non-pregnant|pregnancy (?:test )?(?:is |was"
    r" )?(?:negative|excluded))\b",
    re.IGNORECASE,
)
_ALLERGIC = re.compile(r"\b(?:allerg(?:ic|y|ies)|anaphyla\w+|hypersensitiv\w+)\b", re.IGNORECASE)
_NO_ALLERGY = re.compile(
    r"\b(?:no (?:known |drug |relevant )*allerg\w+|not allergic)\b", re.IGNORECASE
)
# What follows "allergic to", as far as the clause goes on naming what it is.
_ALLERGIC_TO = re.compile(
    r"\b(?<!not )(?:allerg(?:ic|y|ies)|hypersensitiv\w+|anaphyla\w+|reaction|rash|angioedema)"
    r"(?: (?:to|after|with|from|on taking)| ?:) (?P<to>.*?)"
    r"(?=$|\b(?:and|but|who|which|he|she|his|her|they|takes?|taking|"
    r"takes|uses?|using|treated|given|on|is|are|was|were|has|had|for)"
    r"\b(?! (?:penicillins?|aspirin|sulf\w+|ibuprofen|codeine|latex)\b))",
    re.IGNORECASE,
)
_NAMED_ALLERGY = re.compile(
    r"[\s-](?:drug )?(?:allergy|allergies|anaphylaxis|hypersensitivity|intolerance)\b",
    re.IGNORECASE,
)
# Named beside an allergen as what the reaction needed ("anaphylaxis to ceftriaxone, adrenaline").
_TREAT_ALLERGY = frozenset({"adrenaline", "epinephrine"})
_CLAUSE = re.compile(r"[^.;!?\n]+")


@dataclass(frozen=True)
class Contradiction:
    """What of the vignette (`about`: age, sex, pregnancy or allergy) the words `text` at [start,
    end) of the answer contradict.
    """

    about: str
    text: str
    start: int
    end: int


def find_contradictions(answer: str, question: str, lexicon: Lexicon) -> list[Contradiction]:
    """Return every contradiction, in the order above; places are those in the whole answer."""
    text = extract_answer(answer)
    offset = len(answer) - len(text)
    places = [
        *_find_age_contradictions(text, question),
        *_find_sex_contradictions(text, question),
        *_find_pregnancy_contradictions(text, question),
        *_find_allergy_contradictions(text, question, lexicon),
    ]
    return [
        Contradiction(about, text[start:end], start + offset, end + offset)
        for about, start, end in places
    ]


def find_age_years(question: str) -> float | None:
    """Return the patient's age in years where the question states exactly one, or None."""
    ages = {years for years, _, _ in _find_ages(question)}
    return ages.pop() if len(ages) == 1 else None


def find_sex(text: str) -> str | None:
    """Return female or male where all the words that tell are of one sex, or None."""
    words = set(split_words(text))
    is_female, is_male = bool(words & _FEMALE), bool(words & _MALE)
    return None if is_female == is_male else "female" if is_female else "male"


Place = tuple[str, int, int]


def _find_ages(text: str) -> list[tuple[float, int, int]]:
    shares = {"year": 1.0, "month": 1 / 12, "week": 1 / 52, "day": 1 / 365}
    return [
        (
            float(match[1] or match[3]) * shares[(match[2] or "year").casefold()],
            match.start(),
            match.end(),
        )
        for match in _AGE.finditer(text)
        if not _LIMIT.search(text[: match.start()])
    ]


def _find_age_contradictions(text: str, question: str) -> list[Place]:
    stated = find_age_years(question)
    if stated is None:
        return []
    places = [("age", start, end) for years, start, end in _find_ages(text) if years != stated]
    wrong_stage = _CHILD if stated >= 18 else _ADULT if stated < 13 else None
    # Where the question speaks of others, "the baby" may be one of them.
    if wrong_stage is None or wrong_stage.search(question) or _OTHERS.search(question):
        return places
    return places + [("age", *match.span()) for match in wrong_stage.finditer(text)]


def _find_sex_contradictions(text: str, question: str) -> list[Place]:
    patient_sex, answer_sex = find_sex(question), find_sex(text)
    if patient_sex is None or answer_sex is None or patient_sex == answer_sex:
        return []
    wrong = _FEMALE if answer_sex == "female" else _MALE
    return [
        (
            "sex",
            *next(
                match.span() for match in re.finditer(r"\w+", text) if match[0].casefold() in wrong
            ),
        )
    ]


def _find_pregnancy_contradictions(text: str, question: str) -> list[Place]:
    denied = bool(_NOT_PREGNANT.search(question))
    if _PREGNANT.search(question) and not denied:
        return [("pregnancy", *match.span()) for match in _NOT_PREGNANT.finditer(text)]
    if denied or find_sex(question) == "male":
        claims = (
            match
            for match in _IS_PREGNANT.finditer(text)
            if not _NOT_PREGNANT.search(text[max(0, match.start() - 8) : match.end()])
        )
        return [
            ("pregnancy", *match.span())
            for match in claims
            if not re.search(r"\bif\b", text[max(0, match.start() - 12) : match.start()])
        ]
    return []


def _find_allergens(text: str, lexicon: Lexicon) -> frozenset[str]:
    """Return the names of the drugs that `text` says an allergy to, with their families."""
    allergens: set[Concept] = set()
    for clause in _CLAUSE.finditer(text):
        drugs = [drug for drug in find_mentions(clause[0], lexicon) if drug.kind == "drug"]
        for stated in _ALLERGIC_TO.finditer(clause[0]):
            allergens |= {
                concept
                for drug in drugs
                if stated.start("to") <= drug.start < stated.end("to")
                for concept in drug.concepts
            }
        if not _NO_ALLERGY.search(clause[0]):
            named = (drug for drug in drugs if _NAMED_ALLERGY.match(clause[0], drug.end))
            allergens |= {concept for drug in named for concept in drug.concepts}
    names = {concept.name for concept in allergens} - _TREAT_ALLERGY
    families = [{head, *members} for head, members in FAMILIES.items() if names & {head, *members}]
    return frozenset(names.union(*families))


def _find_allergy_contradictions(text: str, question: str, lexicon: Lexicon) -> list[Place]:
    allergens = _find_allergens(question, lexicon)
    if not allergens:
        if not _NO_ALLERGY.search(question):
            return []
        return [
            ("allergy", *match.span())
            for match in re.finditer(r"\b(?:is |known to be )allergic to \w+", text)
        ]
    places: list[Place] = [("allergy", *match.span()) for match in _NO_ALLERGY.finditer(text)]
    for mention in find_mentions(text, lexicon):
        clause = next(
            (one[0] for one in _CLAUSE.finditer(text) if one.start() <= mention.start < one.end()),
            "",
        )
        if (
            mention.kind == "drug"
            and not mention.negated
            and not _ALLERGIC.search(clause)
            and allergens & {c.name for c in mention.concepts}
        ):
            places.append(("allergy", mention.start, mention.end))
    return places
