"""The shape of a model of the Hub that declares none (`model=hub`), from its config.json: the one
file that is fetched before a plan is made.
"""

import json
from collections.abc import Mapping
from functools import cache

from omegaconf import DictConfig

from medexp.config.model_shape import derive_shape
from medexp.config.resolve import lacks_shape, with_shape
from medexp.errors import ModelError
from medexp.system import hub


def fill_hub_shape(cfg: DictConfig) -> DictConfig:
    """Return `cfg` with the shape of a model that declares none and lies on the Hub.

    Raises: ModelError if the Hub does not give it, or no plan is made for its family.
    """
    if not lacks_shape(cfg) or cfg.model.path is not None or cfg.model.hub_id is None:
        return cfg
    return with_shape(cfg, _read_hub_shape(cfg.model.hub_id, cfg.model.revision))


@cache
def _read_hub_shape(hub_id: str, revision: str | None) -> Mapping[str, object]:
    """Return the shape of model `hub_id`; asked for once a process."""
    place = f"model.hub_id={hub_id}"
    try:
        commit = hub.find_commit("model", hub_id, revision)
        config = json.loads(hub.fetch(hub_id, "config.json", commit).read_text(encoding="utf-8"))
    except hub.HubError as error:
        raise ModelError(
            f"{place} (revision {revision or 'main'}): config.json could not be had from the Hub:"
            f" {error}. Check the name, or set model=local model.path=FOLDER of a local copy"
        ) from error
    except ValueError as error:
        raise ModelError(
            f"{place}: config.json cannot be read ({error}); choose another model"
        ) from error
    if not isinstance(config, dict):
        raise ModelError(f"{place}: config.json holds no object; choose another model")
    return derive_shape(config, place)
