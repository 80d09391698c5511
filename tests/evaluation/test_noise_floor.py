"""What differs although nothing was trained in between is noise."""

from dataclasses import replace

import pytest
from helpers.vignettes import QUESTION, REFERENCE

from medexp.data.cases import Case
from medexp.evaluation.noise_floor import measure_noise
from medexp.evaluation.record import Answer, CaseLoss, Record, build_record


@pytest.fixture
def record() -> Record:
    cases = [Case(f"{QUESTION} {place}", "", REFERENCE) for place in range(4)]
    base = [Answer(place, "", 0, False) for place in range(4)]
    tuned = [Answer(place, f"So.</think>{REFERENCE}", 9, True) for place in range(4)]
    losses = [CaseLoss(20.0, 10, 8.0, 4)] * 4
    return build_record(True, cases, (base, tuned), (losses, losses), cases)


def test_the_same_answers_again_have_no_noise(record, lexicon):
    again = [case.tuned for case in record.cases]
    noise = measure_noise(record, again, record.tuned_losses, lexicon)
    assert {measured.floor for measured in noise} == {0}
    assert {measured.differing for measured in noise} == {0, None}


def test_one_answer_that_turned_is_one_case_that_differs(record, lexicon):
    again = [case.tuned for case in record.cases]
    again[2] = replace(again[2], text="So.</think>Rest.")
    losses = [replace(loss, nats=loss.nats + 1) for loss in record.tuned_losses]
    noise = {
        measured.measure.key: measured for measured in measure_noise(record, again, losses, lexicon)
    }
    structure = noise["structure"]
    assert (structure.first, structure.again, structure.differing) == (1, 0.75, 1)
    assert structure.floor == structure.case_difference == 0.25
    assert noise["loss_completion"].floor == pytest.approx(0.1)
    assert noise["loss_completion"].differing is None
