"""The best trial as an experiment preset: its hardware, and every value that differs from what that
hardware composes to.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from medexp.config.resolve import make_movable
from medexp.system.home import with_tilde
from medexp.tracking.artifact_names import BEST_PRESET

_NOT_IN_A_PRESET = ("tracking", "sweep", "run", "train", "hydra")


def format_preset(
    cfg: DictConfig, compose_defaults: Callable[[str], DictConfig], header: str
) -> str:
    """Return the YAML of an experiment that composes to `cfg`, under `header` as a comment.

    `compose_defaults(hardware)` composes a run on that hardware without any other override.
    """
    hardware = cfg.hydra.runtime.choices["hardware"]
    wanted = _to_plain_values(cfg)
    defaults = _to_plain_values(compose_defaults(hardware))
    changed = OmegaConf.create(make_movable(_select_changed(wanted, defaults)))
    values = OmegaConf.to_yaml(changed) if len(changed) else ""
    comment = "".join(f"# {with_tilde(line)}\n" for line in header.splitlines())
    defaults_list = OmegaConf.create({"defaults": [{"override /hardware": hardware}]})
    return f"# @package _global_\n{comment}{OmegaConf.to_yaml(defaults_list)}\n{values}"


def write_preset(text: str, folder: Path) -> Path:
    """Write `text` to `folder`/best.yaml; returns that path.

    It is written to `folder`/experiment too, where `--config-dir FOLDER experiment=best` finds it.
    """
    file = folder / BEST_PRESET
    file.write_text(text, encoding="utf-8")
    (folder / "experiment").mkdir(exist_ok=True)
    (folder / "experiment" / BEST_PRESET).write_text(text, encoding="utf-8")
    return file


def _to_plain_values(cfg: DictConfig) -> dict[str, Any]:
    """Return the config groups of an experiment as plain values, interpolations resolved."""
    groups = {
        str(key): OmegaConf.to_container(cfg[key], resolve=True)
        for key in cfg
        if key not in _NOT_IN_A_PRESET
    }
    return {key: _replace_enums(group) for key, group in groups.items()}


def _replace_enums(value: Any) -> Any:
    """Return `value` with each enum member as its name, which is what YAML holds."""
    if isinstance(value, Mapping):
        return {str(key): _replace_enums(inner) for key, inner in value.items()}
    return getattr(value, "name", value)


def _select_changed(wanted: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of `wanted` is missing from `defaults` or has another value there."""
    changed: dict[str, Any] = {}
    for key, value in wanted.items():
        if isinstance(value, Mapping) and isinstance(defaults.get(key), Mapping):
            if inner := _select_changed(value, defaults[key]):
                changed[key] = inner
        elif key not in defaults or defaults[key] != value:
            changed[key] = value
    return changed
