"""Where a run comes from: the packages that are installed, and the commit that is checked out."""

import subprocess
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from types import MappingProxyType


@cache
def describe_environment() -> Mapping[str, str]:
    """Return the version of every installed package, by name; looked up once a process."""
    # `metadata` parses the package's file at every look: it is looked at once.
    headers = (distribution.metadata for distribution in metadata.distributions())
    packages = {header["Name"]: header["Version"] for header in headers if header["Name"]}
    return MappingProxyType(dict(sorted(packages.items(), key=lambda item: item[0].lower())))


def find_git_commit(folder: Path) -> str | None:
    """The commit checked out around `folder`, with "+" when files differ from it; None outside a
    checkout.
    """

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *words],
                capture_output=True,
                text=True,
                timeout=5,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "--short=12", "HEAD")
    return commit and commit + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
