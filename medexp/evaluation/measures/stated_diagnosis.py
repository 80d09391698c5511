"""Which diagnosis does an answer state, and is it the right one? Graded exact, broader, in the
differential, or absent, by rules over English text.

The rules, in full:
- Only the answer counts. Where the prompt asks for a chain of thought that ends with `</think>`, a
  text in which it never ends is no answer: absent.
- The statement is the first of these that names a known condition, or else the first there is:
  what follows "Final diagnosis:", "Diagnosis:" or "the most likely diagnosis is"; the items of
  Causes, one after the other; what follows "consistent with", "this is", "you have" and the like;
  the items of Symptoms; the first sentence. "Differential diagnosis:" is none of them.
- Of a statement the part counts that stands before a colon, a semicolon, the end of the sentence,
  or "or", "versus", "rather than", "unlike", "but", "although": what comes later is explained or
  weighed there. Of an item of Causes or Symptoms whose first part names nothing, what stands behind
  a colon, a comma or "with" counts next ("Together: hypercalcaemia of malignancy").
- Causes may name what led to the diagnosis before it (atrial fibrillation, then mesenteric
  ischaemia). So an item of Causes further down counts, too, where no more than one other condition
  is named in that section: two are a cause and its effect, three are a list of guesses.
- Exact: the part that counts names the condition, by its name, a synonym (condition_synonyms.tsv
  and the case's own), or all words of its name in another order. Broader: it names what holds the
  condition among other things (condition_broader.tsv). Differential: the condition is named
  elsewhere in the answer. A name that is denied, or stands in a question, is not named
  (`clinical_terms.is_negated`).
- Names are compared word by word, in one spelling for British and American English, without plural
  s. A name in capitals alone (PE, DKA) is looked for in capitals. Behind a word that tells another
  condition apart (CONTRASTS: viral meningitis, chronic pancreatitis) a name does not count, unless
  the word is in the condition's own name.

A name that no list has is not seen: the grade is a lower bound. It reads English.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from medexp.data.prompts import THINK_END
from medexp.data.words import locate_words
from medexp.evaluation.measures.clinical_terms import Lexicon, is_negated
from medexp.evaluation.measures.conditions import (
    are_related,
    list_broader_names,
    list_shipped_conditions,
    list_synonyms,
)
from medexp.evaluation.measures.reference_recall import names_condition, split_answer_lines
from medexp.evaluation.measures.sections import find_bare_heading, parse_sections
from medexp.evaluation.measures.words import (
    POSSESSIVE,
    extract_answer,
    fold_spelling,
    make_term_key,
    to_singular,
)

LONGEST_NAME = 8
GRADES = ("exact", "broader", "differential", "absent")
CONTRASTS = frozenset(
    "viral bacterial fungal allergic autoimmune tuberculous aseptic chronic recurrent spontaneous"
    " secondary tertiary open haemorrhagic ischaemic cluster tension rheumatoid psoriatic"
    " reactive septic infective gestational chickenpox lung liver pancreatic hepatic cardiogenic"
    " hypovolaemic neurogenic ectopic hyperosmolar optic diabetic alcoholic nephrogenic acquired"
    " aspiration drug seborrhoeic atopic vernal varicella".split()
)
_NO_TERMS = Lexicon({}, 0)
_FOLDED_CONTRASTS = frozenset(map(fold_spelling, CONTRASTS))
_SURE = (
    r"(?:(?:most|more|very|highly)\s+)?"
    r"(?:likely|probable|probably|presumed|presumably|suspected|almost certainly|clearly)"
)
_KIND = (
    r"(?:final|working|primary|leading|main|principal|provisional|presumptive|clinical|underlying"
    r"|unifying|correct)"
)
_LABEL = re.compile(
    rf"(?<!differential )(?<!alternative )(?<!other )\b(?:(?:{_SURE}|{_KIND})\s+)*"
    r"(?:diagnosis|impression|condition)\b[*_ ]*(?:\([^)]*\))?[*_ ]*"
    r"(?::[*_ ]*|\s(?:(?:here|in this (?:case|patient|woman|man|child))\s)?"
    r"(?:is|was|would be|appears to be|seems to be|remains|must be|of)\b\s*)(?P<text>\S.*)",
    re.IGNORECASE,
)
_CAUSE = re.compile(
    rf"\b{_SURE}\s+(?:cause|explanation|reason|culprit|problem)\b"
    rf"[^.:;]{{0,60}}?(?:\bis\b|:)\s*(?P<text>\S.*)",
    re.IGNORECASE,
)
_PHRASE = re.compile(
    r"\b(?:consistent with|compatible with|in keeping with|suggestive of|suggests?|"
    r"suggesting|indicative of|indicates?|"
    r"points? (?:strongly |clearly )?(?:to|towards?)|diagnosed with|suffering from|typical of|"
    r"characteristic of|"
    rf"(?:this|it|that|these(?: \w+)?) (?:is|are|was|represents?)(?: {_SURE})?|"
    rf"(?:you|he|she|they|patient|child) "
    rf"(?:{_SURE} )?(?:have|has)(?: {_SURE})?)\b\s*(?P<text>\S.*)",
    re.IGNORECASE,
)
_COUNTS_UNTIL = re.compile(
    r"[:;?!]|(?<!\bC)\.(?=\s|$)|\b(?:or|versus|vs\.?|rather than|unlike|but|although|however|"
    r"as opposed to|not)\b|/(?=\s)",
    re.IGNORECASE,
)
_AUXILIARY = re.compile(r"\b(?:do|does|did|is|are|was|were|can|could|will|would)\s*$", re.I)
_ITEM_PARTS = re.compile(r"[:,]\s+|\bwith\s+|\bcausing\s+|\bleading to\s+")
_MARKS = re.compile(r"[*_`#]+")


@dataclass(frozen=True)
class StatedDiagnosis:
    """The `grade` of an answer (one of GRADES), and the words that count, "" where it states
    nothing."""

    grade: str
    statement: str

    @property
    def is_right(self) -> bool:
        """Whether the right condition is stated, and no more than that is asked."""
        return self.grade == "exact"


def grade_stated_diagnosis(
    answer: str, condition: str, reasons: bool, synonyms: Sequence[str] = ()
) -> StatedDiagnosis:
    """Return how the diagnosis that `answer` states relates to `condition`.

    `reasons` where the prompt asks for a chain of thought that ends with `</think>`; `synonyms` are
    further names of the condition, beside those that medexp knows.
    """
    if reasons and THINK_END not in answer:
        return StatedDiagnosis("absent", "")
    text = _MARKS.sub("", extract_answer(answer))
    names = [condition, *list_synonyms(condition), *synonyms]
    own = frozenset(make_term_key(condition))
    sections = parse_sections(answer)
    causes, symptoms = (
        [
            part
            for section in sections
            if section.name == name
            for part in _list_parts(section.items)
        ]
        for name in ("causes", "symptoms")
    )
    statements = [
        _cut_to_counting_part(statement) for statement in _find_statements(text, causes, symptoms)
    ]
    stated = next(
        (
            statement
            for statement in statements
            if _is_exact(statement, names, own)
            or _find_named_conditions(statement, with_broader=True)
        ),
        statements[0] if statements else "",
    )
    if _is_exact(stated, names, own):
        return StatedDiagnosis("exact", stated)
    if led_to := _find_behind_its_cause(causes, condition, names, own):
        return StatedDiagnosis("exact", led_to)
    named = _find_named_conditions(stated, with_broader=False)
    others = {name for name in named if not are_related(name, condition)}
    if not others and _names_one(stated, list_broader_names(condition), own):
        return StatedDiagnosis("broader", stated)
    rest = [line for line in split_answer_lines(text) if not line.endswith("?")]
    if any(_is_exact(line, names, own) for line in rest):
        return StatedDiagnosis("differential", stated)
    return StatedDiagnosis("absent", stated)


def _find_statements(text: str, causes: Sequence[str], symptoms: Sequence[str]) -> Iterator[str]:
    """Yield what may state the diagnosis, the surest first."""
    lines = [line for line in split_answer_lines(text) if not line.endswith("?")]
    matches = [
        match for line in lines for match in (_LABEL.search(line), _CAUSE.search(line)) if match
    ]
    yield from (match["text"] for match in matches if match[0].casefold().startswith("final"))
    yield from (match["text"] for match in matches)
    yield from causes
    yield from (match["text"] for line in lines if (match := _PHRASE.search(line)))
    yield from symptoms
    yield from (line for line in lines[:1] if find_bare_heading(line) is None)


def _list_parts(items: Sequence[str]) -> Iterator[str]:
    """Yield every item, then what stands behind the colons and commas of every item."""
    plain = [_MARKS.sub("", item) for item in items]
    yield from plain
    for item in plain:
        yield from _ITEM_PARTS.split(item)[1:]


def _find_behind_its_cause(
    causes: Sequence[str], condition: str, names: Sequence[str], own: frozenset[str]
) -> str:
    """Return the part of Causes that names the condition where that names at most one other."""
    parts = [_cut_to_counting_part(part) for part in causes]
    others = {
        name
        for part in parts
        for name in _find_named_conditions(part, with_broader=False)
        if not are_related(name, condition)
    }
    if len(others) > 1:
        return ""
    return next((part for part in parts if _is_exact(part, names, own)), "")


def _cut_to_counting_part(statement: str) -> str:
    """Return the part of `statement` before what is only explained or weighed.

    A full stop, colon or bracket at its very start is passed over.
    """
    cut = _COUNTS_UNTIL.search(statement, 1) if statement else None
    if cut is None:
        return statement
    part = statement[: cut.start()]
    # "Sepsis does not fit" names it to deny it.
    return "" if cut[0].casefold() == "not" and _AUXILIARY.search(part) else part


def _is_exact(text: str, names: Sequence[str], own: frozenset[str]) -> bool:
    """Return whether `text` names the condition word by word, or with all words of its name."""
    if _names_one(text, names, own):
        return True
    told_apart = {fold_spelling(word) for word, _, _ in locate_words(text)} & (
        _FOLDED_CONTRASTS - own
    )
    return len(own) > 1 and not told_apart and names_condition(text, names[:1], _NO_TERMS)


def _names_one(text: str, names: Sequence[str], own: frozenset[str]) -> bool:
    """Return whether `text` names one of `names`, word by word, without denying it."""
    return any(_names(text, name, own) for name in names)


def _names(text: str, name: str, own: frozenset[str]) -> bool:
    wanted = make_term_key(name)
    words = locate_words(_blank_possessives(text))
    keys = [to_singular(fold_spelling(word)) for word, _, _ in words]
    for at in range(len(keys) - len(wanted) + 1):
        if tuple(keys[at : at + len(wanted)]) != wanted:
            continue
        start, end = words[at][1], words[at + len(wanted) - 1][2]
        if name.isupper() and text[start:end] != name:
            continue
        before = keys[at - 1] if at else ""
        behind = keys[at + len(wanted)] if at + len(wanted) < len(keys) else ""
        is_another = (before in _FOLDED_CONTRASTS and before not in own) or behind == "like"
        if not is_another and not is_negated(text, start, end):
            return True
    return False


def _find_named_conditions(text: str, with_broader: bool) -> frozenset[str]:
    """Return the shipped conditions that `text` names, or names something broader than."""
    keys = [
        to_singular(fold_spelling(word)) for word, _, _ in locate_words(_blank_possessives(text))
    ]
    known = _load_known_names(with_broader)
    return frozenset(
        condition
        for at in range(len(keys))
        for end in range(at + 1, min(at + LONGEST_NAME, len(keys)) + 1)
        for condition in known.get(tuple(keys[at:end]), ())
    )


def _blank_possessives(text: str) -> str:
    return POSSESSIVE.sub(lambda match: " " * len(match[0]), text)


@cache
def _load_known_names(with_broader: bool) -> Mapping[tuple[str, ...], frozenset[str]]:
    """Return the conditions that each name of at most LONGEST_NAME words may mean.

    Names in capitals alone are left out: in lower case they are other words.
    """
    conditions_of: dict[tuple[str, ...], frozenset[str]] = {}
    for condition in list_shipped_conditions():
        broader = list_broader_names(condition) if with_broader else ()
        for name in (condition, *list_synonyms(condition), *broader):
            if not name.isupper():
                key = make_term_key(name)
                conditions_of[key] = conditions_of.get(key, frozenset()) | {condition}
    return conditions_of
