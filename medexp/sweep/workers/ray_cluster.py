"""Connecting to Ray before the first trial.

Hydra's launcher for Ray connects where it launches its first job. With several trials at a time
several threads do so at once, Ray takes the first, and the other trials fail. It also asks for a
size of Ray's memory, which a cluster that is there already refuses.
"""

from typing import Any

from omegaconf import OmegaConf

from medexp.errors import MachineError, first_line


def connect_first(launcher: Any) -> None:
    """Connect to Ray as `launcher` would, if it is hydra/launcher=ray; others are left alone, as
    that for AWS, which connects elsewhere.

    Raises: MachineError where Ray cannot be started or reached.
    """
    if type(launcher).__name__ != "RayLauncher":
        return
    import ray

    settings: Any = OmegaConf.to_container(launcher.ray_cfg.init, resolve=True)
    if ray.is_initialized():
        return
    try:
        ray.init(**settings)
    # Ray raises what its parts raise.
    except Exception as error:
        where = settings.get("address") or "on this machine"
        raise MachineError(
            f"Ray cannot be started or reached ({where}): {first_line(error)}; set"
            " hydra.launcher.ray.init.address to a cluster that is there, or hydra/launcher=medexp"
        ) from error
