"""The Hub commits that a run has recorded (tags in MLflow), put back where it is gone on from: a
branch may have moved since."""

from collections.abc import Mapping, Sequence

from omegaconf import DictConfig, OmegaConf

from medexp.config import dataset_sources
from medexp.config.schema import Dataset, MixtureSource, Model, RunConfig

MODEL, DATASET = "medexp.model_revision", "medexp.dataset_revision"
# Commits of a mixture's sources, in their order.
BETWEEN = " + "
_MODEL_KEYS = ("model", "model.hub_id", "model.path", "model.revision")
_DATASET_KEYS = (
    "dataset",
    "dataset.hub_id",
    "dataset.path",
    "dataset.config",
    "dataset.revision",
    "dataset.held_out_from",
)


def pin_commits(cfg: DictConfig, tags: Mapping[str, str], named: Sequence[str]) -> None:
    """Set the revisions in `cfg` to the commits in `tags`, save those of a model or dataset that
    the command line has `named`."""
    if MODEL in tags and cfg.model.path is None and not set(named) & set(_MODEL_KEYS):
        cfg.model.revision = tags[MODEL]
    other_cases = [
        key for key in named if key in _DATASET_KEYS or key.startswith("dataset.mixture")
    ]
    if DATASET in tags and not other_cases:
        _pin_cases(cfg.dataset, tags[DATASET].split(BETWEEN))


def _pin_cases(dataset: DictConfig, commits: Sequence[str]) -> None:
    composed = OmegaConf.to_object(dataset)
    assert isinstance(composed, Dataset)
    as_object, problems = dataset_sources.expand_sources(composed)
    # They are reported when the config is checked.
    if problems:
        return
    from_hub = [
        place
        for place, source in enumerate(dataset_sources.list_sources(as_object))
        if source.path is None
    ]
    if len(from_hub) != len(commits):
        return
    entries = dataset.mixture or [dataset]
    for place, commit in zip(from_hub, commits, strict=True):
        # What is only measured on is an option's name, which holds no commit.
        if place < len(entries):
            OmegaConf.update(entries[place], "revision", commit, force_add=True)


def describe_commits(config: RunConfig, tags: Mapping[str, str]) -> str | None:
    """Return which of the commits in `tags` the checked `config` takes; None where it takes
    none."""
    recorded = {tags.get(MODEL), *tags.get(DATASET, "").split(BETWEEN)} - {None, ""}
    read: list[Model | MixtureSource] = [
        config.model,
        *dataset_sources.list_sources(config.dataset),
    ]
    pinned = [source for source in read if source.path is None and source.revision in recorded]
    taken = [f"{source.hub_id} at {source.revision}" for source in pinned]
    return f"as that run had them from the Hub: {', '.join(taken)}" if taken else None
