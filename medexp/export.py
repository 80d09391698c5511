"""python -m medexp.export: a finished run as files that other programs take, or as a version in MLflow's model registry.

    python -m medexp.export run=last to=merged                              # a Transformers checkpoint in bfloat16
    python -m medexp.export run=ID to=ollama export.quantisation=q4_k_m     # GGUF and Modelfile with the run's own prompt
    python -m medexp.export run=ID to=adapter push=true export.repo=me/name # also to the Hub; HF_TOKEN is read from the environment

Everything that can be refused is refused before a weight is read. An export is written beside its folder and renamed whole.
"""

import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from omegaconf import DictConfig

from medexp import artifact, finished, hub, page, registry, stack, weights
from medexp.command import Invocation, run_door
from medexp.config.doors import ExportOptions, ExportTo
from medexp.config.schema import Bias, RunConfig
from medexp.errors import ConfigError, MachineError, ModelError, RunError
from medexp.evaluation import lexicon, scorecard
from medexp.evaluation.record import Record
from medexp.exporting import card, folder, gguf_file, merge, projections, quantiser, serving, templates, tokenizer_files
from medexp.exporting.checkpoint import Checkpoint
from medexp.exporting.folder import MARK
from medexp.exporting.gguf_file import WRITTEN_HERE
from medexp.exporting.merge import Merged
from medexp.exporting.serving import Served
from medexp.finished import RECORD, FinishedRun
from medexp.registry import Registered
from medexp.screen import Screen
from medexp.units import duration

_ALWAYS_FREE = 32 * 2**20  # bytes for tokenizer, card and scripts
_NOT_FOR_OTHERS = ("run.yaml",)  # holds paths of this machine


def as_it_was_made(cfg: DictConfig, options: object, overrides: Sequence[str]) -> DictConfig:
    """`cfg` with the groups of the run that `options` name in the place of its own, save what `overrides` name."""
    assert isinstance(options, ExportOptions)
    return finished.recomposed(cfg, options.run, overrides)


@dataclass(frozen=True)
class Job:
    """An export under way: what was asked, of which run, and where it goes."""

    run: RunConfig
    options: ExportOptions
    subject: FinishedRun
    adapter: Path
    target: Path
    show: Screen

    @property
    def name(self) -> str:
        """What the export is called: its model, and that it is tuned."""
        return self.options.name or f"{self.run.model.name}-tuned"

    @property
    def base(self) -> str:
        """What the adapter says its base is: a path of this machine, or for others the Hub's name of it."""
        named = str(artifact.adapter_config(self.adapter)["base_model_name_or_path"])
        return self.run.model.hub_id or Path(named).name if self.options.push and Path(named).is_absolute() else named

    @property
    def served(self) -> Served:
        """How it is served: room for the longest text it was trained on and a whole answer after it."""
        context = self.run.training.max_seq_tokens + self.run.evaluation.max_new_tokens
        return Served(self.name, context, self.options.dtype.value)

    @property
    def merges(self) -> bool:
        """Are the weights of the base needed? With to=vllm only where vLLM cannot serve the adapter over its base."""
        if self.options.to is ExportTo.vllm:
            return self.not_over_base is not None
        return self.options.to is not ExportTo.adapter

    @property
    def not_over_base(self) -> str | None:
        """Why vLLM cannot serve the adapter over its base."""
        return serving.vllm_refuses(self.run.lora.r, self.run.lora.dora, self.run.lora.bias is not Bias.none)

    @cached_property
    def merged(self) -> Merged:
        """Base and adapter, opened but not read."""
        found = weights.find(self.run.model)
        artifact.check_adapter(self.adapter, self.run.lora, found, "run")
        if found.gguf is not None:
            with self.show.stage("converting the embedded model, once"):
                found = weights.convert(found, self.run.model, stack.load_transformers(self.run.hardware))
        place = Path(found.location) if Path(found.location).is_absolute() else hub.download(found.location, found.commit)
        return Merged(Checkpoint(place, stack.load_bitsandbytes), self.adapter)


def export(run: RunConfig, options: ExportOptions, invocation: Invocation, show: Screen) -> Path | Registered:
    """Export the run that `options` name; returns the folder, or the registered version.

    Raises: BadInput before anything is written; an export that is stopped leaves nothing behind.
    """
    began = time.perf_counter()
    subject = finished.find(options.run, run.tracking.root or "", Path.cwd())
    if problems := list(_problems(options)):
        raise ConfigError(problems)
    if options.to is ExportTo.registry:
        return _registered(run, options, subject, show)
    job = _checked(run, options, subject, invocation, show)
    show.say(f"[bold]{subject.name}[/bold] to {job.target}, as {options.to.value}")
    with folder.written_whole(job.target) as half_done:
        _write(job, half_done)
    _print(job, time.perf_counter() - began)
    if options.push:
        _push(job)
    return job.target


def _problems(options: ExportOptions) -> Iterator[str]:
    """What is wrong with the options by themselves."""
    if not options.push:
        return
    if options.to is ExportTo.registry:
        yield "push=true uploads files and to=registry makes none; choose to=adapter, merged, gguf, ollama or vllm"
    if options.repo is None or not re.fullmatch(r"[\w.-]+/[\w.-]+", options.repo):
        yield f"push=true needs export.repo=OWNER/NAME, the model's place on the Hub; it is {options.repo}"
    if not os.environ.get("HF_TOKEN"):
        yield "push=true needs a token that may write: set HF_TOKEN in .env or in the environment (huggingface.co/settings/tokens)"


def _registered(run: RunConfig, options: ExportOptions, subject: FinishedRun, show: Screen) -> Registered:
    if subject.kept is None:
        raise RunError(f"to=registry needs a run in MLflow and run={options.run} is a folder; give the run's id (make ui lists them)")
    found = registry.register(run.tracking, subject.kept.run_id, options.name or run.model.name, options.alias)
    show.result(f"{'registered' if found.is_new else 'already registered'} as version {found.version} of {found.name}: run={found.uri}")
    return found


def _checked(run: RunConfig, options: ExportOptions, subject: FinishedRun, invocation: Invocation, show: Screen) -> Job:
    """The job, once nothing stands against it.

    Raises: BadInput.
    """
    if subject.adapter is None:
        raise RunError(f"run={subject.asked} kept no adapter in MLflow (tracking.log_adapter=false); give run=FOLDER of its adapter")
    target = Path(options.folder).expanduser().absolute() if options.folder else invocation.output_dir / "export"
    folder.check(target, options.overwrite, _ALWAYS_FREE)
    if options.to in (ExportTo.gguf, ExportTo.ollama) and options.quantisation not in WRITTEN_HERE:
        quantiser.find(options.quantisation, options.llama_cpp)
    _check_adapter(run, subject.adapter)
    job = Job(run, options, subject, subject.adapter, target, show)
    if job.merges:
        if options.to in (ExportTo.gguf, ExportTo.ollama):
            gguf_file.splitting_rule(job.adapter)
        folder.check(target, options.overwrite, _ALWAYS_FREE + _weight_bytes(job))
    return job


def _check_adapter(run: RunConfig, adapter: Path) -> None:
    if found := projections.unsupported(artifact.adapter_config(adapter)):
        raise ModelError(f"the adapter in {adapter} has {found[0]}, which is not merged here; export to=adapter from its maker's tools")
    wrong = list(projections.misfits(merge.shapes(adapter / artifact.WEIGHTS), run.lora.r, run.model.shape))
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if wrong[1:] else ""
        raise ModelError(f"the adapter does not fit model={run.model.name}: {wrong[0]}{more}. Choose the model it was trained on")


def _weight_bytes(job: Job) -> int:
    """What the weights take on the disk at most, what is written on the way included."""
    if job.options.to not in (ExportTo.gguf, ExportTo.ollama):
        return merge.merged_bytes(job.merged.base)
    size = gguf_file.file_bytes(job.merged, job.options.quantisation)
    return size if job.options.quantisation in WRITTEN_HERE else 2 * size


def _write(job: Job, place: Path) -> None:
    """Everything that the export consists of, into `place`."""
    to, prompt = job.options.to, job.run.prompt
    tokenizer_files.copy(job.adapter, place, templates.jinja(prompt))
    if to in (ExportTo.gguf, ExportTo.ollama):
        files = _write_gguf(job, place)
    elif job.merges:
        files = _write_merged(job, place)
    else:
        files = _write_adapter(job, place)
    (place / "README.md").write_text(card.render(job.run, _facts(job, files)), encoding="utf-8")
    facts: dict[str, object] = {"export": to.value, "run": job.subject.kept.run_id if job.subject.kept else None, "model": job.run.model.name}
    folder.write_mark(place, facts)


def _write_adapter(job: Job, place: Path) -> dict[str, str]:
    shutil.copyfile(job.adapter / artifact.WEIGHTS, place / artifact.WEIGHTS)
    artifact.write_adapter_config(artifact.adapter_config(job.adapter) | {"base_model_name_or_path": job.base}, place)
    if (job.adapter / "run.yaml").is_file():
        shutil.copyfile(job.adapter / "run.yaml", place / "run.yaml")
    if job.not_over_base is None:
        is_nf4 = job.run.model.quantisation.value == "nf4"
        served = replace(job.served, dtype=job.run.hardware.dtype.value)
        words = serving.vllm_adapter(served, job.base, job.run.lora.r, is_nf4)
        (place / "serve.sh").write_text(serving.script(served, words), encoding="utf-8")
    return {"adapter": artifact.WEIGHTS}


def _write_merged(job: Job, place: Path) -> dict[str, str]:
    if job.options.to is ExportTo.vllm:
        job.show.say(f"[yellow]![/yellow] vLLM does not serve an adapter with {job.not_over_base} over its base; the weights are merged")
    with job.show.counting(f"merging into {job.options.dtype.value}", len(job.merged.names)) as advance:
        merge.write(job.merged, place, job.options.dtype, advance)
    merge.write_generation_config(job.merged.base, place)
    (place / "serve.sh").write_text(serving.script(job.served, serving.vllm_merged(job.served)), encoding="utf-8")
    return {"merged": "model.safetensors"}


def _write_gguf(job: Job, place: Path) -> dict[str, str]:
    kind = job.options.quantisation
    file = place / f"{job.name}-{kind.value}.gguf"
    about = gguf_file.About(job.name, job.run.model.licence, job.run.model.shape)
    names = job.merged.names
    whole = file if kind in WRITTEN_HERE else place / "to-quantise.gguf"
    with job.show.counting(f"writing a GGUF in {kind.value if whole is file else 'f16'}", len(names)) as advance:
        gguf_file.write(job.merged, place, about, kind, whole, advance)
    if whole is not file:
        with job.show.counting(f"quantising to {kind.value}", len(names)) as advance:
            quantiser.quantise(quantiser.find(kind, job.options.llama_cpp), whole, file, kind, advance)
        whole.unlink()
    for each in [*place.glob("tokenizer*"), *(place / name for name in ("chat_template.jinja", "special_tokens_map.json"))]:
        each.unlink(missing_ok=True)  # the GGUF holds them
    if job.options.to is ExportTo.gguf:
        return {"gguf": file.name}
    (place / "Modelfile").write_text(_modelfile(job, file.name), encoding="utf-8")
    return {"gguf": file.name, "Modelfile": "Modelfile"}


def _modelfile(job: Job, gguf_name: str) -> str:
    eos = tokenizer_files.special(job.adapter, "eos_token") or ""
    context = min(job.served.max_tokens, int(job.merged.base.config["max_position_embeddings"]))
    parameters = templates.ollama_parameters([eos], context, job.run.evaluation.max_new_tokens)
    comments = [f"ollama create {job.name} -f Modelfile && ollama run {job.name}", "Not for clinical use."]
    return templates.modelfile(gguf_name, templates.go(job.run.prompt, eos), parameters, job.run.model.licence, comments)


def _facts(job: Job, files: dict[str, str]) -> card.Facts:
    run, kept = job.run, job.subject.kept
    whole = f"{run.model.hub_id or run.model.name} with the adapter merged in"
    what = {
        "adapter": f"A {'DoRA' if run.lora.dora else 'LoRA'} adapter for {run.model.hub_id or run.model.name}",
        "merged": f"{whole}, in {job.options.dtype.value}",
        "gguf": f"{whole}, as a GGUF in {job.options.quantisation.value}",
    }[next(iter(files))]
    return card.Facts(
        to=job.options.to,
        what=what,
        is_merged=job.merges,
        name=job.name,
        run_id=kept.run_id if kept is not None else None,
        measures=_measures(job.subject),
        usage=card.usage(job.name, files, serves=job.not_over_base is None or job.merges),
    )


def _measures(subject: FinishedRun) -> list[tuple[str, ...]]:
    """The scorecard of the answers stored with the run; of an older run the held-out loss that MLflow has."""
    if subject.record is not None:
        record = Record.of_json(subject.record.read_text(encoding="utf-8"), f"{RECORD} of run {subject.asked}")
        lines = [each for each in scorecard.card(record, lexicon.load()).lines if each.comparison is not None]
        return [(each.measure.title, f"{page.figure(each.before)} -> {page.figure(each.after)}", each.verdict, page.interval(each)) for each in lines]
    had = subject.kept.metrics if subject.kept is not None else {}
    if not {"result/loss_before", "result/loss_paired_low"} <= set(had):
        return []
    change, low, high, p_value = (had[f"result/loss_{name}"] for name in ("paired_change", "paired_low", "paired_high", "sign_test_p"))
    change_by_case = f"{change:+.3g} [{low:+.3g}, {high:+.3g}], p {p_value:.2g}"
    return [("held-out loss, all", f"{page.figure(had['result/loss_before'])} -> {page.figure(had['result/loss_after'])}", "", change_by_case)]


def _print(job: Job, elapsed_s: float) -> None:
    job.show.table(f"Exported as {job.options.to.value}", ("file", "size"), folder.files(job.target))
    job.show.result(f"{job.target}, {duration(elapsed_s)}")
    if (job.target / "serve.sh").is_file():
        job.show.result(f"Serve it: sh {job.target / 'serve.sh'}")
        job.show.raw(next(line for line in (job.target / "serve.sh").read_text().splitlines() if line.startswith("exec ")))
    if (job.target / "Modelfile").is_file():
        job.show.result(f"Run it: cd {job.target} && ollama create {job.name} -f Modelfile && ollama run {job.name}")


def _push(job: Job) -> None:
    repo, token = job.options.repo, os.environ["HF_TOKEN"]
    assert repo is not None
    job.show.say(f"uploading to {repo}{' (private)' if job.options.private else ''}")
    try:
        address = hub.push(job.target, repo, token, job.options.private, f"medexp export of run {job.subject.name}", [*_NOT_FOR_OTHERS, MARK])
    except hub.HubError as error:
        raise MachineError(f"export.repo={repo} could not be pushed to: {error}. The export is whole in {job.target}") from error
    job.show.result(f"On the Hub: {address}")


def _door(run: RunConfig, invocation: Invocation) -> float:
    options = invocation.options
    assert isinstance(options, ExportOptions)
    export(run, options, invocation, Screen())
    return 0.0


if __name__ == "__main__":
    run_door(_door, "export", needs_card=False, recompose=as_it_was_made)
