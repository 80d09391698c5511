"""A trial as an experiment preset: its hardware, and every value that differs from what that
hardware composes to.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from medexp.config.resolve import movable
from medexp.system.home import with_tilde
from medexp.tracking.artifact_names import BEST_PRESET

_NOT_THE_EXPERIMENT = ("tracking", "sweep", "run", "train", "hydra")


def format_preset(cfg: DictConfig, plain: Callable[[str], DictConfig], head: str) -> str:
    """The YAML of an experiment that composes to `cfg`; `plain(hardware)` is what that hardware
    composes to by itself.

    `head` says above it what the experiment asked and found.
    """
    hardware = cfg.hydra.runtime.choices["hardware"]
    wanted, given = _to_plain_values(cfg), _to_plain_values(plain(hardware))
    comment = "".join(f"# {with_tilde(line)}\n" for line in head.splitlines())
    text = OmegaConf.to_yaml(OmegaConf.create(movable(_select_changed(wanted, given))))
    first = OmegaConf.to_yaml(OmegaConf.create({"defaults": [{"override /hardware": hardware}]}))
    return f"# @package _global_\n{comment}{first}\n{text if text.strip() != '{}' else ''}"


def write_preset(text: str, folder: Path) -> Path:
    """Write `text` to `folder`/best.yaml, and where `--config-dir folder experiment=best` looks for
    it.
    """
    file = folder / BEST_PRESET
    file.write_text(text, encoding="utf-8")
    (folder / "experiment").mkdir(exist_ok=True)
    (folder / "experiment" / BEST_PRESET).write_text(text, encoding="utf-8")
    return file


def _to_plain_values(cfg: DictConfig) -> dict[str, Any]:
    groups = {
        str(key): OmegaConf.to_container(cfg[key], resolve=True)
        for key in cfg
        if key not in _NOT_THE_EXPERIMENT
    }
    return {key: _replace_enums(value) for key, value in groups.items()}


def _replace_enums(value: Any) -> Any:
    """Enums as the words that YAML holds."""
    if isinstance(value, Mapping):
        return {str(key): _replace_enums(inner) for key, inner in value.items()}
    return getattr(value, "name", value)


def _select_changed(wanted: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    for key, value in wanted.items():
        if isinstance(value, Mapping) and isinstance(given.get(key), Mapping):
            if inner := _select_changed(value, given[key]):
                changed[key] = inner
        elif key not in given or given[key] != value:
            changed[key] = value
    return changed
