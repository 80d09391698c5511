"""Words by which programs write that a value is missing: as an answer, they teach a model to say
"None".
"""

from collections.abc import Iterator, Sequence

from medexp.data.cases import Case

# What pandas reads as missing, what Excel shows for an error, and single signs that people type
# into an empty cell.
WORDS = frozenset(
    "none null nil nan na n/a n.a. n.a #n/a #na <na> nat #value! #ref! #name? #div/0! undefined"
    " missing (null) (none) [null] - -- --- – — . .. ... … ? / * _".split()
)


def find_missing_values(cases: Sequence[Case]) -> Iterator[Case]:
    """Return the cases whose answer or reasoning is nothing but such a word."""
    return (
        case for case in cases if is_missing_value(case.answer) or is_missing_value(case.reasoning)
    )


def is_missing_value(text: str) -> bool:
    """Return whether `text` is a word for a missing value."""
    return text.casefold() in WORDS
