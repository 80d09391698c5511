"""An export under way: what was asked of which run, and the files that it comes to."""

import shutil
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from omegaconf import OmegaConf

from medexp.config.command_options import ExportOptions, ExportTo
from medexp.config.resolve import movable
from medexp.config.schema import Bias, Quantisation, RunConfig
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
from medexp.models import adapter_files as artifact
from medexp.models import backend as stack
from medexp.models import base_identity, weights
from medexp.models.base_identity import BaseIdentity
from medexp.reports.console_tables import make_harm_rows
from medexp.reports.page_template import format_before, format_interval
from medexp.system import hub
from medexp.system.console import NOTE, Console
from medexp.system.units import figure
from medexp.tracking.artifact_names import ADAPTER_RUN_CONFIG, ADAPTER_WEIGHTS, RECORD
from medexp.tracking.finished_run import FinishedRun

GGUF_TARGETS = (ExportTo.gguf, ExportTo.ollama)


@dataclass(frozen=True)
class ExportJob:
    """An export under way: what was asked, of which run, and where it goes."""

    config: RunConfig
    options: ExportOptions
    subject: FinishedRun
    adapter: Path
    target: Path
    console: Console

    @property
    def name(self) -> str:
        """What the export is called: its model, and that it is tuned."""
        return self.options.name or f"{self.config.model.name}-tuned"

    @property
    def run_id(self) -> str | None:
        """Its run in MLflow, where it was not given as a folder."""
        return self.subject.kept.run_id if self.subject.kept is not None else None

    @cached_property
    def base(self) -> BaseIdentity:
        """What the adapter says its base is, under the name that others know it by."""
        return artifact.hide_path(
            artifact.read_base_identity(self.adapter, self.config.model), self.config.model
        )

    @property
    def serve_settings(self) -> ServeSettings:
        """How it is served: room for the longest text it was trained on and a whole answer after
        it.
        """
        context = self.config.training.max_seq_tokens + self.config.evaluation.max_new_tokens
        return ServeSettings(self.name, context, self.options.dtype.value)

    @property
    def needs_base_weights(self) -> bool:
        """Are the weights of the base needed? With to=vllm only where vLLM cannot serve the adapter
        over its base.
        """
        if self.options.to is ExportTo.vllm:
            return self.vllm_obstacle is not None
        return self.options.to is not ExportTo.adapter

    @property
    def vllm_obstacle(self) -> str | None:
        """Why vLLM cannot serve the adapter over its base."""
        return serve_script.find_vllm_obstacle(
            self.config.lora.r, self.config.lora.dora, self.config.lora.bias is not Bias.none
        )

    @cached_property
    def merged(self) -> MergedWeights:
        """Base and adapter, opened but not read."""
        found = weights.find_weights(self.config.model)
        if note := artifact.check_adapter(
            self.adapter, self.config.lora, self.config.model, found, "run"
        ):
            self.console.info(note, NOTE)
        if found.gguf is not None:
            with self.console.status("converting the embedded model, once"):
                found = weights.convert_gguf(
                    found, self.config.model, stack.load_transformers(self.config.hardware)
                )
        place = (
            Path(found.location)
            if Path(found.location).is_absolute()
            else hub.download(found.location, found.commit)
        )
        return MergedWeights(BaseCheckpoint(place, stack.load_bitsandbytes), self.adapter)


def write_export(job: ExportJob, place: Path) -> None:
    """Everything that the export consists of, into `place`."""
    to, prompt = job.options.to, job.config.prompt
    tokenizer_files.copy_tokenizer(job.adapter, place, chat_template.render_jinja_template(prompt))
    if to in GGUF_TARGETS:
        files = _write_gguf(job, place)
    elif job.needs_base_weights:
        files = _write_merged(job, place)
    else:
        files = _write_adapter(job, place)
    (place / "README.md").write_text(
        model_card.render_card(job.config, _collect_card_facts(job, files)), encoding="utf-8"
    )
    output_folder.write_manifest(
        place, {"export": to.value, "run": job.run_id, "model": job.config.model.name}
    )


def _write_adapter(job: ExportJob, place: Path) -> dict[str, str]:
    shutil.copyfile(job.adapter / ADAPTER_WEIGHTS, place / ADAPTER_WEIGHTS)
    artifact.write_adapter_config(
        artifact.read_adapter_config(job.adapter) | {"base_model_name_or_path": job.base.name},
        place,
    )
    base_identity.write_identity(job.base, place)
    if (job.adapter / ADAPTER_RUN_CONFIG).is_file():
        # an older medexp kept places as they are
        made = movable(OmegaConf.to_container(OmegaConf.load(job.adapter / ADAPTER_RUN_CONFIG)))
        (place / ADAPTER_RUN_CONFIG).write_text(
            OmegaConf.to_yaml(OmegaConf.create(made)), encoding="utf-8"
        )
    if job.vllm_obstacle is None:
        is_nf4 = job.config.model.quantisation is Quantisation.nf4
        served = replace(job.serve_settings, dtype=job.config.hardware.dtype.value)
        words = serve_script.make_vllm_adapter_command(
            served, job.base.name, job.base.hub_id is None, job.config.lora.r, is_nf4
        )
        (place / "serve.sh").write_text(
            serve_script.render_script(served, words, is_merged=False), encoding="utf-8"
        )
    return {"adapter": ADAPTER_WEIGHTS}


def _write_merged(job: ExportJob, place: Path) -> dict[str, str]:
    if job.options.to is ExportTo.vllm:
        job.console.info(
            f"vLLM serves no adapter with {job.vllm_obstacle} over its base; the weights are"
            " merged",
            NOTE,
        )
    with job.console.progress(
        f"merging into {job.options.dtype.value}", len(job.merged.names)
    ) as advance:
        merge.write_merged(job.merged, place, job.options.dtype, advance)
    merge.write_generation_config(job.merged.base, place)
    (place / "serve.sh").write_text(
        serve_script.render_script(
            job.serve_settings,
            serve_script.make_vllm_merged_command(job.serve_settings),
            is_merged=True,
        ),
        encoding="utf-8",
    )
    return {"merged": "model.safetensors"}


def _write_gguf(job: ExportJob, place: Path) -> dict[str, str]:
    kind = job.options.quantisation
    file = place / f"{job.name}-{kind.value}.gguf"
    about = gguf_file.GgufMetadata(job.name, job.config.model.licence, job.config.model.shape)
    names = job.merged.names
    whole = file if kind in SUPPORTED_TYPES else place / "to-quantise.gguf"
    with job.console.progress(
        f"writing a GGUF in {kind.value if whole is file else 'f16'}", len(names)
    ) as advance:
        gguf_file.write_gguf(job.merged, place, about, kind, whole, advance)
    if whole is not file:
        with job.console.progress(f"quantising to {kind.value}", len(names)) as advance:
            quantizer.quantize(
                quantizer.find_quantizer(kind, job.options.llama_cpp), whole, file, kind, advance
            )
        whole.unlink()
    for path in [
        *place.glob("tokenizer*"),
        *(
            place / name
            for name in ("chat_template.jinja", "special_tokens_map.json")
        ),
    ]:
        path.unlink(missing_ok=True)  # the GGUF holds them
    if job.options.to is ExportTo.gguf:
        return {"gguf": file.name}
    (place / "Modelfile").write_text(_render_modelfile(job, file.name), encoding="utf-8")
    return {"gguf": file.name, "Modelfile": "Modelfile"}


def _render_modelfile(job: ExportJob, gguf_name: str) -> str:
    eos = tokenizer_files.read_special_token(job.adapter, "eos_token") or ""
    context = min(
        job.serve_settings.max_tokens, int(job.merged.base.config["max_position_embeddings"])
    )
    parameters = chat_template.make_ollama_parameters(
        [eos], context, job.config.evaluation.max_new_tokens
    )
    comments = [
        f"ollama create {job.name} -f Modelfile && ollama run {job.name}",
        "Not for clinical use.",
    ]
    return chat_template.render_modelfile(
        gguf_name,
        chat_template.render_go_template(job.config.prompt, eos),
        parameters,
        job.config.model.licence,
        comments,
    )


def _collect_card_facts(job: ExportJob, files: dict[str, str]) -> model_card.CardFacts:
    run, kind = job.config, next(iter(files))
    whole = f"{run.model.hub_id or run.model.name} with the adapter merged in"
    what = {
        "adapter": (
            f"A {'DoRA' if run.lora.dora else 'LoRA'} adapter for"
            f" {run.model.hub_id or run.model.name}"
        ),
        "merged": f"{whole}, in {job.options.dtype.value}",
        "gguf": f"{whole}, as a GGUF in {job.options.quantisation.value}",
    }[kind]
    scores = _score_stored_answers(job.subject)
    return model_card.CardFacts(
        kind=kind,
        what=what,
        name=job.name,
        run_id=job.run_id,
        measures=_make_measure_rows(job.subject, scores),
        leading=[(line.name, line.text) for line in make_leading_lines(scores)] if scores else [],
        harms=make_harm_rows(scores) if scores else [],
        usage=model_card.render_usage(
            job.name,
            files,
            job.vllm_obstacle is None or job.needs_base_weights,
            is_local=job.base.hub_id is None,
        ),
    )


def _score_stored_answers(subject: FinishedRun) -> scorecard.Scorecard | None:
    """Return the scorecard of the answers stored with the run, None where there are none."""
    if subject.record is None:
        return None
    place = f"{RECORD} of run {subject.asked}"
    record = Record.from_json(subject.record.read_text(encoding="utf-8"), place)
    return scorecard.build_scorecard(record, lexicon.load())


def _make_measure_rows(
    subject: FinishedRun, scores: scorecard.Scorecard | None
) -> list[tuple[str, ...]]:
    """Return a row for every measure of `scores`; of a run without stored answers the held-out
    loss that MLflow has.
    """
    if scores is not None:
        return [
            (
                result.measure.title,
                f"{format_before(result)} -> {figure(result.after)}",
                result.verdict,
                format_interval(result),
            )
            for result in scores.results
            if result.comparison is not None
        ]
    had = subject.kept.metrics if subject.kept is not None else {}
    if not {"result/loss_before", "result/loss_paired_low"} <= set(had):
        return []
    keys = ("paired_change", "paired_low", "paired_high", "sign_test_p")
    change, low, high, p_value = (had[f"result/loss_{name}"] for name in keys)
    figures = _format_change(had["result/loss_before"], had["result/loss_after"])
    return [
        (
            "held-out loss, all",
            figures,
            "",
            f"{change:+.3g} [{low:+.3g}, {high:+.3g}], p {p_value:.2g}",
        )
    ]


def _format_change(before: float | None, after: float | None) -> str:
    return f"{figure(before)} -> {figure(after)}"
