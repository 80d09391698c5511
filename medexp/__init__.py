"""medexp: find the best fine-tuning of a language model that fits a small graphics card, and prove
what it changed.

The names below are the Python API (`medexp.api`). They are imported when they are first used, so
that `import medexp` costs neither torch nor Hydra.
"""

from typing import TYPE_CHECKING

from medexp.system import environment

if TYPE_CHECKING:
    from medexp.api import Experiment, LoadedRun, compare_runs, compose, load_run

__all__ = ["Experiment", "LoadedRun", "compare_runs", "compose", "load_run"]

# Before anything else of medexp, or of what it uses, is imported.
environment.prepare()


def __getattr__(name: str) -> object:
    """Return the name of the API, from `medexp.api`."""
    if name in __all__:
        from medexp import api

        return getattr(api, name)
    raise AttributeError(f"module 'medexp' has no attribute {name!r}")
