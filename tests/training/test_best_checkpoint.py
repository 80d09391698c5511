"""The best step's weights are kept, patience ends a run, and a stop forgets neither."""

from pathlib import Path

import pytest
import torch

from medexp.training.best_checkpoint import WEIGHTS, BestCheckpoint


class FakeModel:
    """Weights that can be copied and loaded, as those of an `AdapterModel`."""

    def __init__(self) -> None:
        self.value = 0.0

    def copy_weights(self) -> list[torch.Tensor]:
        return [torch.tensor([self.value])]

    def load_weights(self, values: list[torch.Tensor]) -> None:
        self.value = float(values[0])


def train(model: FakeModel, best: BestCheckpoint, losses: dict[int, float]) -> None:
    for step, loss in losses.items():
        model.value = float(step)
        best.add_loss(step, loss)


def test_the_weights_of_the_lowest_loss_come_back(tmp_path: Path) -> None:
    model = FakeModel()
    best = BestCheckpoint(model, tmp_path, keeps_best=True, patience=None)
    train(model, best, {10: 3.0, 20: 2.0, 30: 2.5})
    assert best.restore_best(30) == 20
    assert model.value == 20


def test_the_last_step_stays_where_it_is_the_best_or_the_best_is_not_kept(tmp_path: Path) -> None:
    model = FakeModel()
    best = BestCheckpoint(model, tmp_path / "a", keeps_best=True, patience=None)
    train(model, best, {10: 3.0, 20: 2.0})
    assert (best.restore_best(20), model.value) == (20, 20)
    other = BestCheckpoint(model, tmp_path / "b", keeps_best=False, patience=None)
    (tmp_path / "b").mkdir()
    train(model, other, {10: 2.0, 20: 3.0})
    assert (other.restore_best(20), model.value) == (20, 20)
    assert not (tmp_path / "b" / WEIGHTS).exists()


@pytest.mark.parametrize(
    ("patience", "hopeless"), [(1, True), (2, True), (3, False), (None, False)]
)
def test_patience_is_counted_in_evaluations_since_the_best(
    tmp_path: Path, patience: int | None, hopeless: bool
) -> None:
    best = BestCheckpoint(FakeModel(), tmp_path, keeps_best=False, patience=patience)
    assert not best.is_hopeless
    train(FakeModel(), best, {10: 3.0, 20: 2.0, 30: 2.1, 40: 2.0})
    assert best.best_step == 20
    assert best.is_hopeless is hopeless


def test_a_run_that_is_taken_up_again_counts_a_step_once_and_has_the_best(tmp_path: Path) -> None:
    model = FakeModel()
    train(model, BestCheckpoint(model, tmp_path, True, 3), {10: 2.0, 20: 2.2, 30: 2.1})
    again = BestCheckpoint(FakeModel(), tmp_path, True, 3)
    # From the checkpoint of step 20 on, the same losses are measured again.
    again.add_loss(30, 2.1)
    assert not again.is_hopeless
    again.add_loss(40, 2.3)
    assert again.is_hopeless
    fresh = FakeModel()
    assert BestCheckpoint(fresh, tmp_path, True, 3).restore_best(40) == 10
    assert fresh.value == 10
