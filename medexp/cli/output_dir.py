"""Output folders that no two commands share."""

from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf


class UniqueOutputDir(Callback):
    """Hydra callback: two commands of one second have an output folder each.

    Every root config whose hydra.run.dir is a time names it. A folder that was given by name is
    taken as it is.
    """

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Make the folder that `config` names by the time, and set it to the one that was made."""
        if "${now:" in str(OmegaConf.to_container(config.hydra.run, resolve=False)):
            # Hydra makes the folder once more, and reports what hinders it then.
            with suppress(OSError):
                config.hydra.run.dir = str(make_unique_folder(Path(config.hydra.run.dir)))


def make_unique_folder(folder: Path) -> Path:
    """Return `folder`, made by this process and no other.

    Where it is there already, return the first of `folder`-2, -3, ... that is not.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for number in count(1):
        candidate = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        with suppress(FileExistsError):
            candidate.mkdir()
            return candidate
    raise AssertionError("count() does not end")
