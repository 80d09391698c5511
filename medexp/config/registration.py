"""The schemas and resolvers that Hydra must know before it composes a command's configuration."""

from dataclasses import asdict

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from medexp.config.command_options import (
    AskConfig,
    AuditConfig,
    CalibrateConfig,
    CleanConfig,
    CompareConfig,
    EvaluateConfig,
    ExportConfig,
    PlanConfig,
    TrainConfig,
    UiConfig,
)
from medexp.config.schema import RunConfig
from medexp.config.shipped import SHIPPED
from medexp.system import machine

# A root's first default is one of these.
SCHEMAS: dict[str, type[RunConfig]] = {
    "run": RunConfig,
    "train": TrainConfig,
    "plan": PlanConfig,
    "calibrate": CalibrateConfig,
    "ask": AskConfig,
    "audit": AuditConfig,
    "evaluate": EvaluateConfig,
    "compare": CompareConfig,
    "export": ExportConfig,
    "ui": UiConfig,
    "clean": CleanConfig,
}


def register_with_hydra() -> None:
    """Make the schema and the resolvers of the shipped YAML known to Hydra; may be called again."""
    store = ConfigStore.instance()
    for name, schema in SCHEMAS.items():
        if f"{name}_schema.yaml" not in store.repo:
            store.store(name=f"{name}_schema", node=schema)
    OmegaConf.register_new_resolver(
        "medexp.shipped", lambda name: str(SHIPPED / name), replace=True
    )
    OmegaConf.register_new_resolver("medexp.smaller", min, replace=True)
    OmegaConf.register_new_resolver("medexp.lengths", choose_sweep_lengths, replace=True)
    ConfigStore.instance().store(
        group="hardware",
        name="nearest",
        node=_build_nearest_hardware(machine.read()),
        package="_global_",
    )


def _build_nearest_hardware(here: machine.Machine) -> dict[str, object]:
    """The preset nearest to this machine, with what was measured on its card in place of published
    figures.
    """
    measured = here.gpus[0].calibration if here.gpus else None
    figures = asdict(measured) if measured else {}
    # `config.resolve` takes it into the ceiling.
    figures.pop("free_bytes", None)
    return {"defaults": [machine.find_nearest_preset(here), "_self_"], "hardware": figures}


def choose_sweep_lengths(device: object, seq: int) -> str:
    """Sequence lengths worth a sweep around `seq`: up to it on a CPU, whose cases end there; up to
    eight times it on a card, where the ceiling decides."""
    on_card = getattr(device, "name", str(device)) != "cpu"
    low, high = (seq // 2, 8 * seq) if on_card else (6 * seq // 10, seq)
    step = max(1, seq // 2 if on_card else seq // 5)
    return f"range({low}, {high + 1}, {step})"
