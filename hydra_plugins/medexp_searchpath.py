"""Lets a project keep its own presets: conf/ in the folder a medexp command is started from is
searched after the shipped one.

Hydra imports every module here at the start of every Hydra application, so this one imports nothing
of medexp and leaves other applications' search paths alone.
"""

from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class MedexpSearchPath(SearchPathPlugin):
    """Appends ./conf when the application is medexp and ./conf is not the shipped folder itself."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called by Hydra before it composes."""
        main = (
            next(
                (source.path for source in search_path.get_path() if source.provider == "main"),
                None,
            )
            or ""
        )
        shipped = Path(main.removeprefix("file://"))
        own = Path.cwd() / "conf"
        is_medexp = (shipped / "hydra" / "job_logging" / "medexp.yaml").is_file()
        if is_medexp and own.is_dir() and own.resolve() != shipped.resolve():
            search_path.append(provider="medexp-project", path=f"file://{own}")
