"""The adapter of the step with the lowest validation loss, and when going on is of no use.

TRL's load_best_model_at_end and EarlyStoppingCallback do the same for a trainer that evaluates by
itself. Here the loss is measured by medexp (`evaluation`), on cases of one length whatever is
trained on, so what they would need to be told is kept here instead.
"""

from pathlib import Path

from medexp.models.adapter_model import AdapterModel
from medexp.system.files import write_json_atomic
from medexp.training.resume import read_json

LOSSES, WEIGHTS = "validation_losses.json", "best_adapter.pt"


class BestCheckpoint:
    """Is told every validation loss of a run; keeps the best weights in the folder of the run.

    The losses and the weights survive a stop: a run that is taken up again hears the losses since
    its checkpoint once more, and counts each step once.
    """

    def __init__(self, model: AdapterModel, folder: Path, keeps_best: bool, patience: int | None):
        self._model, self._folder = model, folder
        self._keeps_best, self._patience = keeps_best, patience
        stored = read_json(folder / LOSSES, dict) or {}
        self._losses = {int(step): float(loss) for step, loss in stored.items()}

    @property
    def best_step(self) -> int | None:
        """The step with the lowest loss, the first of equals; None before any was told."""
        return min(self._losses, key=lambda step: (self._losses[step], step), default=None)

    @property
    def is_hopeless(self) -> bool:
        """Whether the loss has not fallen below its lowest in as many evaluations as allowed."""
        best = self.best_step
        if self._patience is None or best is None:
            return False
        return sum(step > best for step in self._losses) >= self._patience

    def add_loss(self, step: int, loss: float) -> None:
        """Hear the validation loss after `step`; keep the weights where it is the lowest yet."""
        self._losses = dict(sorted((self._losses | {step: loss}).items()))
        if self._keeps_best and self.best_step == step:
            self._save_weights()
        write_json_atomic(self._folder / LOSSES, {str(at): had for at, had in self._losses.items()})

    def restore_best(self, last_step: int) -> int:
        """Put the best weights into the model, and return their step.

        Nothing changes where the last step is the best, or the best is not to be kept.
        """
        best = self.best_step
        if not self._keeps_best or best is None or best == last_step:
            return last_step
        import torch

        self._model.load_weights(torch.load(self._folder / WEIGHTS, weights_only=True))
        return best

    def _save_weights(self) -> None:
        import torch

        self._folder.mkdir(parents=True, exist_ok=True)
        partial = self._folder / f"{WEIGHTS}.partial"
        torch.save(self._model.copy_weights(), partial)
        partial.replace(self._folder / WEIGHTS)
