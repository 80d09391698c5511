"""Where trials come to is learnt from every report, at each setting for itself."""

import math

import pytest

from medexp.sweep.search.search_space import Choice, FloatRange, SearchSpace
from medexp.sweep.study import curve_process
from medexp.sweep.study.curve_process import CurveProcess
from medexp.sweep.study.trial_files import Ending, TrialOutcome

SPACE = SearchSpace(
    {
        "training.learning_rate": FloatRange(1e-4, 1e-2, log=True),
        "lora.r": Choice((4, 8)),
    }
)
STEPS, END = (4, 12, 36), 60


def loss_at(rate: float, step: int) -> float:
    """High rates lead at first, and 1e-3 ends lowest."""
    share = step / END
    start = 4 - math.log10(rate / 1e-4) * 0.2
    end = 3.3 + 0.2 * math.log10(rate / 1e-3) ** 2
    return start + math.sqrt(share) * (end - start)


@pytest.fixture
def curves(opened):
    """curves(*(rate, last step)): a process of trials that came so far, and their numbers."""

    def made(*trials: tuple[float, int]) -> CurveProcess:
        study = opened(space=SPACE)
        for rate, last in trials:
            study.enqueue({"training.learning_rate": rate, "lora.r": 8})
            trial = study.ask()
            for step in STEPS:
                if step <= last:
                    trial.report(loss_at(rate, step), step)
            ending = Ending.done if last == END else Ending.paused
            value = {"result/loss_after": loss_at(rate, END)}
            study.tell(trial, TrialOutcome(ending, "", value), {})
        return CurveProcess(study.trials())

    return made


def test_what_leads_on_the_way_need_not_lead_at_the_end(curves):
    rates = (1e-2, 1e-3, 1e-4)
    assert loss_at(1e-2, 4) < loss_at(1e-3, 4)
    process = curves(*((rate, END) for rate in rates), (7e-3, 4), (1.3e-3, 4))
    ends = process.predict_ends()
    assert [ends[number] for number in range(3)] == [loss_at(rate, END) for rate in rates]
    assert ends[4] < ends[3]
    assert ends[4] == pytest.approx(loss_at(1.3e-3, END), abs=0.03)
    assert ends[3] == pytest.approx(loss_at(7e-3, END), abs=0.06)


def test_a_first_trial_is_what_others_are_measured_by(curves):
    process = curves((1e-3, END), (3e-4, 4), (2e-3, 4))
    ends = process.predict_ends()
    # All gain what the first one gained, as far as anybody knows.
    assert ends[2] < ends[0] < ends[1]


def test_little_is_expected_near_what_ended_worse(curves):
    process = curves((1e-3, END), (1e-4, END), (1e-2, END), (1e-3, 4), (2e-3, 4), (1.1e-4, 4))
    expected = process.expect_improvements()
    assert set(expected.trials) == {3, 4, 5}
    assert expected.trials[4] > 0.001
    assert expected.trials[5] < 0.01 * expected.trials[4]
    assert expected.of_new_point > 0


def test_the_same_trials_are_weighed_the_same(curves):
    process = curves((1e-3, END), (1e-4, 12), (2e-3, 4))
    again = CurveProcess(process._trials)
    assert again.expect_improvements() == process.expect_improvements()
    assert again.predict_ends() == process.predict_ends()


def test_of_many_reports_the_newest_teach(curves, monkeypatch):
    monkeypatch.setattr(curve_process, "MAX_REPORTS", 4)
    process = curves((1e-3, END), (1e-4, END), (2e-3, 4))
    # Five: one of the last trial, four of the one before.
    assert process._process.X_train_.shape == (5, 3)
    assert set(process.predict_ends()) == {0, 1, 2}


def test_without_a_report_there_is_nothing_to_learn(opened):
    study = opened(space=SPACE)
    trial = study.ask()
    trial.report(math.nan, 4)
    trial.report(4.0, 0)
    with pytest.raises(ValueError, match="no trial has reported a loss"):
        CurveProcess(study.trials())
