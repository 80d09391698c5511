"""From a checked config to a loaded model: the training stack under its memory cap, a run's weights
and tokenizer, and the model with its adapter.
"""

from dataclasses import dataclass
from typing import Any

from medexp.config.changes import change_values
from medexp.config.schema import Engine, Quantisation, RunConfig
from medexp.errors import RunError
from medexp.models import adapter_files, backend, memory_guard, weights
from medexp.models import loading as model_loading
from medexp.models.adapter_model import AdapterModel
from medexp.models.backend import Backend
from medexp.models.memory_guard import Meter, memory_phase
from medexp.models.ranks import Ranks
from medexp.models.tokenizer import bind_run_prompt, load_tokenizer
from medexp.models.weights import Weights
from medexp.planning import planner
from medexp.planning.memory_terms import Phase
from medexp.system import machine
from medexp.system.console import NOTE, Console
from medexp.system.private_names import list_untested_libraries
from medexp.tracking.finished_run import FinishedRun


@dataclass(frozen=True)
class Session:
    """The training stack under its memory cap, and a run's weights and tokenizer, ready for the
    model to be loaded; `config` is that of the run, its prompt as it is written for the tokenizer.
    """

    config: RunConfig
    meter: Meter
    modules: Backend
    weights: Weights
    tokenizer: Any


def open_session(config: RunConfig, found: Weights, console: Console) -> Session:
    """Import the stack, convert the embedded model where that was never done here, and load the
    tokenizer of `found`.

    Raises: ConfigError where its chat template is asked for and cannot be trained with.
    """
    for note in list_untested_libraries(list_patched_libraries(config)):
        console.info(note, NOTE)
    with console.status("loading the training stack"):
        meter = memory_guard.cap_allocator(config.hardware)
        modules = backend.load_backend(config.hardware, machine.cache_dir())
    if found.gguf is not None:
        with console.status("converting the embedded model, once"):
            found = weights.convert_gguf(found, config.model, modules)
    tokenizer = load_tokenizer(found, modules)
    return Session(bind_run_prompt(config, tokenizer), meter, modules, found, tokenizer)


def load_model_under_ceiling(config: RunConfig, base: Session, console: Console) -> AdapterModel:
    """Load the model of `config` with the adapter it starts from, under the memory ceiling."""
    with (
        console.status(f"loading {config.model.name} and the adapter"),
        memory_phase(Phase.always, "loading the model", base.meter),
    ):
        return model_loading.load_model(config, base.weights, base.tokenizer, base.modules)


def share_model(
    ranks: Ranks, model: AdapterModel, config: RunConfig, base: Weights, console: Console
) -> None:
    """Have the other cards load the model, too: what is asked of `model` is then shared out."""
    others = f"{ranks.size - 1} other card{'s' if ranks.size > 2 else ''}"
    with console.status(f"loading {config.model.name} on {others}"):
        ranks.join(model, config, base)


def list_patched_libraries(config: RunConfig) -> list[str]:
    """Return the libraries on whose private parts `config` relies."""
    with_unsloth = ["unsloth", "unsloth_zoo"] if config.hardware.engine is Engine.unsloth else []
    quantised = ["bitsandbytes"] if config.model.quantisation is not Quantisation.none else []
    return [*with_unsloth, *quantised, "transformers", "mlflow"]


def prepare_finished_run(
    config: RunConfig, run: FinishedRun, console: Console
) -> tuple[RunConfig, Weights]:
    """Return `config` set to begin with the adapter of `run` and to the fastest plan that fits,
    and the base of `run`.

    The base is seen to be the one that its adapter was trained on, or another version of it, which
    is said.

    Raises: RunError if the run kept no adapter; ModelError if adapter and base do not belong
        together; VramPlanError.
    """
    if planner.is_planned(config):
        config = planner.apply_plan(config, planner.choose_plan(config)[0])
    if run.adapter is None:
        raise RunError(
            f"run={run.asked} kept no adapter in MLflow (tracking.log_adapter=false); give"
            " run=FOLDER of its adapter"
        )
    found = weights.find_weights(config.model)
    if note := adapter_files.check_adapter(run.adapter, config.lora, config.model, found, "run"):
        console.info(note, NOTE)
    return change_values(config, {"lora.start_from": str(run.adapter)}), found
