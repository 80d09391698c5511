"""TODO: say what this module holds."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Invocation:
    """How this run was asked for: the output folder Hydra made, the overrides as typed, the
    composed YAML (as it is kept), the door's own options (the config group of its name, where it
    has one), the text of its experiment's YAML, and the finished run that it was recomposed from.
    """

    output_dir: Path
    overrides: tuple[str, ...]
    composed_yaml: str
    options: object = None
    experiment_yaml: str = ""
    subject: object = None
