"""A trial as an experiment preset: its hardware, and every value that differs from what that
hardware composes to.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from medexp.config.resolve import movable
from medexp.system.home import with_tilde

_NOT_THE_EXPERIMENT = ("tracking", "sweep", "run", "train", "hydra")


def preset(cfg: DictConfig, plain: Callable[[str], DictConfig], head: str) -> str:
    """The YAML of an experiment that composes to `cfg`; `plain(hardware)` is what that hardware
    composes to by itself.

    `head` says above it what the experiment asked and found.
    """
    hardware = cfg.hydra.runtime.choices["hardware"]
    wanted, given = _plain(cfg), _plain(plain(hardware))
    comment = "".join(f"# {with_tilde(line)}\n" for line in head.splitlines())
    text = OmegaConf.to_yaml(OmegaConf.create(movable(_difference(wanted, given))))
    first = OmegaConf.to_yaml(OmegaConf.create({"defaults": [{"override /hardware": hardware}]}))
    return f"# @package _global_\n{comment}{first}\n{text if text.strip() != '{}' else ''}"


def write(text: str, folder: Path) -> Path:
    """Write `text` to `folder`/best.yaml, and where `--config-dir folder experiment=best` looks for
    it.
    """
    file = folder / "best.yaml"
    file.write_text(text, encoding="utf-8")
    (folder / "experiment").mkdir(exist_ok=True)
    (folder / "experiment" / "best.yaml").write_text(text, encoding="utf-8")
    return file


def _plain(cfg: DictConfig) -> dict[str, Any]:
    groups = {
        str(key): OmegaConf.to_container(cfg[key], resolve=True)
        for key in cfg
        if key not in _NOT_THE_EXPERIMENT
    }
    return {key: _words(value) for key, value in groups.items()}


def _words(value: Any) -> Any:
    """Enums as the words that YAML holds."""
    if isinstance(value, Mapping):
        return {str(key): _words(each) for key, each in value.items()}
    return getattr(value, "name", value)


def _difference(wanted: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    for key, value in wanted.items():
        if isinstance(value, Mapping) and isinstance(given.get(key), Mapping):
            if inner := _difference(value, given[key]):
                changed[key] = inner
        elif key not in given or given[key] != value:
            changed[key] = value
    return changed
