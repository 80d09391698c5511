"""Numbers in clinical text, with their units: what was given, how long, how high. Text only,
English.

The rules, in full:
- A number is digits with an optional decimal part, thousands comma or range (both ends count);
  `120/80` is two numbers. A number word (two, twenty-five) counts where a unit follows it. Digits
  that belong to a name (V4, B12, CHA2DS2, 12-lead, 5-HT) and the numbers of a list are none.
- Units of mass, volume and time are brought to one base (1 g is 1000 mg, 48 hours are two days, a
  month 30 days); other units are compared by name, rates (mg/kg) by their first unit.
- Two quantities agree when value and unit do. Where one has no unit the bare numbers are compared,
  but a number word without a unit (two cannulae) says nothing about a dose or a time.
"""

import re
from dataclasses import dataclass, replace
from math import isclose

_UNITS: dict[str, tuple[str, float]] = {
    **dict.fromkeys(("mg", "milligram", "milligrams"), ("mg", 1.0)),
    **dict.fromkeys(("g", "gram", "grams"), ("mg", 1000.0)),
    **dict.fromkeys(("kg", "kilogram", "kilograms", "kilo", "kilos"), ("kg", 1.0)),
    **dict.fromkeys(("mcg", "µg", "μg", "microgram", "micrograms"), ("mg", 0.001)),
    **dict.fromkeys(("ml", "millilitre", "millilitres", "milliliter", "milliliters"), ("ml", 1.0)),
    **dict.fromkeys(("l", "litre", "litres", "liter", "liters"), ("ml", 1000.0)),
    **dict.fromkeys(("second", "seconds", "sec"), ("min", 1 / 60)),
    **dict.fromkeys(("minute", "minutes", "min", "mins"), ("min", 1.0)),
    **dict.fromkeys(("hour", "hours", "h", "hr", "hrs", "hourly"), ("min", 60.0)),
    **dict.fromkeys(("day", "days"), ("min", 1440.0)),
    **dict.fromkeys(("week", "weeks"), ("min", 10080.0)),
    **dict.fromkeys(("month", "months"), ("min", 43200.0)),
    **dict.fromkeys(("year", "years", "yr", "yrs"), ("min", 525600.0)),
    **dict.fromkeys(("%", "percent", "per cent"), ("%", 1.0)),
    **dict.fromkeys(("mm", "millimetre", "millimetres"), ("mm", 1.0)),
    **dict.fromkeys(("cm", "centimetre", "centimetres"), ("mm", 10.0)),
    **{name: (name, 1.0) for name in "mmol umol µmol mmhg kpa iu °c °f bpm meq ng pg".split()},
    **dict.fromkeys(("unit", "units"), ("unit", 1.0)),
    **dict.fromkeys(
        ("tablet", "tablets", "capsule", "capsules", "puff", "puffs", "dose", "doses"),
        ("dose", 1.0),
    ),
}
# `casefold` makes one of the two signs for micro (U+00B5, U+03BC).
_SCALES = {name.casefold(): scale for name, scale in _UNITS.items()}
_DOSE_UNITS = frozenset(("mg", "ml", "unit", "iu", "dose"))
_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_WORD_VALUES = {word: value for value, word in enumerate(_SMALL)} | {
    word: 10 * tens for tens, word in enumerate(_TENS, 2)
}
_UNIT = "|".join(sorted(map(re.escape, {*_UNITS, *_SCALES}), key=len, reverse=True))
_DIGITS = re.compile(
    r"(?<![\w.])(?<![A-Za-z]-)(\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)"
    r"(?:\s?(?:-|–|to)\s?(\d+(?:\.\d+)?))?"
    rf"(?:[\s-]?({_UNIT})(?![A-Za-z]))?(?![A-Za-z\d]|-(?!old\b)[A-Za-z])",
    re.IGNORECASE,
)
_WORDS = re.compile(
    rf"\b((?:{'|'.join(_TENS)})(?:[-\s](?:{'|'.join(_SMALL[1:10])}))?|{'|'.join(_SMALL)})\b"
    rf"(?:[-\s]({_UNIT})(?![A-Za-z]))?",
    re.IGNORECASE,
)
_LIST_NUMBER = re.compile(r"^[\s#*-]*\d+[.)](?=\s)", re.MULTILINE)


@dataclass(frozen=True)
class Quantity:
    """A number at [start, end) of a text: `value` in `unit`, the base of its dimension (None where
    it has no unit), `bare` as it stands there."""

    text: str
    start: int
    end: int
    value: float
    unit: str | None
    bare: float
    in_words: bool = False

    @property
    def is_dose(self) -> bool:
        """Is its unit one that medicines are given in?"""
        return self.unit in _DOSE_UNITS

    def agrees(self, other: "Quantity") -> bool:
        """Does `other` say the same?"""
        if self.unit == other.unit:
            return isclose(self.value, other.value, rel_tol=1e-6)
        one_is_bare = None in (self.unit, other.unit) and not (self.in_words or other.in_words)
        return one_is_bare and isclose(self.bare, other.bare, rel_tol=1e-6)


def find_quantities(text: str, every_word: bool = False) -> list[Quantity]:
    """Return the quantities of `text`; with `every_word` number words without a unit, too."""
    plain = _LIST_NUMBER.sub(lambda match: " " * len(match[0]), text)
    quantities = [quantity for match in _DIGITS.finditer(plain) for quantity in _read_digits(match)]
    quantities += [
        _read_number_word(match) for match in _WORDS.finditer(plain) if match[2] or every_word
    ]
    return sorted(quantities, key=lambda quantity: quantity.start)


def _read_digits(match: re.Match[str]) -> list[Quantity]:
    ends = [match[1], match[2]] if match[2] else [match[1]]
    return [_build_quantity(match, float(end.replace(",", "")), match[3]) for end in ends]


def _read_number_word(match: re.Match[str]) -> Quantity:
    value = sum(_WORD_VALUES[word] for word in re.split(r"[-\s]", match[1].casefold()))
    return replace(_build_quantity(match, float(value), match[2]), in_words=match[2] is None)


def _build_quantity(match: re.Match[str], value: float, unit: str | None) -> Quantity:
    base, scale = _SCALES[unit.casefold()] if unit else (None, 1.0)
    return Quantity(match[0].strip(), match.start(), match.end(), value * scale, base, value)
