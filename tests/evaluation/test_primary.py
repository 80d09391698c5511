"""Primary measures are known ones, and few."""

from dataclasses import replace

import pytest

from medexp.config.schema import Evaluation
from medexp.data.cases import Case
from medexp.errors import ConfigError
from medexp.evaluation.evaluator import check_primary, name_held_out_groups
from medexp.evaluation.measure_table import DEFAULT_PRIMARY


@pytest.fixture
def evaluation(resolved) -> Evaluation:
    return resolved().evaluation


def test_the_presets_name_known_measures(evaluation):
    assert tuple(evaluation.primary) == DEFAULT_PRIMARY
    check_primary(evaluation)
    check_primary(replace(evaluation, primary=["judge", "benchmark_medqa"]))


def test_a_mistyped_measure_is_named_with_the_nearest(evaluation):
    with pytest.raises(ConfigError) as refused:
        check_primary(replace(evaluation, primary=["structure", "must_say_coverge"]))
    (problem,) = refused.value.problems
    assert "evaluation.primary has must_say_coverge" in problem
    assert "did you mean must_say_coverage?" in problem


def test_many_primary_measures_are_none(evaluation):
    names = ["structure", "ended", "words", "repetition", "think_closed"]
    with pytest.raises(ConfigError, match="names 5 measures and may name 4"):
        check_primary(replace(evaluation, primary=names))


def test_a_group_is_that_of_the_column_the_cases_are_grouped_by(resolved):
    config = resolved()
    cases = [Case("a", "", "x", {"group": "gout"}), Case("b", "", "x")]
    assert name_held_out_groups(config, cases) == ["group=gout", cases[1].digest]
    dataset = replace(config.dataset, group_by=None)
    plain = name_held_out_groups(replace(config, dataset=dataset), cases)
    assert plain == [case.digest for case in cases]
