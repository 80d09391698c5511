"""The verifier of a run: asked about every answer, refused when it is none, never fatal."""

from dataclasses import replace

import pytest

from medexp.errors import ConfigError, ModelError
from medexp.evaluation.record import Answer, AnsweredCase, Record
from medexp.evaluation.scorecard import build_scorecard
from medexp.evaluation.verification import check_verifier, verify_answers
from medexp.tracking.artifact_names import RECORD

ANSWERS = [Answer(0, "Aspirin.", 3, True), Answer(0, "Rest at home.", 3, True)]
CASE = AnsweredCase("Chest pain?", "Give aspirin.", {}, *ANSWERS)


class Fixed:
    name = "fixed"

    def support(self, items):
        assert items[0].evidence == "Chest pain?\nGive aspirin."
        return [1.0 if "Aspirin" in item.answer else -1.0 for item in items]


class Silent:
    name = "silent"

    def support(self, items):
        raise ModelError(f"no server for {len(items)} answers")


@pytest.fixture
def evaluation(resolved):
    return resolved().evaluation


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("bse", "give base, the folder of a model"),
        ("/no/such/folder", "give base, the folder of a model"),
        ("http://127.0.0.1:1/v1", "name the model that it is to ask in evaluation.verifier_model"),
    ],
)
def test_what_is_no_verifier_is_refused(evaluation, named, said):
    with pytest.raises(ConfigError) as refused:
        check_verifier(replace(evaluation, verifier=named))
    (problem,) = refused.value.problems
    assert problem.startswith(f"evaluation.verifier={named}")
    assert said in problem


def test_every_kind_of_verifier_is_taken(evaluation, tiny_model):
    for named in (None, "base", str(tiny_model)):
        check_verifier(replace(evaluation, verifier=named))
    server = replace(evaluation, verifier="https://host/v1", verifier_model="m")
    check_verifier(server)


def test_every_answer_of_every_arm_is_verified_and_compared(lexicon):
    counted = []
    found = verify_answers(Fixed(), [CASE], ["base", "tuned"], counted.append)
    assert found == {"base": (1.0,), "tuned": (-1.0,)}
    assert counted == [1, 1]
    record = Record(False, (CASE,), (), (), verified=found)
    result = build_scorecard(record, lexicon).find_result("supported")
    assert (result.before, result.after) == (1, 0)


def test_a_server_that_is_not_there_is_no_end_of_a_run(lexicon):
    assert verify_answers(Silent(), [CASE], ["base", "tuned"], lambda _: None) == {}
    result = build_scorecard(Record(False, (CASE,), (), ()), lexicon).find_result("supported")
    assert result.missing == "evaluation.verifier names none"


@pytest.mark.parametrize("kind", ["base", "folder"])
def test_a_run_asks_its_own_base_or_another_model(tiny_runs, kind):
    named = "base" if kind == "base" else str(tiny_runs.model)
    result = tiny_runs.train(f"evaluation.verifier={named}", name=kind)
    record = Record.from_json((result.adapter.parent / RECORD).read_text(), "here")
    assert set(record.verified) == {"base", "tuned"}
    assert all(len(values) == len(record.cases) for values in record.verified.values())
