"""Minimal corruptions of reference items: the same sentence with one fact turned wrong. By rules
over English text.

The kinds, in full:
- dose: a number before a unit that medicines are given in becomes ten times as much, or a tenth;
  both ends of a range. Under Precautions alone.
- drug: a drug becomes another of its class (SWAPS) that is not given for it, where the reference
  and the question do not name that one.
- polarity: what is denied, or advised against, is affirmed, or the other way round.
- direction: too high becomes too low, above becomes below, a slow pulse a fast one.
- laterality: left becomes right, upper lower, anterior posterior, both sides one.
- order: before becomes after, first last, until once.
- duration: minutes become days, hours weeks, days months, weeks hours, months days.
- send_home: what is done at once, today or in hospital is put off, or done at home. Under
  Precautions alone.

A corruption differs from its item in the one place `start` to `end` and nowhere else. That it is
wrong follows from the rule, not from a reader: a few of a hundred (a swapped drug that would do as
well, a threshold that was arbitrary) are merely unusual. So a perfect model scores somewhat below
1, and the figure compares two models on the same items.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from medexp.evaluation.measures.sections import SECTIONS, parse_sections

KINDS = (
    "dose",
    "drug",
    "send_home",
    "laterality",
    "order",
    "polarity",
    "direction",
    "duration",
)
# The most corruptions of one reference, so that measuring a case takes a second or two on a CPU.
MAX_A_CASE = 12

# Each drug with another of its class that would be wrong, or worse, in its place.
SWAPS: Mapping[str, str] = {
    # catecholamines and bronchodilators
    "adrenaline": "noradrenaline", "noradrenaline": "dobutamine", "salbutamol": "salmeterol",
    "ipratropium": "tiotropium",
    # painkillers
    "aspirin": "ibuprofen", "ibuprofen": "aspirin", "naproxen": "celecoxib",
    "diclofenac": "tramadol", "paracetamol": "codeine", "codeine": "paracetamol",
    "morphine": "codeine", "mefenamic acid": "tranexamic acid", "colchicine": "allopurinol",
    "allopurinol": "colchicine",
    # steroids and what else dampens immunity
    "prednisolone": "fludrocortisone", "hydrocortisone": "fludrocortisone",
    "dexamethasone": "fludrocortisone", "fludrocortisone": "dexamethasone",
    "betamethasone": "fludrocortisone", "methylprednisolone": "fludrocortisone",
    "budesonide": "triamcinolone", "methotrexate": "azathioprine", "tocilizumab": "adalimumab",
    "immunoglobulin": "albumin",
    # hormones
    "insulin": "glucagon", "glucagon": "insulin", "metformin": "gliclazide",
    "gliclazide": "metformin", "empagliflozin": "sitagliptin", "dapagliflozin": "sitagliptin",
    "levothyroxine": "carbimazole", "carbimazole": "levothyroxine",
    "propylthiouracil": "levothyroxine", "octreotide": "desmopressin",
    "desogestrel": "ethinylestradiol", "levonorgestrel": "ethinylestradiol",
    "oestrogen": "progestogen",
    # clotting
    "heparin": "alteplase", "alteplase": "enoxaparin", "tenecteplase": "enoxaparin",
    "apixaban": "clopidogrel", "rivaroxaban": "clopidogrel", "warfarin": "clopidogrel",
    "fondaparinux": "alteplase", "tranexamic acid": "heparin",
    "prothrombin complex concentrate": "tranexamic acid",
    # heart and circulation
    "labetalol": "atenolol", "esmolol": "sotalol", "propranolol": "atenolol",
    "bisoprolol": "propranolol", "nifedipine": "verapamil", "nimodipine": "verapamil",
    "diltiazem": "nifedipine", "furosemide": "bendroflumethiazide", "spironolactone": "furosemide",
    "ramipril": "amlodipine", "enalapril": "losartan", "amiodarone": "digoxin",
    "atorvastatin": "ezetimibe", "thiazide": "loop diuretic",
    # infections
    "amoxicillin": "flucloxacillin", "flucloxacillin": "trimethoprim",
    "benzylpenicillin": "flucloxacillin", "ceftriaxone": "cefalexin", "cefalexin": "ceftriaxone",
    "doxycycline": "nitrofurantoin", "nitrofurantoin": "metronidazole",
    "metronidazole": "nitrofurantoin", "ciprofloxacin": "norfloxacin", "clindamycin": "gentamicin",
    "clarithromycin": "amoxicillin", "vancomycin": "gentamicin",
    "piperacillin-tazobactam": "phenoxymethylpenicillin", "co-amoxiclav": "flucloxacillin",
    "pivmecillinam": "phenoxymethylpenicillin", "trimethoprim": "doxycycline",
    "fosfomycin": "clindamycin", "aciclovir": "oseltamivir", "oseltamivir": "aciclovir",
    "valaciclovir": "ribavirin", "artesunate": "primaquine", "primaquine": "artesunate",
    "chloroquine": "primaquine",
    # salts, fluids and vitamins
    "calcium gluconate": "potassium chloride", "potassium chloride": "calcium gluconate",
    "magnesium sulfate": "potassium chloride", "mannitol": "dextrose", "thiamine": "folic acid",
    "folic acid": "thiamine", "vitamin K": "vitamin D", "vitamin D": "vitamin K",
    # stomach, nerves, allergy, eyes, urine
    "ondansetron": "domperidone", "metoclopramide": "domperidone",
    "prochlorperazine": "ondansetron", "cyclizine": "domperidone", "loperamide": "senna",
    "valproate": "lamotrigine", "lamotrigine": "valproate", "carbamazepine": "gabapentin",
    "topiramate": "gabapentin", "cetirizine": "chlorphenamine", "loratadine": "promethazine",
    "chlorphenamine": "cetirizine", "acetazolamide": "furosemide", "timolol": "tropicamide",
    "pilocarpine": "atropine", "apraclonidine": "atropine", "tamsulosin": "finasteride",
}  # fmt: skip
_DRUG = re.compile(
    rf"(?<![\w-])(?:{'|'.join(sorted(map(re.escape, SWAPS), key=len, reverse=True))})(?![\w-])",
    re.IGNORECASE,
)
_NUMBER_WORD = (
    "(?:an?|one|two|three|four|five|six|seven|eight|nine|ten|twelve|fourteen|twenty|thirty|forty"
    "|sixty|several)"
)
_NUMBER = r"\d+(?:,\d{3})*(?:\.\d+)?"
_DOSE = re.compile(
    rf"(?<![\w.,:])({_NUMBER})(?:(\s?[-–]\s?|\sto\s)({_NUMBER}))?"
    r"(?=\s?(?:mg|micrograms?|mcg|g|mL|units?|litres?)(?:/(?:kg|m²|day|h|hour)\b|(?![\w/])))"
)

Rule = tuple[re.Pattern[str], str]


def _compile_rules(*pairs: tuple[str, str]) -> tuple[Rule, ...]:
    return tuple((re.compile(pattern), new) for pattern, new in pairs)


def _add_capitalised(*pairs: tuple[str, str]) -> list[tuple[str, str]]:
    """Return `pairs`, each also with a capital at its start."""
    capital = [(rf"{old[0].upper()}{old[1:]}", new[0].upper() + new[1:]) for old, new in pairs]
    return [(rf"\b{old}\b", new) for old, new in [*pairs, *capital]]


def _swap_both_ways(*pairs: tuple[str, str]) -> list[tuple[str, str]]:
    """Return whole words and what takes their place, both ways and in both cases."""
    return _add_capitalised(*pairs, *((new, old) for old, new in pairs))


_CLAUSE_START = r"(?:^|(?<=[;,] ))"
_ADVICE = _compile_rules(
    (rf"{_CLAUSE_START}Avoid\b", "Recommend"),
    (r"\bavoid\b", "recommend"),
    (r"\bavoided\b", "preferred"),
    (rf"{_CLAUSE_START}(?:Withhold|Hold)(?= (?!MMR))", "Give"),
    (rf"{_CLAUSE_START}(?:withhold|hold)(?= )", "give"),
    (rf"{_CLAUSE_START}Stop(?= (?!sparring|donating))", "Continue"),
    (rf"{_CLAUSE_START}stop(?= )", "continue"),
    (r"^Pause\b", "Continue"),
    (r"^Skip\b", "Use"),
    (r"^(?:Refuse|Decline)\b", "Accept"),
    (rf"^No(?= (?!{'longer|sign|reason|more|need|rate'}))", "Allow"),
    (rf"(?<=[;,] )no(?= (?!{'longer|sign|reason|more|need|rate|further'}))", "allow"),
    (r"\bNever\b", "Always"),
    (r"\bnever\b", "always"),
)
_VERBS = "|".join(
    rf"(?<=\b{verb})"
    for verb in ("do", "Do", "does", "must", "will", "should", "need", "may", "is", "are")
)
_POLARITY = _compile_rules(
    (r"\bcannot\b", "can"),
    (rf"(?:{_VERBS}) not\b", ""),
    *_add_capitalised(
        (r"without(?! \w+ing\b)", "with"),
        ("unless", "if"),
        ("unsuitable", "suitable"),
        ("unnecessary", "necessary"),
        ("contraindicated", "indicated"),
        ("unsafe", "safe"),
        ("unlikely", "likely"),
        ("unruptured", "ruptured"),
        ("absent", "present"),
        ("painless", "painful"),
        ("stable", "unstable"),
        ("uncommon", "common"),
        ("afebrile", "febrile"),
        ("abnormal", "normal"),
        ("normal", "abnormal"),
        ("positive", "negative"),
        ("negative", "positive"),
        ("uncontrolled", "controlled"),
        ("prevents", "causes"),
    ),
)
_DIRECTION = _compile_rules(
    *_swap_both_ways(
        ("less than", "more than"),
        ("raised", "lowered"),
        ("raises", "lowers"),
        ("raise", "lower"),
        ("hypotension", "hypertension"),
        ("tachycardia", "bradycardia"),
        ("hypoglycaemia", "hyperglycaemia"),
        ("hyperkalaemia", "hypokalaemia"),
        ("acidosis", "alkalosis"),
        ("narrowing", "widening"),
    ),
    *_add_capitalised(
        (r"under(?= \d)", "over"),
        (r"over(?= \d+(?:\.\d+)?(?! ?(?:hours|minutes|days|weeks|months)|\d|[.–-]))", "under"),
        ("below", "above"),
        ("above(?! all)", "below"),
        ("high", "low"),
        ("low(?! back)", "high"),
        ("rapid", "slow"),
        ("rising", "falling"),
        (r"falling(?= (?!asleep|from|to|after|over|in|on)|-)", "rising"),
        ("fast(?!ing|ed)", "slow"),
        ("climbing", "falling"),
        ("sliding", "rising"),
        ("slowing", "quickening"),
        ("racing", "slow"),
        ("increases", "decreases"),
        ("increased", "decreased"),
        ("increase", "decrease"),
        (rf"beyond(?= (?:\d|{_NUMBER_WORD}))", "within"),
    ),
)
_PART = (
    "abdom(?:en|inal)|limbs?|legs?|lobe|quadrant|airway|ureteric|gastrointestinal|urinary|back|"
    "oesophagus|sphincter|eyelid|lip|pole|ribs|chest|jaw|belly|nose"
)
_LATERALITY = _compile_rules(
    (r"\bright(?! away| ventric)\b", "left"),
    (r"\bRight\b(?!-?away)", "Left"),
    (
        r"(?<!that )(?<!cells )\bleft\b"
        r"(?! (?:her|him|inflammation|untreated|without|in place)\b|,|-over)",
        "right",
    ),
    (r"\bLeft\b", "Right"),
    (rf"\bupper(?= (?:{_PART})\b)", "lower"),
    (rf"\blower(?= (?:{_PART})\b)", "upper"),
    *_swap_both_ways(
        ("anterior", "posterior"), ("proximal", "distal"), ("bilateral", "unilateral")
    ),
    *_swap_both_ways(("inferior", "superior"), ("medial", "lateral"), ("inner", "outer")),
    *_add_capitalised(("both sides", "one side"), ("one-sided", "two-sided")),
)
_ORDER = _compile_rules(
    *_swap_both_ways(("before", "after")),
    (r"\bfollowed by\b", "preceded by"),
    (r"\bfirst(?=[;,.]|$)", "last"),
    *_add_capitalised(("until", "once")),
    (r"(?<=, )once(?= (?!daily|weekly|a ))", "until"),
    (r"^Once(?= (?!daily|weekly|a ))", "Until"),
)
_DURATION = _compile_rules(
    *(
        (rf"(?<={number}[ -]){old}(?=s?\b(?! old|-old))", new)
        for number in (
            r"\d",
            "one",
            "two",
            "three",
            "four",
            "five",
            "six",
            "ten",
            "eight",
            "seven",
            "twelve",
        )
        for old, new in (
            ("minute", "day"),
            ("hour", "week"),
            ("day", "month"),
            ("week", "hour"),
            ("month", "day"),
        )
    )
)
_TIME = r"(?:an|one|the|\d+(?:\.\d+)?(?:[-–]\d+)?|two|four|six|twelve) (?:hours?|minutes)"
_SEND_HOME = _compile_rules(
    *_add_capitalised(
        ("immediately", "in a few weeks"),
        ("at once", "in a few weeks"),
        ("straight away", "in a few weeks"),
        ("immediate", "elective"),
        ("urgently", "eventually"),
        ("urgent", "routine"),
        ("emergency ambulance", "taxi home"),
        ("emergency department", "community pharmacy"),
        (r"emergency(?= (?:surgery|laparoscopy|cardiac|MRI))", "elective"),
        ("as an emergency", "as a routine test"),
        ("same-day", "next-month"),
        ("same-evening", "next-month"),
        ("blue-light", "unhurried"),
        ("admission", "discharge"),
        ("admitted", "discharged"),
        ("admit", "discharge"),
        ("tonight", "next month"),
        ("today", "next month"),
        ("to hospital", "home"),
        ("to theatre", "home"),
        ("intensive care", "home care"),
        ("critical care", "home care"),
        ("promptly", "eventually"),
        ("early(?! supper)", "late"),
        ("prompt", "delayed"),
    ),
    (rf"\bwithin {_TIME}\b", "within six months"),
    (rf"\bWithin {_TIME}\b", "Within six months"),
    (r"\bnow(?=[;,.]|$| \()", "in a few weeks"),
    (r"^Decompress now\b", "Decompress in a few weeks"),
)


@dataclass(frozen=True)
class Corruption:
    """`text` is `item` with `item[start:end]` replaced by `new`; `section` is where it stands."""

    kind: str
    section: str
    item: str
    start: int
    end: int
    new: str

    @property
    def text(self) -> str:
        """The corrupted item."""
        return self.item[: self.start] + self.new + self.item[self.end :]


def corrupt_reference(
    reference: str, question: str = "", limit: int = MAX_A_CASE
) -> list[Corruption]:
    """Return at most `limit` corruptions of the items of `reference`, the kinds in turn.

    No two are of one kind and one item. Without sections there are none.
    """
    named = f"{reference}\n{question}"
    by_kind: dict[str, list[Corruption]] = {kind: [] for kind in KINDS}
    for section in parse_sections(reference):
        if section.name in SECTIONS:
            for item in section.items:
                for corruption in corrupt_item(item, section.name, named):
                    by_kind[corruption.kind].append(corruption)
    corruptions: list[Corruption] = []
    while len(corruptions) < limit and any(by_kind.values()):
        for kind in KINDS:
            if by_kind[kind] and len(corruptions) < limit:
                corruptions.append(by_kind[kind].pop(0))
    return corruptions


def corrupt_item(item: str, section: str, named: str = "") -> list[Corruption]:
    """Return the corruptions of `item`, at most one a kind, but a dose both ways; `named` is the
    text whose drugs no other may be swapped for."""
    is_advice = section == "precautions"
    changes = [
        *(_corrupt_dose(item) if is_advice else ()),
        *_corrupt_drug(item, f"{item}\n{named}"),
        *(_apply_earliest_rule("send_home", _SEND_HOME, item) if is_advice else ()),
        *_apply_earliest_rule("laterality", _LATERALITY, item),
        *_apply_earliest_rule("order", _ORDER, item),
        *_apply_earliest_rule("polarity", (*_ADVICE, *_POLARITY) if is_advice else _POLARITY, item),
        *_apply_earliest_rule("direction", _DIRECTION, item),
        *_apply_earliest_rule("duration", _DURATION, item),
    ]
    return [Corruption(kind, section, item, *place) for kind, *place in changes]


Found = tuple[str, int, int, str]


def _corrupt_dose(item: str) -> Iterator[Found]:
    match = _DOSE.search(item)
    if match is None:
        return
    changes: Sequence[Callable[[str], str]] = (_multiply_by_ten, _divide_by_ten)
    for change in changes:
        new = change(match[1]) + (match[2] + change(match[3]) if match[3] else "")
        yield "dose", match.start(), match.end(), new


def _multiply_by_ten(number: str) -> str:
    return _format_plain(Decimal(number.replace(",", "")) * 10)


def _divide_by_ten(number: str) -> str:
    return _format_plain(Decimal(number.replace(",", "")) / 10)


def _format_plain(number: Decimal) -> str:
    whole = f"{number:f}"
    return whole.rstrip("0").rstrip(".") if "." in whole else whole


def _corrupt_drug(item: str, named: str) -> Iterator[Found]:
    lower = named.casefold()
    for match in _DRUG.finditer(item):
        new = next(new for old, new in SWAPS.items() if old.casefold() == match[0].casefold())
        if new.casefold() not in lower:
            is_capital = match[0][0].isupper()
            new = new[0].upper() + new[1:] if is_capital else new
            yield "drug", match.start(), match.end(), new
            return


def _apply_earliest_rule(kind: str, rules: Sequence[Rule], item: str) -> Iterator[Found]:
    """Yield the change of the rule that matches earliest, the first of the list where two do."""
    places = [
        (match.start(), order, match.end(), new)
        for order, (pattern, new) in enumerate(rules)
        if (match := pattern.search(item))
    ]
    if places:
        start, _, end, new = min(places)
        yield kind, start, end, new
