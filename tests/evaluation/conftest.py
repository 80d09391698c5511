"""The shipped lexicon."""

import pytest

from medexp.evaluation import lexicon as shipped
from medexp.evaluation.terms import Lexicon


@pytest.fixture(scope="session")
def lexicon() -> Lexicon:
    return shipped.load()
