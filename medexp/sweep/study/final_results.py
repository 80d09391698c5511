"""What the final runs of a study came to, as the study's storage keeps them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from medexp.sweep.study.history import FINAL, StudyHistory
from medexp.sweep.study.trial_files import Ending


@dataclass(frozen=True)
class FinalResult:
    """A final run: of which trial, with which seed, in which folder of the study, how it ended, and
    the last value of every metric. `elapsed_s` counts the times that it was cut, too.
    """

    trial: int
    seed: int
    folder: str
    ending: str
    run_id: str | None = None
    steps: int = 0
    elapsed_s: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def is_done(self) -> bool:
        """Was it trained and measured to its end?"""
        return self.ending == Ending.done.value


def load_final_results(study: StudyHistory) -> dict[str, FinalResult]:
    """Return every final run of `study` that was begun, by its folder's name."""
    stored: dict[str, Any] = study.optuna.user_attrs.get(FINAL, {})
    return {folder: FinalResult(**fields) for folder, fields in stored.items()}


def list_done(study: StudyHistory, folders: Sequence[str]) -> list[FinalResult]:
    """Return the results of those final runs in `folders` that are done, in this order."""
    results = load_final_results(study)
    return [results[name] for name in folders if name in results and results[name].is_done]


def store_final_result(study: StudyHistory, result: FinalResult) -> None:
    """Keep `result` with the study, its time added to what earlier attempts took."""
    results = load_final_results(study)
    earlier = results.get(result.folder)
    elapsed_s = result.elapsed_s + (earlier.elapsed_s if earlier else 0.0)
    fields = asdict(result) | {"elapsed_s": round(elapsed_s, 3)}
    kept = {folder: asdict(other) for folder, other in results.items()}
    study.optuna.set_user_attr(FINAL, kept | {result.folder: fields})
