"""The model card (README.md) of an export, filled from its run: Markdown below YAML that the Hub
reads. Text only.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from omegaconf import OmegaConf

from medexp.config import dataset_sources
from medexp.config.families.decoder_family import TextPart
from medexp.config.schema import Lora, PromptForm, RunConfig, Training
from medexp.reports.summary import NOT_FOR_CLINICAL_USE

# The Hub's identifier for each licence that conf/model names.
_LICENCES = {
    "Apache-2.0": "apache-2.0",
    "MIT": "mit",
    "Llama 3.1 Community License": "llama3.1",
    "Llama 3.2 Community License": "llama3.2",
    "Gemma Terms of Use": "gemma",
}
_RELATION = {"adapter": "adapter", "merged": "finetune", "gguf": "quantized"}
_LIBRARY = {"adapter": "peft", "finetune": "transformers", "quantized": "gguf"}


@dataclass(frozen=True)
class CardFacts:
    """What a card says of its export.

    `kind` is adapter, merged or gguf, and `description` says it in words. `measures` are rows of a
    table: measure, change, verdict, interval.
    """

    kind: str
    description: str
    name: str
    run_id: str | None
    measures: Sequence[tuple[str, ...]]
    usage: str
    leading: Sequence[tuple[str, str]] = ()
    harms: Sequence[str] = ()


def render_card(config: RunConfig, facts: CardFacts) -> str:
    """Return the text of README.md."""
    front_matter = OmegaConf.to_yaml(OmegaConf.create(make_metadata(config, facts)))
    notice = NOT_FOR_CLINICAL_USE.partition(": ")[2].capitalize()
    origin = f" in MLflow run `{facts.run_id}`" if facts.run_id else ""
    sources = list(_list_sources(config))
    sources_table = _render_table(("cases", "from", "licence"), sources)
    limits = "\n".join(f"- {limit}" for limit in _list_limits(config, facts))
    licences = [("base model", config.model.licence), *((name, text) for name, _, text in sources)]
    sections = [
        f"---\n{front_matter}---",
        f"# {facts.name}",
        f"> **Not for clinical use.** {notice}",
        f"{facts.description}. Made by medexp{origin}.",
        f"## How to use it\n\n{facts.usage}",
        f"## Prompt\n\n{_render_prompt(config)}",
        f"## What changed\n\n{_render_leading(facts)}{_render_measures(facts.measures)}",
        f"## Data\n\n{sources_table}\n\n{_describe_split(config)}",
        f"## Training\n\n{_render_table(('', ''), list(_list_settings(config)))}",
        f"## Limits\n\n{limits}",
        f"## Licences\n\n{_render_table(('', 'licence'), licences)}",
    ]
    return "\n\n".join(sections) + "\n"


def make_metadata(config: RunConfig, facts: CardFacts) -> dict[str, object]:
    """Return the front matter, with the keys that the Hub reads."""
    relation = _RELATION[facts.kind]
    metadata: dict[str, object] = {
        "language": ["en"],
        **_make_licence_fields(config.model.licence),
        "library_name": _LIBRARY[relation],
    }
    if config.model.hub_id is not None:
        metadata |= {"base_model": config.model.hub_id, "base_model_relation": relation}
    if dataset_ids := [
        source.hub_id
        for source in dataset_sources.list_sources(config.dataset)
        if source.hub_id is not None and source.path is None
    ]:
        metadata["datasets"] = dataset_ids
    tags = ["medexp", "medical", "not-for-clinical-use"]
    if relation == "adapter":
        tags.append("lora")
    return metadata | {"pipeline_tag": "text-generation", "tags": tags}


def _make_licence_fields(licence: str) -> dict[str, object]:
    """Return the licence of the base as the Hub's identifier, or `other` where it has none."""
    identifier = _LICENCES.get(licence)
    if identifier is None:
        return {"license": "other", "license_name": "see-licences-below"}
    return {"license": identifier}


def _list_sources(config: RunConfig) -> Iterator[tuple[str, str, str]]:
    """Yield the name, the origin and the licence of each source of cases."""
    weights = {source.name: f", weight {source.weight:g}" for source in config.dataset.mixture}
    for source in dataset_sources.list_sources(config.dataset):
        if source.path is None:
            origin = f"{source.hub_id}{f' @ {source.revision}' if source.revision else ''}"
        elif source.name == "clinical_cases":
            origin = "shipped with medexp"
        else:
            # The path is this machine's and says nothing elsewhere.
            origin = "a local file"
        yield source.name, origin + weights.get(source.name, ""), source.licence


def _render_prompt(config: RunConfig) -> str:
    if config.prompt.form is PromptForm.chat:
        answer = _fence_text(config.prompt.completion)
        return (
            "It was trained on conversations, written by the chat template that lies beside it; a"
            f" system message may stand first. An answer with reasoning is written so:\n\n{answer}"
        )
    about = (
        "It was trained on this text around a question, BOS before it, and on no other;"
        " `{question}` is the user's text."
    )
    after = "It continues with this, and EOS:"
    return "\n\n".join(
        [about, _fence_text(config.prompt.question), after, _fence_text(config.prompt.completion)]
    )


def _describe_split(config: RunConfig) -> str:
    data = config.dataset
    group = f", no {data.group_by} on both sides" if data.group_by else ""
    return (
        f"{data.held_out} cases were held out (split seed {data.split_seed}{group}); every measure"
        " above is on them."
    )


def _list_settings(config: RunConfig) -> Iterator[tuple[str, str]]:
    lora, training = config.lora, config.training
    yield "adapter", _describe_adapter(lora)
    has_steps = training.max_steps is not None
    length = f"{training.max_steps} steps" if has_steps else f"{training.epochs:g} epochs"
    cases = f"{training.cases_a_step} cases, at most {training.max_seq_tokens} tokens each"
    yield "length", f"{length} of {cases}"
    optimizer = f"{training.optimizer.value}, learning rate {training.learning_rate:g}"
    yield "optimizer", f"{optimizer}, {_describe_schedule(training)}"
    if training.loraplus_lr_ratio is not None:
        yield "LoRA+", f"B at {training.loraplus_lr_ratio:g} times the learning rate"
    if training.neftune_noise_alpha is not None:
        yield "NEFTune", f"noise of alpha {training.neftune_noise_alpha:g} on the embeddings"
    yield "loss on", training.loss_on.value
    yield "seed", str(training.seed)
    base_weights = {"none": "as stored", "nf4": "NF4, dequantised layer by layer"}
    yield "base weights", base_weights[config.model.quantisation.value]
    hardware = config.hardware
    ceiling_gib = hardware.vram_ceiling_gib
    ceiling = f", at most {ceiling_gib:g} GiB of VRAM" if ceiling_gib else ""
    yield "hardware", f"{hardware.name}, {hardware.dtype.value}{ceiling}"


def _describe_schedule(training: Training) -> str:
    has_count = training.warmup_ratio is None
    warmup = training.warmup_steps if has_count else f"{training.warmup_ratio:.0%} of the steps as"
    floor = f" to {training.min_lr_ratio:g} of it" if training.min_lr_ratio else ""
    return f"{training.schedule.value}{floor} with {warmup} warm-up{' steps' if has_count else ''}"


def _describe_adapter(lora: Lora) -> str:
    kind = "DoRA" if lora.dora else "LoRA"
    stabilised = ", rank-stabilised" if lora.rank_stabilised else ""
    return (
        f"{kind}, rank {lora.r}, alpha {lora.trained_alpha:g}{stabilised}, on"
        f" {', '.join(lora.target_modules)}"
    )


def _list_limits(config: RunConfig, facts: CardFacts) -> Iterator[str]:
    yield "No clinician has validated its answers. It must not inform the care of a real person."
    yield (
        "It answers one question at a time: neither conversations nor system messages were"
        " trained on."
    )
    yield (
        f"Cases in training were at most {config.training.max_seq_tokens} tokens long, question,"
        " reasoning and answer together."
    )
    if config.model.package is not None:
        base = f"the 4-bit weights of the Python package {config.model.package}, dequantised"
        yield f"Its base is {base}; other copies of {config.model.hub_id} differ."
    if facts.kind != "adapter" and config.model.quantisation.value == "nf4":
        yield (
            "The base was dequantised from NF4, as in training: these are not the 16-bit original's"
            " weights plus an adapter."
        )


def _render_leading(facts: CardFacts) -> str:
    """Return the three lines and the worst answers, where the run's answers are stored."""
    lines = [f"- **{name}** {text}" for name, text in facts.leading]
    harms = [f"- harmful, {row}" for row in facts.harms]
    return "\n".join([*lines, *harms, "", ""]) if lines else ""


def _render_measures(rows: Sequence[tuple[str, ...]]) -> str:
    if not rows:
        return "No measures are stored with this run."
    head = ("measure", "base -> tuned", "verdict", "change [95 %]")
    about = (
        "Held-out cases, base against tuned model, paired by group (condition, patient): BCa 95 %"
        " interval of the mean change, sign-flip test. Primary and harm measures give a verdict,"
        " the others are described."
    )
    return f"{about}\n\n{_render_table(head, rows)}"


def _render_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |"
        for line in lines
    )


def _fence_text(text: str) -> str:
    fence = "````" if "```" in text else "```"
    return f"{fence}text\n{text.rstrip()}\n{fence}"


def render_usage(
    name: str,
    files: Mapping[str, str],
    serves: bool,
    is_local: bool = False,
    part: TextPart | None = None,
) -> str:
    """Return how the export is used, as Markdown.

    `serves` where a serve.sh lies beside it, `is_local` where the base is not the Hub's; `part` is
    what was trained of a base that also sees.
    """
    if "Modelfile" in files:
        return (
            f'```console\n$ ollama create {name} -f Modelfile\n$ ollama run {name} "QUESTION"\n```'
        )
    if "gguf" in files:
        holds = (
            "The file holds the run's prompt as its chat template: a user message is the question."
        )
        return f"```console\n$ llama-server -m {files['gguf']} --jinja\n```\n\n{holds}"
    if "adapter" in files and part is not None:
        return (
            f"It was trained on the decoder of its base alone, as Transformers' {part.architecture}"
            " loads it. Over the whole model, which also sees, its tensors have other names: PEFT"
            " would find none of them there and say so in a warning. `python -m medexp.export"
            " run=ID to=merged` writes that decoder with the adapter merged in, which loads like"
            " any model."
        )
    if "adapter" in files and is_local:
        return _render_local_base_usage(serves)
    loader = "AutoPeftModelForCausalLM" if "adapter" in files else "AutoModelForCausalLM"
    imports = f"from transformers import {loader}, AutoTokenizer"
    if "adapter" in files:
        imports = f"from peft import {loader}\nfrom transformers import AutoTokenizer"
    servers = (
        "vLLM"
        if "adapter" in files
        else "vLLM; with `sh serve.sh transformers`, Transformers' own server"
    )
    server = f"\n\n`sh serve.sh` serves it ({servers})." if serves else ""
    return f"""```python
{imports}

model, tokenizer = {loader}.from_pretrained("."), AutoTokenizer.from_pretrained(".")
ids = tokenizer.apply_chat_template([{{"role": "user", "content": "QUESTION"}}], \
return_tensors="pt", return_dict=True)
print(tokenizer.decode(model.generate(**ids, max_new_tokens=512)[0]))
```{server}"""


def _render_local_base_usage(serves: bool) -> str:
    server = "\n\n`BASE=FOLDER sh serve.sh` serves it (vLLM)." if serves else ""
    return f"""FOLDER is where the base model lies; `base_model.json` says which it is.

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base, tokenizer = AutoModelForCausalLM.from_pretrained("FOLDER"), AutoTokenizer.from_pretrained(".")
model = PeftModel.from_pretrained(base, ".")
ids = tokenizer.apply_chat_template([{{"role": "user", "content": "QUESTION"}}], \
return_tensors="pt", return_dict=True)
print(tokenizer.decode(model.generate(**ids, max_new_tokens=512)[0]))
```{server}"""
