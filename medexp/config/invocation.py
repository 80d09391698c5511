"""How a command was called, beside the run that its configuration describes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

OptionsT_co = TypeVar("OptionsT_co", covariant=True)
SubjectT_co = TypeVar("SubjectT_co", covariant=True)


@dataclass(frozen=True)
class Invocation(Generic[OptionsT_co, SubjectT_co]):
    """One call of a command.

    `output_dir` is the folder that Hydra made, `overrides` are as typed, `composed_yaml` is the
    configuration as it is kept, and `experiment_yaml` the text of its experiment ("" without one).
    `options` are those of the command's own config group, None where it has none; `subject` is the
    finished run that the configuration was taken from, None where it was composed.
    """

    output_dir: Path
    overrides: tuple[str, ...]
    composed_yaml: str
    experiment_yaml: str
    options: OptionsT_co
    subject: SubjectT_co


# Of a call whose options and subject do not matter.
AnyInvocation = Invocation[object, object]
