"""python -m medexp.export: a finished run as files that other programs take, or as a version in
MLflow's model registry.

    # a Transformers checkpoint in bfloat16
    python -m medexp.export run=last to=merged
    # GGUF and Modelfile with the run's own prompt
    python -m medexp.export run=ID to=ollama export.quantisation=q4_k_m
    # also to the Hub; HF_TOKEN is read from the environment
    python -m medexp.export run=ID to=adapter push=true export.repo=me/name

Everything that can be refused is refused before a weight is read. An export is written beside its
folder and renamed whole.
"""

import os
import re
import shlex
import time
from collections.abc import Iterator
from pathlib import Path

from medexp.cli.app import run_command
from medexp.cli.composition import CommandSpec
from medexp.config.command_options import ExportOptions, ExportTo
from medexp.config.invocation import AnyInvocation, Invocation
from medexp.config.schema import RunConfig
from medexp.errors import ConfigError, MachineError, ModelError, RunError
from medexp.exporters import gguf as gguf_file
from medexp.exporters import merge, output_folder, quantizer
from medexp.exporters.gguf import SUPPORTED_TYPES
from medexp.exporters.job import GGUF_TARGETS, ExportJob, write_export
from medexp.exporters.output_folder import MANIFEST_NAME
from medexp.models import adapter_files, lora_math, weights
from medexp.system import hub
from medexp.system.console import Console
from medexp.system.home import expand_home
from medexp.system.units import MIB, format_duration
from medexp.tracking import finished_run, registry
from medexp.tracking.artifact_names import ADAPTER_RUN_CONFIG
from medexp.tracking.finished_run import FinishedRun
from medexp.tracking.registry import ModelVersion

# What the tokenizer, the card and the scripts take beside the weights.
_BESIDE_BYTES = 32 * MIB
# The run's config may name folders outside the home folder: it needs them to be made again, and
# nobody else should read them.
_NOT_FOR_OTHERS = (ADAPTER_RUN_CONFIG,)


def export(
    config: RunConfig,
    options: ExportOptions,
    run: FinishedRun,
    invocation: AnyInvocation,
    console: Console,
) -> Path | ModelVersion:
    """Export `run`, which was made with `config`, as `options` say; returns the folder, or the
    registered version.

    Raises: BadInput before anything is written; an export that is stopped leaves nothing behind.
    """
    began = time.perf_counter()
    if problems := list(_check_options(options)):
        raise ConfigError(problems)
    if options.to is ExportTo.registry:
        return _register(config, options, run, console)
    job = _prepare_job(config, options, run, invocation, console)
    console.info(f" as {options.to.value}", title=run.name)
    with output_folder.open_output_folder(job.target) as unfinished:
        write_export(job, unfinished)
    _print(job, time.perf_counter() - began)
    if options.push:
        _push(job)
    return job.target


def _check_options(options: ExportOptions) -> Iterator[str]:
    """Yield what is wrong with the options by themselves."""
    if (
        options.name is not None
        and options.to is not ExportTo.registry
        and not re.fullmatch(r"\w[\w.-]*", options.name)
    ):
        yield f"export.name={options.name} names files: letters, digits, _, . and - are allowed"
    if not options.push:
        return
    if options.to is ExportTo.registry:
        yield (
            "push=true uploads files and to=registry makes none; choose to=adapter, merged, gguf,"
            " ollama or vllm"
        )
    if options.repo is None or not re.fullmatch(r"[\w.-]+/[\w.-]+", options.repo):
        yield (
            "push=true needs export.repo=OWNER/NAME, the model's place on the Hub; it is"
            f" {options.repo}"
        )
    if not os.environ.get("HF_TOKEN"):
        yield (
            "push=true needs a token that may write: set HF_TOKEN in .env or in the environment"
            " (huggingface.co/settings/tokens)"
        )


def _register(
    config: RunConfig, options: ExportOptions, run: FinishedRun, console: Console
) -> ModelVersion:
    if run.kept is None:
        raise RunError(
            f"to=registry needs a run in MLflow and run={options.run} is a folder; give its id"
            " (make ui lists them)"
        )
    version = registry.register_adapter(
        config.tracking, run.kept.run_id, options.name or config.model.name, options.alias
    )
    outcome = "registered" if version.is_new else "already registered"
    console.result(f"{outcome} as version {version.version} of {version.name}: run={version.uri}")
    return version


def _prepare_job(
    config: RunConfig,
    options: ExportOptions,
    run: FinishedRun,
    invocation: AnyInvocation,
    console: Console,
) -> ExportJob:
    """Return the job, once nothing stands against it.

    Raises: BadInput for what the run, the folder or the machine lacks.
    """
    if run.adapter is None:
        raise RunError(
            f"run={run.asked} kept no adapter (tracking.log_adapter=false); give run=FOLDER of"
            " its adapter"
        )
    target = (
        expand_home(options.folder).absolute()
        if options.folder
        else invocation.output_dir / "export"
    )
    output_folder.check_folder(target, options.overwrite, _BESIDE_BYTES)
    if options.to in GGUF_TARGETS:
        gguf_file.check_family(config.model.shape)
    if options.to in GGUF_TARGETS and options.quantisation not in SUPPORTED_TYPES:
        quantizer.find_quantizer(options.quantisation, options.llama_cpp)
    _check_adapter(config, run.adapter)
    job = ExportJob(config, options, run, run.adapter, target, console)
    if job.needs_base_weights:
        if options.to in GGUF_TARGETS:
            gguf_file.find_pre_tokenizer(job.adapter)
        output_folder.check_folder(target, options.overwrite, _BESIDE_BYTES + _weight_bytes(job))
    return job


def _check_adapter(config: RunConfig, adapter: Path) -> None:
    settings = adapter_files.read_adapter_config(adapter)
    if unsupported := lora_math.find_unsupported_settings(settings):
        raise ModelError(
            f"the adapter in {adapter} has {unsupported[0]}, which medexp does not write and"
            " cannot merge"
        )
    misfits = list(
        lora_math.find_misfits(
            adapter_files.read_tensor_shapes(adapter), config.lora.r, config.model.shape
        )
    )
    if misfits:
        more = f" (and {len(misfits) - 1} more)" if misfits[1:] else ""
        raise ModelError(
            f"the adapter does not fit model={config.model.name}: {misfits[0]}{more}. Choose the"
            " model it was trained on"
        )


def _weight_bytes(job: ExportJob) -> int:
    """Return what the weights take on the disk at most, what is written on the way included."""
    if job.options.to not in GGUF_TARGETS:
        return merge.estimate_merged_bytes(job.merged.base)
    size = gguf_file.estimate_file_bytes(job.merged, job.options.quantisation)
    # A type that llama.cpp makes is quantised from a whole file, which lies beside it until then.
    return size if job.options.quantisation in SUPPORTED_TYPES else 2 * size


def _print(job: ExportJob, elapsed_s: float) -> None:
    job.console.table(
        f"Exported as {job.options.to.value}",
        ("file", "size"),
        output_folder.list_files(job.target),
    )
    here = Path.cwd()
    folder = job.target.relative_to(here) if job.target.is_relative_to(here) else job.target
    job.console.result(f"{folder}, {format_duration(elapsed_s)}")
    if (job.target / "serve.sh").is_file():
        job.console.result(
            f"Serve it: {_spell_base(job)}sh {shlex.quote(str(folder / 'serve.sh'))}"
        )
        job.console.raw(
            next(
                line
                for line in (job.target / "serve.sh").read_text().splitlines()
                if line.startswith("exec ")
            )
        )
    if (job.target / "Modelfile").is_file():
        job.console.result(
            f"Run it: cd {folder} && ollama create {job.name} -f Modelfile && ollama run {job.name}"
        )


def _spell_base(job: ExportJob) -> str:
    """Return what serve.sh has to be told: where the base lies on this machine, if it is not the
    Hub's. It is printed and in no file: others have it elsewhere.
    """
    if job.needs_base_weights or job.base.hub_id is not None:
        return ""
    try:
        return f"BASE={shlex.quote(weights.find_weights(job.config.model).location)} "
    except ModelError:
        return "BASE=FOLDER "


def _push(job: ExportJob) -> None:
    repo, token = job.options.repo, os.environ["HF_TOKEN"]
    assert repo is not None
    job.console.info(f"uploading to {repo}{' (private)' if job.options.private else ''}")
    message, leave_out = f"medexp export of {job.run.name}", [*_NOT_FOR_OTHERS, MANIFEST_NAME]
    try:
        address = hub.push(job.target, repo, token, job.options.private, message, leave_out)
    except hub.HubError as error:
        raise MachineError(
            f"export.repo={repo} could not be pushed to: {error}. The export is whole in"
            f" {job.target}"
        ) from error
    job.console.result(f"On the Hub: {address}")


def _run(config: RunConfig, invocation: Invocation[ExportOptions, FinishedRun]) -> float:
    export(config, invocation.options, invocation.run, invocation, Console())
    return 0.0


COMMAND = CommandSpec("export", ExportOptions, False, finished_run.recompose_from_options)


def main() -> None:
    """Run the command that the command line describes; ends the process."""
    run_command(_run, COMMAND)


if __name__ == "__main__":
    main()
