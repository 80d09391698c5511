"""Where lies what medexp ships with: its YAML and its cases."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent
# The folder of the shipped cases.
SHIPPED = _PACKAGE / "data"


def find_conf_dir() -> Path:
    """Return the folder of the shipped YAML: a checkout's conf/, or the copy in the package."""
    checkout = _PACKAGE.parent / "conf"
    return checkout if (checkout / "train.yaml").is_file() else _PACKAGE / "conf"
