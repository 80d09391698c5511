"""The sources of a dataset: itself, or the parts of its mixture, each another option of the same
group composed by its name.

Refuses to read a case: what the parts hold is known when they are loaded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import cache
from math import isfinite
from typing import Any

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from medexp.config.former_values import fill_former_values
from medexp.config.schema import Dataset, MixtureSource, Source
from medexp.config.shipped import find_conf_dir
from medexp.errors import BadInput, ConfigError, first_line, listing, nearest

# of a part's own option, in its entry
SETTABLE = (
    "path",
    "hub_id",
    "config",
    "revision",
    "columns",
    "group_by",
    "test_share",
    "validation_share",
)


def expand_sources(dataset: Dataset) -> tuple[Dataset, list[str]]:
    """Return `dataset` with a `MixtureSource` in the place of every entry of its mixture and of
    `held_out_from`, and every problem; what has one is left as it was.
    """
    problems: list[str] = []
    mixture: list[Any] = []
    for place, entry in enumerate(dataset.mixture):
        try:
            mixture.append(_compose_source(entry, f"dataset.mixture[{place}]"))
        except ConfigError as error:
            mixture.append(entry)
            problems += error.problems
    dataset = replace(dataset, mixture=mixture)
    if isinstance(dataset.held_out_from, str):
        try:
            dataset = replace(dataset, held_out_from=_compose_measured_source(dataset))
        except ConfigError as error:
            problems += error.problems
    elif dataset.held_out_from is not None:
        problems.append(
            f"dataset.held_out_from={dataset.held_out_from} is not the name of a dataset option;"
            f" there are {listing(_list_options())}"
        )
    return dataset, problems


def list_trained_sources(dataset: Dataset) -> list[MixtureSource]:
    """The sources that are trained on, with their weights: the parts of a mixture, else the dataset
    itself.
    """
    if dataset.mixture:
        return list(dataset.mixture)
    return [MixtureSource(**_extract_source_fields(dataset), weight=1.0)]


def list_sources(dataset: Dataset) -> list[MixtureSource]:
    """Return every source that is read: those trained on; at weight 0 those only measured on."""
    read = list_trained_sources(dataset)
    measured = find_measured_place(read, dataset.held_out_from)
    return (
        read
        if measured is not None or dataset.held_out_from is None
        else [*read, dataset.held_out_from]
    )


def find_measured_place(
    parts: Sequence[MixtureSource], held_out_from: MixtureSource | None
) -> int | None:
    """Where among `parts` the one stands whose held-out cases are measured; None where it is not
    among them.
    """
    if held_out_from is None:
        return None
    return next(
        (place for place, part in enumerate(parts) if replace(part, weight=0.0) == held_out_from),
        None,
    )


def _compose_source(entry: Any, where: str) -> MixtureSource:
    if not isinstance(entry, Mapping) or not {"use", "weight"} <= set(entry):
        raise ConfigError(f"{where}={entry} is not a part; write {{use: OPTION, weight: NUMBER}}")
    allowed = ("use", "weight", *SETTABLE)
    unknown = [
        f"{where}.{key} does not exist; an entry has {listing(allowed)}{nearest(str(key), allowed)}"
        for key in entry
        if key not in allowed
    ]
    weight = entry["weight"]
    if (
        isinstance(weight, bool)
        or not isinstance(weight, int | float)
        or not isfinite(weight)
        or weight <= 0
    ):
        unknown.append(
            f"{where}.weight={weight} is out of range: allowed is above 0 (weights need not add up"
            " to 1)"
        )
    if unknown:
        raise ConfigError(unknown)
    changes = {key: value for key, value in entry.items() if key in SETTABLE}
    return MixtureSource(
        **_extract_source_fields(_compose_option(str(entry["use"]), f"{where}.use", changes)),
        weight=float(weight),
    )


def _compose_measured_source(dataset: Dataset) -> MixtureSource:
    """The part of that name where the mixture has one (with what its entry sets), else the option
    as it stands.
    """
    named = [
        each
        for each in list_trained_sources(dataset)
        if isinstance(each, MixtureSource) and each.name == dataset.held_out_from
    ]
    if named:
        return replace(named[0], weight=0.0)
    return MixtureSource(
        **_extract_source_fields(
            _compose_option(dataset.held_out_from, "dataset.held_out_from", {})
        ),
        weight=0.0,
    )


def _compose_option(name: str, where: str, changes: Mapping[str, Any]) -> Dataset:
    """Option `name` of the dataset group with `changes`, as an object.

    Raises: ConfigError if there is none, if a change does not fit, or if it is a mixture itself.
    """
    options = _list_options()
    if name not in options:
        raise ConfigError(
            f"{where}={name} does not exist; there are {listing(options)}{nearest(name, options)}"
        )
    has_only_shipped = _list_config_folders() == [str(find_conf_dir())]
    composed = _compose_shipped(name) if has_only_shipped else _compose(name)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Dataset), composed, dict(changes))
        filled = fill_former_values(OmegaConf.create({"dataset": merged}))
        option = OmegaConf.to_object(filled.dataset)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{where}={name}: {first_line(error)}") from error
    except BadInput as error:
        raise ConfigError([f"{where}={name}: {problem}" for problem in error.problems]) from error
    assert isinstance(option, Dataset)
    if option.mixture or option.held_out_from:
        raise ConfigError(f"{where}={name} is a mixture itself; name its parts instead")
    return option


def _compose(name: str) -> DictConfig:
    found: DictConfig = compose(config_name=f"dataset/{name}").dataset
    return found


# Every run is measured on the cases of an option, and what medexp ships with does not change while
# it runs.
_compose_shipped = cache(_compose)


def _list_config_folders() -> list[str]:
    """Return the folders that options are looked for in, but for those of packages."""
    elements = GlobalHydra.instance().config_loader().get_search_path().get_path()
    paths = [each.path.removeprefix("file://") for each in elements if each.path]
    return [path for path in paths if "://" not in path]


def _list_options() -> list[str]:
    mixtures = ("mixture",)  # made of the others
    return [
        each
        for each in GlobalHydra.instance().config_loader().get_group_options("dataset")
        if each not in mixtures
    ]


def _extract_source_fields(source: Source) -> dict[str, Any]:
    return {key.name: getattr(source, key.name) for key in fields(Source)}
