"""Memory that runs out says in which phase: as a value for what goes on from there, in words for
people.
"""

import json
from pathlib import Path

import pytest
import torch

from medexp.config.schema import Resume
from medexp.errors import VramCeilingError
from medexp.models.memory_guard import Meter, memory_phase
from medexp.planning.memory_terms import Levers, Phase
from medexp.training.resume import acquire


@pytest.fixture
def meter(resolved) -> Meter:
    return Meter(resolved("hardware=cpu").hardware)


def test_the_phase_does_not_depend_on_the_words(meter: Meter) -> None:
    out = pytest.raises(VramCeilingError, match="out of GPU memory while asking the benchmarks")
    with out as ended, memory_phase(Phase.evaluation, "asking the benchmarks", meter):
        raise torch.OutOfMemoryError
    assert ended.value.doing == "asking the benchmarks"
    assert ended.value.phase == Phase.evaluation.value


def test_the_inner_phase_is_the_one(meter: Meter) -> None:
    training = memory_phase(Phase.training, "training", meter)
    measuring = memory_phase(Phase.evaluation, "measuring the held-out loss", meter)
    with pytest.raises(VramCeilingError) as ended, training, measuring:
        raise torch.OutOfMemoryError
    assert ended.value.phase == Phase.evaluation.value


def test_a_spill_has_the_phase_it_was_seen_in(meter: Meter) -> None:
    with pytest.raises(VramCeilingError) as ended, memory_phase(Phase.training, "training", meter):
        raise VramCeilingError("the driver has spilled to host memory")
    assert ended.value.phase == Phase.training.value


def test_the_next_process_is_told_the_phase(meter: Meter, tmp_path: Path) -> None:
    with acquire(tmp_path, "abc", Resume.auto) as work:
        work.remember_fitting_levers(Levers(4, 1))
    left, answering = (
        acquire(tmp_path, "abc", Resume.auto),
        memory_phase(Phase.answering, "any words", meter),
    )
    with pytest.raises(VramCeilingError), left, answering:
        raise torch.OutOfMemoryError
    with acquire(tmp_path, "abc", Resume.auto) as work:
        assert work.load_levers_out_of_memory() == (Levers(4, 1), Phase.answering.value)


def test_what_an_older_medexp_wrote_is_read(tmp_path: Path) -> None:
    with acquire(tmp_path, "abc", Resume.auto) as work:
        work.remember_fitting_levers(Levers(4, 1))
        levers = json.loads((work.folder / "levers.json").read_text())
        (work.folder / "ran_out.json").write_text(
            json.dumps({"levers": levers, "doing": "answering 4 held-out questions"})
        )
        assert work.load_levers_out_of_memory() == (Levers(4, 1), None)
