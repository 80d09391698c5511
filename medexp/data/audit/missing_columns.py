"""Which cases lack a column that the measures of answers read, where other cases have it: they drop
out of the measure without a word.
"""

from collections.abc import Mapping, Sequence

from medexp.data.cases import MEASURED_COLUMNS, Case, parse_items


def find_missing_columns(cases: Sequence[Case]) -> Mapping[str, Sequence[Case]]:
    """Return by column the cases without an item in it; a column that no case has, or that every
    case has, is left out.
    """
    lacking = {
        name: [case for case in cases if not parse_items(case.extra.get(name, ""))]
        for name in MEASURED_COLUMNS
    }
    return {name: found for name, found in lacking.items() if 0 < len(found) < len(cases)}
