"""The shape of every config group, and the ranges of its fields.

One dataclass a group: `conf/lora/` <-> `Lora` <-> `run.lora`. Values live in YAML alone: no field
has a default here, so a value has one home. Unknown keys and wrong types fail while Hydra composes;
a field's own range is checked when `config.resolve` turns the composed config into these objects.
Refuses to know about other groups: rules between them are in `config.validation`.
"""

import math
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any, ClassVar

from omegaconf import MISSING

from medexp.config.fields import Group, SetOnce, config_fields, number
from medexp.config.measured_steps import MeasuredStep


class Family(Enum):
    """The model_type of a decoder's config.json; `config.families` says how each is built."""

    llama = "llama"
    qwen2 = "qwen2"
    qwen3 = "qwen3"
    gemma3_text = "gemma3_text"
    mistral = "mistral"
    phi3 = "phi3"
    granite = "granite"
    olmo2 = "olmo2"
    smollm3 = "smollm3"


class Quantisation(Enum):
    none = "none"
    nf4 = "nf4"


class Device(Enum):
    cpu = "cpu"
    cuda = "cuda"


class Engine(Enum):
    auto = "auto"
    unsloth = "unsloth"
    transformers = "transformers"


class Dtype(Enum):
    """What is computed in; `auto` is bfloat16 where the machine multiplies in it, else float16 on a
    card and float32 without.
    """

    auto = "auto"
    bfloat16 = "bfloat16"
    float16 = "float16"
    float32 = "float32"


class Bias(Enum):
    none = "none"
    all = "all"
    lora_only = "lora_only"


class Overlong(Enum):
    drop = "drop"
    trim_reasoning = "trim_reasoning"
    error = "error"


class Faulty(Enum):
    """What a row that cannot be read as a case does: nothing is read (`error`), or it is left out
    and counted (`drop`).
    """

    error = "error"
    drop = "drop"


class Format(Enum):
    auto = "auto"
    cases = "cases"
    chat = "chat"
    alpaca = "alpaca"


class Turns(Enum):
    last = "last"
    all = "all"


class PromptForm(Enum):
    """Who writes the text around a case: the preset (`text`), or the tokenizer's chat template."""

    text = "text"
    chat = "chat"


class LossOn(Enum):
    completion = "completion"
    answer = "answer"
    all = "all"


class Schedule(Enum):
    linear = "linear"
    cosine = "cosine"
    constant = "constant"
    constant_with_warmup = "constant_with_warmup"


class Optimizer(Enum):
    adamw_torch = "adamw_torch"
    adamw_8bit = "adamw_8bit"
    paged_adamw_8bit = "paged_adamw_8bit"


class BatchBy(Enum):
    """A micro-batch has `micro_batch` cases, or as many of its step's as `micro_batch` x
    `max_seq_tokens` tokens hold.
    """

    cases = "cases"
    tokens = "tokens"


class Planning(Enum):
    """Which plan that fits is taken; `manual` keeps micro-batch and accumulation as given. Levers
    given as a number always stay.
    """

    fastest = "fastest"
    frugal = "frugal"
    manual = "manual"


class Resume(Enum):
    auto = "auto"
    never = "never"


class Benchmark(Enum):
    """Multiple-choice questions with one right answer, run through lm-eval.

    The last two are read from local files alone. They are outside the family of medical-o1, whose
    records descend from MedQA and MedMCQA.
    """

    medqa = "medqa"
    medmcqa = "medmcqa"
    pubmedqa = "pubmedqa"
    mmlu_medical = "mmlu_medical"
    medbullets = "medbullets"
    medxpertqa = "medxpertqa"


class MeasuredCases(Enum):
    """Whose held-out cases are measured: the dataset's own, or the test part of the shipped ones,
    whatever is trained on.
    """

    dataset = "dataset"
    shipped = "shipped"


class Checkpointing(Enum):
    """Gradient checkpointing: hidden states to the host (`unsloth`), kept on the device
    (`standard`), or none (`off`).
    """

    unsloth = "unsloth"
    standard = "standard"
    off = "off"


@dataclass
class ModelShape(Group):
    """The exact shape of a decoder; checked against the weights' own config before they load.

    `window` is how many tokens a sliding layer sees, null where none slides.
    """

    inside: ClassVar[str] = "shape."
    family: Family = MISSING
    layers: int = number(1)
    hidden: int = number(1)
    heads: int = number(1)
    kv_heads: int = number(1)
    head_dim: int = number(1)
    ffn: int = number(1)
    vocab: int = number(1)
    tied_embeddings: bool = MISSING
    window: int | None = number(1)


@dataclass
class Model(Group):
    """Which weights, from where (`path`, else the `package`, else the Hub), of what shape."""

    name: str = MISSING
    package: str | None = MISSING
    hub_id: str | None = MISSING
    revision: str | None = MISSING
    path: str | None = MISSING
    licence: str = MISSING
    quantisation: Quantisation = MISSING
    shape: ModelShape = MISSING


@dataclass
class Lora(Group):
    """The adapter: W + scale * B A with A of `r` x in, B of out x `r` (Hu et al. 2021,
    arXiv:2106.09685).
    """

    r: int = number(1, 1024)
    alpha: int | None = number(1)
    alpha_ratio: float | None = number(above=0)
    dropout: float = number(0, 0.99)
    bias: Bias = MISSING
    target_modules: list[str] = MISSING
    rank_stabilised: bool = MISSING
    dora: bool = MISSING
    init_lora_weights: Any = MISSING
    start_from: str | None = MISSING

    @property
    def trained_alpha(self) -> int | float:
        """Alpha as PEFT is told it: as given, or so many times the rank; whole where it can be."""
        if self.alpha_ratio is None:
            assert self.alpha is not None  # `config.validation` lets one of the two be null
            return self.alpha
        # Without what binary fractions add: 0.1 x 30 is 3.
        alpha = round(self.alpha_ratio * self.r, 6)
        return int(alpha) if alpha.is_integer() else alpha


@dataclass
class Hardware(Group):
    """The card, how many of them share out every step, the one ceiling (of each), and what is
    traded for memory under it.

    `measured_steps` are entries of `config.measured_steps.MeasuredStep`, the machine's own added.
    The levers from `offload_layers` on are a number, true/false or a word (`config.validation`
    checks which): OmegaConf cannot merge a union over a missing value.
    """

    name: str = MISSING
    device: Device = MISSING
    cards: int = number(1, 64)
    engine: Engine = MISSING
    dtype: Dtype = MISSING
    card_vram_gib: float | None = number(above=0)
    vram_ceiling_gib: float | None = number(above=0)
    matmul_tflops: float | None = number(above=0)
    memory_gb_per_s: float | None = number(above=0)
    host_link_gb_per_s: float | None = number(above=0)
    host_ram_gib: float | None = number(above=0)
    measured_steps: list[Any] = MISSING
    replan: int = number(0, 10)
    offload_layers: Any = MISSING
    offload_embedding: Any = MISSING
    checkpoint_skip_layers: Any = MISSING
    offload_activations: Any = MISSING
    compile_layers: Any = MISSING
    fp8: Any = MISSING
    tile_mlp: Any = MISSING
    page_optimizer: Any = MISSING
    recompute_last_product: bool = MISSING
    expandable_segments: bool = MISSING

    @cached_property
    def known_steps(self) -> tuple[MeasuredStep, ...]:
        """`measured_steps` as such: a search for a plan reads them thousands of times."""
        return tuple(MeasuredStep(**entry) for entry in self.measured_steps)


@dataclass
class Columns(Group):
    """Which column of a record is what; `reasoning: null` where the cases have none."""

    question: str = MISSING
    reasoning: str | None = MISSING
    answer: str = MISSING


@dataclass
class Source(Group):
    """Where cases come from (`path`, else the Hub), which column is what, which cases belong
    together, and whether a group's name decides its part (`test_share`; null: seed and counts do).
    """

    name: str = MISSING
    hub_id: str | None = MISSING
    config: str | None = MISSING
    revision: str | None = MISSING
    path: str | None = MISSING
    columns: Columns = MISSING
    group_by: str | None = MISSING
    test_share: float | None = number(high=1, above=0)
    validation_share: float = number(0, 1)
    licence: str = MISSING


@dataclass
class MixtureSource(Source):
    """One source of a mixture, and its share of the training cases; `config.dataset_sources` makes
    it from an entry of `dataset.mixture`.
    """

    weight: float = number(0)


@dataclass
class Dataset(Source):
    """A source or a mixture of them, how it is split, and whose held-out cases are measured.

    As composed, an entry of `mixture` is {use: OPTION, weight: NUMBER} and `held_out_from` the name
    of an option; `config.dataset_sources` puts a `MixtureSource` in the place of each.
    """

    mixture: list[Any] = MISSING
    held_out_from: Any = MISSING
    held_out: int = number(1)
    validation: int = number(0)
    stratify_by: list[str] = MISSING
    max_cases: int | None = number(2)
    split_seed: int = number(0)
    overlong: Overlong = MISSING
    faulty: Faulty = MISSING
    format: Format = MISSING
    turns: Turns = MISSING


@dataclass
class Prompt(Group):
    """Text around a case: `question` holds {question}; `completion` holds {answer} and, where it
    reasons, {reasoning}.

    With `form=chat` they are what a user and what the assistant says, the tokenizer's chat template
    writes everything around them, and `system` is said first where a case has no system text.
    """

    name: str = MISSING
    question: str = MISSING
    completion: str = MISSING
    form: PromptForm = MISSING
    system: str | None = MISSING


@dataclass
class Training(Group):
    """One optimisation: batches, length, optimizer, seeds, checkpoints."""

    plan: Planning = MISSING
    micro_batch: int = number(1)
    accumulation: int = number(1)
    batch_by: BatchBy = MISSING
    max_steps: int | None = number(1)
    epochs: float | None = number(above=0)
    max_seq_tokens: int = number(16)
    learning_rate: float = number(above=0)
    loraplus_lr_ratio: float | None = number(1)
    warmup_steps: int | None = number(0)
    warmup_ratio: float | None = number(0, 1)
    schedule: Schedule = MISSING
    min_lr_ratio: float = number(0, 0.99)
    optimizer: Optimizer = MISSING
    adam_beta1: float = number(0, 0.999999)
    adam_beta2: float = number(0, 0.999999)
    adam_epsilon: float = number(above=0)
    weight_decay: float = number(0)
    max_grad_norm: float = number(above=0)
    neftune_noise_alpha: float | None = number(above=0)
    gradient_checkpointing: Checkpointing = MISSING
    group_by_length: bool = MISSING
    loss_on: LossOn = MISSING
    seed: int = number(0)
    save_steps: int = number(1)
    resume: Resume = MISSING
    keep_best: bool = MISSING
    early_stopping_patience: int | None = number(1)

    @property
    def cases_a_step(self) -> int:
        """The effective batch."""
        return self.micro_batch * self.accumulation

    def count_warmup_steps(self, steps: int) -> int:
        """Return how many of a run's `steps` warm up, a share of them rounded up."""
        if self.warmup_ratio is None:
            assert self.warmup_steps is not None  # `config.validation` lets one of the two be null
            return self.warmup_steps
        return math.ceil(self.warmup_ratio * steps)


@dataclass
class BenchmarkFiles(Group):
    """Local files that take the place of the Hub's, one a benchmark."""

    inside: ClassVar[str] = "benchmark_files."
    medqa: str | None = MISSING
    medmcqa: str | None = MISSING
    pubmedqa: str | None = MISSING
    mmlu_medical: str | None = MISSING
    medbullets: str | None = MISSING
    medxpertqa: str | None = MISSING


@dataclass
class Judge(Group):
    """A language model at an OpenAI-compatible endpoint, which judges answers if `model` is set."""

    inside: ClassVar[str] = "judge."
    model: str | None = MISSING
    url: str | None = MISSING
    instructions: str | None = MISSING


@dataclass
class Evaluation(Group):
    """Held-out loss at one fixed length, how many held-out questions are answered at most, by whom
    (`arms`), how often each (`draws`), which measures may give a verdict (`primary`), and what else
    is measured.
    """

    answers: int = number(0)
    max_new_tokens: int = number(1)
    batch_size: int = number(1)
    max_seq_tokens: int = number(16)
    every_steps: int = number(1)
    primary: list[str] = MISSING
    cases: MeasuredCases = MISSING
    arms: list[str] = MISSING
    draws: int = number(1, 100)
    temperature: float = number(0, 5)
    likelihoods: bool = MISSING
    reuse_base: bool = MISSING
    embedding: bool = MISSING
    benchmarks: list[str] = MISSING
    benchmark_files: BenchmarkFiles = MISSING
    benchmark_limit: int | None = number(1)
    benchmark_reasoning: bool = MISSING
    verifier: str | None = MISSING
    verifier_model: str | None = MISSING
    judge: Judge = MISSING


@dataclass
class Tracking(Group):
    """Where MLflow keeps the run."""

    root: str | None = MISSING
    experiment: str = MISSING
    run_name: str | None = MISSING
    system_metrics: bool = MISSING
    log_adapter: bool = MISSING
    tags: dict[str, str] = MISSING


@dataclass
class RunConfig(SetOnce):
    """A whole run, as `python -m medexp.train` composes it.

    `asked` is what was asked for, by dotted name, where the machine or a plan has put another value
    in its place: a run is known by it (`flatten.extract_identity`). It is no key of the config.
    """

    model: Model = MISSING
    lora: Lora = MISSING
    dataset: Dataset = MISSING
    prompt: Prompt = MISSING
    training: Training = MISSING
    evaluation: Evaluation = MISSING
    tracking: Tracking = MISSING
    hardware: Hardware = MISSING
    asked: dict[str, Any] = field(
        default_factory=dict, compare=False, repr=False, metadata={"omegaconf_ignore": True}
    )


# Names of the config groups of a run.
GROUP_NAMES = tuple(key.name for key in config_fields(RunConfig))
