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

_BESIDE_BYTES = 32 * MIB  # tokenizer, card and scripts
# may hold places outside the home folder, which it needs to be made again
_NOT_FOR_OTHERS = (ADAPTER_RUN_CONFIG,)


def export(
    config: RunConfig,
    options: ExportOptions,
    subject: FinishedRun,
    invocation: AnyInvocation,
    console: Console,
) -> Path | ModelVersion:
    """Export `subject`, which was made with `config`, as `options` say; returns the folder, or the
    registered version.

    Raises: BadInput before anything is written; an export that is stopped leaves nothing behind.
    """
    began = time.perf_counter()
    if problems := list(_problems(options)):
        raise ConfigError(problems)
    if options.to is ExportTo.registry:
        return _registered(config, options, subject, console)
    job = _checked(config, options, subject, invocation, console)
    console.info(f" as {options.to.value}", title=subject.name)
    with output_folder.open_output_folder(job.target) as half_done:
        write_export(job, half_done)
    _print(job, time.perf_counter() - began)
    if options.push:
        _push(job)
    return job.target


def _problems(options: ExportOptions) -> Iterator[str]:
    """What is wrong with the options by themselves."""
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


def _registered(
    config: RunConfig, options: ExportOptions, subject: FinishedRun, console: Console
) -> ModelVersion:
    if subject.kept is None:
        raise RunError(
            f"to=registry needs a run in MLflow and run={options.run} is a folder; give its id"
            " (make ui lists them)"
        )
    found = registry.register_adapter(
        config.tracking, subject.kept.run_id, options.name or config.model.name, options.alias
    )
    was = "registered" if found.is_new else "already registered"
    console.result(f"{was} as version {found.version} of {found.name}: run={found.uri}")
    return found


def _checked(
    config: RunConfig,
    options: ExportOptions,
    subject: FinishedRun,
    invocation: AnyInvocation,
    console: Console,
) -> ExportJob:
    """The job, once nothing stands against it.

    Raises: BadInput.
    """
    if subject.adapter is None:
        raise RunError(
            f"run={subject.asked} kept no adapter (tracking.log_adapter=false); give run=FOLDER of"
            " its adapter"
        )
    target = (
        expand_home(options.folder).absolute()
        if options.folder
        else invocation.output_dir / "export"
    )
    output_folder.check_folder(target, options.overwrite, _BESIDE_BYTES)
    if options.to in GGUF_TARGETS and options.quantisation not in SUPPORTED_TYPES:
        quantizer.find_quantizer(options.quantisation, options.llama_cpp)
    _check_adapter(config, subject.adapter)
    job = ExportJob(config, options, subject, subject.adapter, target, console)
    if job.needs_base_weights:
        if options.to in GGUF_TARGETS:
            gguf_file.find_pre_tokenizer(job.adapter)
        output_folder.check_folder(target, options.overwrite, _BESIDE_BYTES + _weight_bytes(job))
    return job


def _check_adapter(config: RunConfig, adapter: Path) -> None:
    if found := lora_math.find_unsupported_settings(adapter_files.read_adapter_config(adapter)):
        raise ModelError(
            f"the adapter in {adapter} has {found[0]}, which medexp does not write and cannot merge"
        )
    wrong = list(
        lora_math.find_misfits(
            adapter_files.read_tensor_shapes(adapter), config.lora.r, config.model.shape
        )
    )
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if wrong[1:] else ""
        raise ModelError(
            f"the adapter does not fit model={config.model.name}: {wrong[0]}{more}. Choose the"
            " model it was trained on"
        )


def _weight_bytes(job: ExportJob) -> int:
    """What the weights take on the disk at most, what is written on the way included."""
    if job.options.to not in GGUF_TARGETS:
        return merge.estimate_merged_bytes(job.merged.base)
    size = gguf_file.estimate_file_bytes(job.merged, job.options.quantisation)
    return size if job.options.quantisation in SUPPORTED_TYPES else 2 * size


def _print(job: ExportJob, elapsed_s: float) -> None:
    job.console.table(
        f"Exported as {job.options.to.value}",
        ("file", "size"),
        output_folder.list_files(job.target),
    )
    shown = (
        job.target.relative_to(Path.cwd()) if job.target.is_relative_to(Path.cwd()) else job.target
    )
    job.console.result(f"{shown}, {format_duration(elapsed_s)}")
    if (job.target / "serve.sh").is_file():
        job.console.result(
            f"Serve it: {_base_of_script(job)}sh {shlex.quote(str(shown / 'serve.sh'))}"
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
            f"Run it: cd {shown} && ollama create {job.name} -f Modelfile && ollama run {job.name}"
        )


def _base_of_script(job: ExportJob) -> str:
    """What serve.sh has to be told: where the base lies on this machine, if it is not the Hub's.
    Said here, and in no file.
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
    message, leave_out = f"medexp export of {job.subject.name}", [*_NOT_FOR_OTHERS, MANIFEST_NAME]
    try:
        address = hub.push(job.target, repo, token, job.options.private, message, leave_out)
    except hub.HubError as error:
        raise MachineError(
            f"export.repo={repo} could not be pushed to: {error}. The export is whole in"
            f" {job.target}"
        ) from error
    job.console.result(f"On the Hub: {address}")


def _run(config: RunConfig, invocation: Invocation[ExportOptions, FinishedRun]) -> float:
    export(config, invocation.options, invocation.subject, invocation, Console())
    return 0.0


def main() -> None:
    """Run the command that the command line describes; ends the process."""
    run_command(
        _run,
        "export",
        ExportOptions,
        needs_card=False,
        recompose=finished_run.recompose_from_options,
    )


if __name__ == "__main__":
    main()
