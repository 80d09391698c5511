"""The model card (README.md) of an export, filled from its run: Markdown under YAML that the Hub
reads. Text only.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from omegaconf import OmegaConf

from medexp.config import dataset_sources
from medexp.config.schema import Lora, RunConfig
from medexp.reports.summary import NOT_FOR_CLINICAL_USE

_LICENCES = {  # our words: the Hub's identifier
    "Apache-2.0": "apache-2.0",
    "MIT": "mit",
    "Llama 3.1 Community License": "llama3.1",
    "Llama 3.2 Community License": "llama3.2",
}
_RELATION = {"adapter": "adapter", "merged": "finetune", "gguf": "quantized"}
_LIBRARY = {"adapter": "peft", "finetune": "transformers", "quantized": "gguf"}


@dataclass(frozen=True)
class CardFacts:
    """What a card says: the `kind` of export (adapter, merged, gguf) and in words, its run, the
    measures as rows of a table.
    """

    kind: str
    what: str
    name: str
    run_id: str | None
    measures: Sequence[tuple[str, ...]]
    usage: str
    leading: Sequence[tuple[str, str]] = ()
    harms: Sequence[str] = ()


def render_card(run: RunConfig, facts: CardFacts) -> str:
    """README.md."""
    licences = [(name, licence) for name, _, licence in _list_sources(run)]
    sections = [
        f"---\n{OmegaConf.to_yaml(OmegaConf.create(make_metadata(run, facts)))}---",
        f"# {facts.name}",
        f"> **Not for clinical use.** {NOT_FOR_CLINICAL_USE.partition(': ')[2].capitalize()}",
        f"{facts.what}. Made by medexp"
        + (f" in MLflow run `{facts.run_id}`." if facts.run_id else "."),
        "## How to use it\n\n" + facts.usage,
        "## Prompt\n\n" + _render_prompt(run),
        "## What changed\n\n" + _render_leading(facts) + _render_measures(facts.measures),
        "## Data\n\n"
        + _render_table(("cases", "from", "licence"), list(_list_sources(run)))
        + "\n\n"
        + _describe_split(run),
        "## Training\n\n" + _render_table(("", ""), list(_list_settings(run))),
        "## Limits\n\n" + "\n".join(f"- {limit}" for limit in _list_limits(run, facts)),
        "## Licences\n\n"
        + _render_table(("", "licence"), [("base model", run.model.licence), *licences]),
    ]
    return "\n\n".join(sections) + "\n"


def make_metadata(run: RunConfig, facts: CardFacts) -> dict[str, object]:
    """The front matter, in the Hub's words."""
    relation = _RELATION[facts.kind]
    found: dict[str, object] = {
        "language": ["en"],
        **_make_licence_fields(run.model.licence),
        "library_name": _LIBRARY[relation],
    }
    if run.model.hub_id is not None:
        found |= {"base_model": run.model.hub_id, "base_model_relation": relation}
    if data := [
        source.hub_id
        for source in dataset_sources.sources(run.dataset)
        if source.hub_id is not None and source.path is None
    ]:
        found["datasets"] = data
    tags = [
        "medexp",
        "medical",
        "not-for-clinical-use",
        *(["lora"] if relation == "adapter" else []),
    ]
    return found | {"pipeline_tag": "text-generation", "tags": tags}


def _make_licence_fields(words: str) -> dict[str, object]:
    """Licence of the base: an identifier of the Hub's where it is one, else `other` under a name of
    its own.
    """
    known = _LICENCES.get(words)
    return (
        {"license": known} if known else {"license": "other", "license_name": "see-licences-below"}
    )


def _list_sources(run: RunConfig) -> Iterator[tuple[str, str, str]]:
    shares = {part.name: f", weight {part.weight:g}" for part in run.dataset.mixture}
    for source in dataset_sources.sources(run.dataset):
        place = (
            f"{source.hub_id}{f' @ {source.revision}' if source.revision else ''}"
            if source.path is None
            else "a local file"
        )
        if source.path is not None and source.name == "clinical_cases":
            place = "shipped with medexp"
        yield source.name, place + shares.get(source.name, ""), source.licence


def _render_prompt(run: RunConfig) -> str:
    about = (
        "It was trained on this text around a question, BOS before it, and on no other;"
        " `{question}` is the user's text."
    )
    after = "It continues with this, and EOS:"
    return "\n\n".join(
        [about, _fence_text(run.prompt.question), after, _fence_text(run.prompt.completion)]
    )


def _describe_split(run: RunConfig) -> str:
    data = run.dataset
    group = f", no {data.group_by} on both sides" if data.group_by else ""
    return (
        f"{data.held_out} cases were held out (split seed {data.split_seed}{group}); every measure"
        " above is on them."
    )


def _list_settings(run: RunConfig) -> Iterator[tuple[str, str]]:
    lora, training = run.lora, run.training
    yield "adapter", _describe_adapter(lora)
    length = (
        f"{training.max_steps} steps"
        if training.max_steps is not None
        else f"{training.epochs:g} epochs"
    )
    yield (
        "length",
        f"{length} of {training.cases_a_step} cases, at most {training.max_seq_tokens} tokens each",
    )
    schedule = f"{training.schedule.value} with {training.warmup_steps} warm-up steps"
    yield (
        "optimizer",
        f"{training.optimizer.value}, learning rate {training.learning_rate:g}, {schedule}",
    )
    yield "loss on", training.loss_on.value
    yield "seed", str(training.seed)
    yield (
        "base weights",
        {"none": "as stored", "nf4": "NF4, dequantised layer by layer"}[
            run.model.quantisation.value
        ],
    )
    ceiling = (
        f", at most {run.hardware.vram_ceiling_gib:g} GiB of VRAM"
        if run.hardware.vram_ceiling_gib
        else ""
    )
    yield "hardware", f"{run.hardware.name}, {run.hardware.dtype.value}{ceiling}"


def _describe_adapter(lora: Lora) -> str:
    kind = "DoRA" if lora.dora else "LoRA"
    stabilised = ", rank-stabilised" if lora.rank_stabilised else ""
    return (
        f"{kind}, rank {lora.r}, alpha {lora.alpha}{stabilised}, on"
        f" {', '.join(lora.target_modules)}"
    )


def _list_limits(run: RunConfig, facts: CardFacts) -> Iterator[str]:
    yield "No clinician has validated its answers. It must not inform the care of a real person."
    yield (
        "It answers one question at a time: neither conversations nor system messages were"
        " trained on."
    )
    yield (
        f"Cases in training were at most {run.training.max_seq_tokens} tokens long, question,"
        " reasoning and answer together."
    )
    if run.model.package is not None:
        base = f"the 4-bit weights of the Python package {run.model.package}, dequantised"
        yield f"Its base is {base}; other copies of {run.model.hub_id} differ."
    if facts.kind != "adapter" and run.model.quantisation.value == "nf4":
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


def render_usage(name: str, files: Mapping[str, str], serves: bool, is_local: bool = False) -> str:
    """How the export is used, as Markdown; `serves` where a serve.sh lies beside it, `is_local`
    where the base is not the Hub's.
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
ids = tokenizer.apply_chat_template([{{"role": "user", "content": "QUESTION"}}], return_tensors="pt", return_dict=True)
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
ids = tokenizer.apply_chat_template([{{"role": "user", "content": "QUESTION"}}], return_tensors="pt", return_dict=True)
print(tokenizer.decode(model.generate(**ids, max_new_tokens=512)[0]))
```{server}"""
