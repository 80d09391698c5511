"""How a command was called, beside the run that its configuration describes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

OptionsT_co = TypeVar("OptionsT_co", covariant=True)
FinishedRunT_co = TypeVar("FinishedRunT_co", covariant=True)


@dataclass(frozen=True)
class Invocation(Generic[OptionsT_co, FinishedRunT_co]):
    """One call of a command.

    `output_dir` is the folder that Hydra made, `overrides` are as typed, `composed_yaml` is the
    configuration as it is kept, and `experiment_yaml` the text of its experiment ("" without one).
    `options` are those of the command's own config group, None where it has none; `run` is the
    finished run that the configuration was taken from, None where it was composed.
    """

    output_dir: Path
    overrides: tuple[str, ...]
    composed_yaml: str
    experiment_yaml: str
    options: OptionsT_co
    run: FinishedRunT_co


# For code that needs neither the options nor the finished run of a call.
AnyInvocation = Invocation[object, object]
