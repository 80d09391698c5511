"""An export: which run goes where in which form, and the files that it consists of."""

import shutil
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from omegaconf import OmegaConf

from medexp.config.command_options import ExportOptions, ExportTo
from medexp.config.families.registry import describe_family
from medexp.config.resolve import make_movable
from medexp.config.schema import Bias, Prompt, PromptForm, Quantisation, RunConfig
from medexp.data import prompts
from medexp.evaluation import scorecard
from medexp.evaluation.leading_lines import make_leading_lines
from medexp.evaluation.measures import lexicon
from medexp.evaluation.record import Record
from medexp.exporters import (
    chat_template,
    merge,
    model_card,
    output_folder,
    quantizer,
    serve_script,
    tokenizer_files,
)
from medexp.exporters import gguf as gguf_file
from medexp.exporters.base_checkpoint import BaseCheckpoint
from medexp.exporters.gguf import SUPPORTED_TYPES
from medexp.exporters.merge import MergedWeights
from medexp.exporters.serve_script import ServeSettings
from medexp.models import adapter_files, backend, base_identity, weights
from medexp.models.base_identity import BaseIdentity
from medexp.models.tokenizer import load_tokenizer
from medexp.reports.console_tables import make_harm_rows
from medexp.reports.page_template import format_before, format_interval
from medexp.system import hub
from medexp.system.console import NOTE, Console
from medexp.system.units import format_figure
from medexp.tracking.artifact_names import ADAPTER_RUN_CONFIG, ADAPTER_WEIGHTS, RECORD
from medexp.tracking.finished_run import FinishedRun

GGUF_TARGETS = (ExportTo.gguf, ExportTo.ollama)


@dataclass(frozen=True)
class ExportJob:
    """An export: the run, in which form it is exported, and to which folder."""

    config: RunConfig
    options: ExportOptions
    run: FinishedRun
    adapter: Path
    target: Path
    console: Console

    @property
    def name(self) -> str:
        """The name of the export: export.name, or the model's name with -tuned."""
        return self.options.name or f"{self.config.model.name}-tuned"

    @property
    def run_id(self) -> str | None:
        """The id of the run in MLflow, None where the run was given as a folder."""
        return self.run.kept.run_id if self.run.kept is not None else None

    @cached_property
    def base(self) -> BaseIdentity:
        """The adapter's base, under a name that is known on other machines."""
        return adapter_files.hide_path(
            adapter_files.read_base_identity(self.adapter, self.config.model), self.config.model
        )

    @cached_property
    def prompt(self) -> Prompt:
        """The run's prompt, with a chat template in the words of the run's tokenizer."""
        if self.config.prompt.form is not PromptForm.chat:
            return self.config.prompt
        with self.console.status("loading the tokenizer"):
            beside = weights.Weights(str(self.adapter), None)
            stack = backend.load_transformers(self.config.hardware)
            return prompts.bind_prompt(self.config.prompt, load_tokenizer(beside, stack))

    @property
    def bos(self) -> str | None:
        """The token that a GGUF is told to begin every text with; None where there is none."""
        bos = tokenizer_files.read_special_token(self.adapter, "bos_token")
        return bos if chat_template.adds_bos(self.prompt, bos) else None

    @property
    def serve_settings(self) -> ServeSettings:
        """How it is served: the context has room for the longest training text and an answer."""
        context = self.config.training.max_seq_tokens + self.config.evaluation.max_new_tokens
        return ServeSettings(self.name, context, self.options.dtype.value)

    @property
    def needs_base_weights(self) -> bool:
        """Are the base's weights needed? With to=vllm only where vLLM cannot serve the adapter."""
        if self.options.to is ExportTo.vllm:
            return self.vllm_obstacle is not None
        return self.options.to is not ExportTo.adapter

    @property
    def vllm_obstacle(self) -> str | None:
        """Why vLLM cannot serve the adapter over its base, None where it can."""
        return serve_script.find_vllm_obstacle(
            self.config.lora.r,
            self.config.lora.dora,
            self.config.lora.bias is not Bias.none,
            describe_family(self.config.model.shape).text_part is not None,
        )

    @cached_property
    def merged(self) -> MergedWeights:
        """Base and adapter, opened but not read yet."""
        config = self.config
        base_weights = weights.find_weights(config.model)
        if note := adapter_files.check_adapter(
            self.adapter, config.lora, config.model, base_weights, "run"
        ):
            self.console.info(note, NOTE)
        if base_weights.gguf is not None:
            with self.console.status("converting the embedded model, once"):
                base_weights = weights.convert_gguf(
                    base_weights, config.model, backend.load_transformers(config.hardware)
                )
        folder = Path(base_weights.location)
        if not folder.is_absolute():
            folder = hub.download(base_weights.location, base_weights.commit)
        return MergedWeights(BaseCheckpoint(folder, backend.load_bitsandbytes), self.adapter)


def write_export(job: ExportJob, folder: Path) -> None:
    """Write everything that the export consists of into `folder`."""
    to = job.options.to
    jinja_template = chat_template.render_jinja_template(job.prompt)
    tokenizer_files.copy_tokenizer(job.adapter, folder, jinja_template)
    if to in GGUF_TARGETS:
        files = _write_gguf(job, folder)
    elif job.needs_base_weights:
        files = _write_merged(job, folder)
    else:
        files = _write_adapter(job, folder)
    card = model_card.render_card(job.config, _collect_card_facts(job, files))
    (folder / "README.md").write_text(card, encoding="utf-8")
    output_folder.write_manifest(
        folder, {"export": to.value, "run": job.run_id, "model": job.config.model.name}
    )


# Each of the three writers below returns its files' names by their kind, with the main one first.


def _write_adapter(job: ExportJob, folder: Path) -> dict[str, str]:
    shutil.copyfile(job.adapter / ADAPTER_WEIGHTS, folder / ADAPTER_WEIGHTS)
    adapter_config = adapter_files.read_adapter_config(job.adapter)
    adapter_config |= {"base_model_name_or_path": job.base.name}
    adapter_files.write_adapter_config(adapter_config, folder)
    base_identity.write_identity(job.base, folder)
    if (job.adapter / ADAPTER_RUN_CONFIG).is_file():
        # An older medexp stored absolute paths of its machine, which must not go into an export.
        stored = OmegaConf.to_container(OmegaConf.load(job.adapter / ADAPTER_RUN_CONFIG))
        text = OmegaConf.to_yaml(OmegaConf.create(make_movable(stored)))
        (folder / ADAPTER_RUN_CONFIG).write_text(text, encoding="utf-8")
    if job.vllm_obstacle is None:
        is_nf4 = job.config.model.quantisation is Quantisation.nf4
        settings = replace(job.serve_settings, dtype=job.config.hardware.dtype.value)
        command = serve_script.make_vllm_adapter_command(
            settings, job.base.name, job.base.hub_id is None, job.config.lora.r, is_nf4
        )
        script = serve_script.render_script(settings, command, is_merged=False)
        (folder / "serve.sh").write_text(script, encoding="utf-8")
    return {"adapter": ADAPTER_WEIGHTS}


def _write_merged(job: ExportJob, folder: Path) -> dict[str, str]:
    if job.options.to is ExportTo.vllm:
        job.console.info(
            f"vLLM serves no adapter with {job.vllm_obstacle} over its base; the weights are"
            " merged",
            NOTE,
        )
    with job.console.progress(
        f"merging into {job.options.dtype.value}", len(job.merged.names)
    ) as advance:
        merge.write_merged(job.merged, folder, job.options.dtype, advance)
    merge.write_generation_config(job.merged.base, folder)
    command = serve_script.make_vllm_merged_command(job.serve_settings)
    script = serve_script.render_script(job.serve_settings, command, is_merged=True)
    (folder / "serve.sh").write_text(script, encoding="utf-8")
    return {"merged": "model.safetensors"}


def _write_gguf(job: ExportJob, folder: Path) -> dict[str, str]:
    gguf_type = job.options.quantisation
    file = folder / f"{job.name}-{gguf_type.value}.gguf"
    licence, shape = job.config.model.licence, job.config.model.shape
    metadata = gguf_file.GgufMetadata(job.name, licence, shape, adds_bos=job.bos is not None)
    tensors = len(job.merged.names)
    if gguf_type in SUPPORTED_TYPES:
        with job.console.progress(f"writing a GGUF in {gguf_type.value}", tensors) as advance:
            gguf_file.write_gguf(job.merged, folder, metadata, gguf_type, file, advance)
    else:
        f16_file = folder / "to-quantise.gguf"
        with job.console.progress("writing a GGUF in f16", tensors) as advance:
            gguf_file.write_gguf(job.merged, folder, metadata, gguf_type, f16_file, advance)
        command = quantizer.find_quantizer(gguf_type, job.options.llama_cpp)
        with job.console.progress(f"quantising to {gguf_type.value}", tensors) as advance:
            quantizer.quantize(command, f16_file, file, gguf_type, advance)
        f16_file.unlink()
    # The GGUF holds the tokenizer and the chat template.
    in_gguf = ("chat_template.jinja", "special_tokens_map.json")
    for path in [*folder.glob("tokenizer*"), *(folder / name for name in in_gguf)]:
        path.unlink(missing_ok=True)
    if job.options.to is ExportTo.gguf:
        return {"gguf": file.name}
    (folder / "Modelfile").write_text(_render_modelfile(job, file.name), encoding="utf-8")
    return {"gguf": file.name, "Modelfile": "Modelfile"}


def _render_modelfile(job: ExportJob, gguf_name: str) -> str:
    eos = tokenizer_files.read_special_token(job.adapter, "eos_token") or ""
    model_context = int(job.merged.base.config["max_position_embeddings"])
    context = min(job.serve_settings.max_tokens, model_context)
    parameters = chat_template.make_ollama_parameters(
        [eos], context, job.config.evaluation.max_new_tokens
    )
    comments = [
        f"ollama create {job.name} -f Modelfile && ollama run {job.name}",
        "Not for clinical use.",
    ]
    return chat_template.render_modelfile(
        gguf_name,
        chat_template.render_go_template(job.prompt, eos, job.bos),
        parameters,
        job.config.model.licence,
        comments,
    )


def _collect_card_facts(job: ExportJob, files: dict[str, str]) -> model_card.CardFacts:
    kind = next(iter(files))
    base = job.config.model.hub_id or job.config.model.name
    merged = f"{base} with the adapter merged in"
    descriptions = {
        "adapter": f"A {'DoRA' if job.config.lora.dora else 'LoRA'} adapter for {base}",
        "merged": f"{merged}, in {job.options.dtype.value}",
        "gguf": f"{merged}, as a GGUF in {job.options.quantisation.value}",
    }
    scores = _score_stored_answers(job.run)
    return model_card.CardFacts(
        kind=kind,
        description=descriptions[kind],
        name=job.name,
        run_id=job.run_id,
        measures=_make_measure_rows(job.run, scores),
        leading=[(line.name, line.text) for line in make_leading_lines(scores)] if scores else [],
        harms=make_harm_rows(scores) if scores else [],
        usage=model_card.render_usage(
            job.name,
            files,
            job.vllm_obstacle is None or job.needs_base_weights,
            is_local=job.base.hub_id is None,
            part=describe_family(job.config.model.shape).text_part,
        ),
    )


def _score_stored_answers(run: FinishedRun) -> scorecard.Scorecard | None:
    """Return the scorecard of the answers stored with the run, None where there are none."""
    if run.record is None:
        return None
    place = f"{RECORD} of run {run.asked}"
    record = Record.from_json(run.record.read_text(encoding="utf-8"), place)
    return scorecard.build_scorecard(record, lexicon.load())


def _make_measure_rows(
    run: FinishedRun, scores: scorecard.Scorecard | None
) -> list[tuple[str, ...]]:
    """Return a row for every measure of `scores`; of a run without stored answers the held-out
    loss that MLflow has.
    """
    if scores is not None:
        return [
            (
                result.measure.title,
                f"{format_before(result)} -> {format_figure(result.after)}",
                result.verdict,
                format_interval(result),
            )
            for result in scores.results
            if result.comparison is not None
        ]
    metrics = run.kept.metrics if run.kept is not None else {}
    if not {"result/loss_before", "result/loss_paired_low"} <= set(metrics):
        return []
    keys = ("paired_change", "paired_low", "paired_high", "sign_test_p")
    change, low, high, p_value = (metrics[f"result/loss_{key}"] for key in keys)
    losses = _format_change(metrics["result/loss_before"], metrics["result/loss_after"])
    interval = f"{change:+.3g} [{low:+.3g}, {high:+.3g}], p {p_value:.2g}"
    return [("held-out loss, all", losses, "", interval)]


def _format_change(before: float | None, after: float | None) -> str:
    return f"{format_figure(before)} -> {format_figure(after)}"
