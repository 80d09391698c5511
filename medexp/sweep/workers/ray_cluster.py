"""Connecting to Ray before the first trial.

Hydra's launcher for Ray connects where it launches its first job. With several trials at a time
several threads do so at once, Ray takes the first, and the other trials fail. It also asks for a
size of Ray's memory, which a cluster that is there already refuses.
"""

from typing import Any

from omegaconf import OmegaConf


def connect_first(launcher: Any) -> None:
    """Connect to Ray as `launcher` would, if it is hydra/launcher=ray; others are left alone, as
    that for AWS, which connects elsewhere."""
    if type(launcher).__name__ != "RayLauncher":
        return
    import ray

    settings: Any = OmegaConf.to_container(launcher.ray_cfg.init, resolve=True)
    if not ray.is_initialized():
        ray.init(**settings)
