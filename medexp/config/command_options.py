"""What a command takes beside a run: its own options, and the root config that holds both. A run
knows none of them.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

from omegaconf import MISSING

from medexp.config.fields import Group, number
from medexp.config.schema import RunConfig


class Format(Enum):
    """Tables for people, or JSON for programs."""

    table = "table"
    json = "json"


@dataclass
class FinishedRunOptions(Group):
    """Options of a command that goes on from a finished run: which run."""

    run: str | None = MISSING


@dataclass
class PlanOptions(Group):
    """How `python -m medexp.plan` shows a plan."""

    format: Format = MISSING
    frontier: bool = MISSING


@dataclass
class PlanConfig(RunConfig):
    """A run, and how its plan is shown."""

    plan: PlanOptions = MISSING


@dataclass
class CalibrateOptions(Group):
    """Whether `python -m medexp.calibrate` also measures what training steps take."""

    inside: ClassVar[str] = "calibrate."
    memory: bool = MISSING


@dataclass
class CalibrateConfig(RunConfig):
    """A run whose model is measured, and what of it."""

    calibrate: CalibrateOptions = MISSING


@dataclass
class SweepOptions(Group):
    """How many trials a sweep has in all (`python -m medexp.train -m`), how much time of a card it
    may take, and whether the run as configured is tried first where it lies outside the space.
    `final` has the best trial's settings trained at full length, `final_seeds` times;
    `final_steps` null is as many steps as the run would have without the sweep's preset.
    `warm_start` is an earlier study whose trials are known from the start.
    """

    inside: ClassVar[str] = "sweep."
    n_trials: int = number(1)
    budget: str | None = MISSING
    configured_first: bool = MISSING
    final: bool = MISSING
    final_steps: int | None = number(1)
    final_seeds: int = number(1)
    warm_start: str | None = MISSING


@dataclass
class TrainOptions(FinishedRunOptions):
    """The finished run that `python -m medexp.train experiment=from_run` makes again; `from_run` is
    what that experiment sets.
    """

    from_run: bool = MISSING


@dataclass
class TrainConfig(RunConfig):
    """A run, the size of a sweep over it, and the run that it restores."""

    sweep: SweepOptions = MISSING
    run: str | None = MISSING
    train: TrainOptions = MISSING


@dataclass
class UiOptions(Group):
    """Where `python -m medexp.ui` listens (null: 5000, or a free port where that is taken), and
    whether it opens a browser.
    """

    inside: ClassVar[str] = "ui."

    port: int | None = number(1, 65535)
    open: bool = MISSING


@dataclass
class UiConfig(RunConfig):
    """A run's tracking, and how its pages are served."""

    ui: UiOptions = MISSING


@dataclass
class CleanOptions(Group):
    """Which unfinished runs `python -m medexp.clean` removes: those untouched for so many days
    (null: none, they are listed)."""

    inside: ClassVar[str] = "clean."

    days: float | None = number(0)


@dataclass
class CleanConfig(RunConfig):
    """A run's tracking, and what is removed there."""

    clean: CleanOptions = MISSING


@dataclass
class AuditOptions(Group):
    """What `python -m medexp.audit` also compares with; whether a broken rule ends it with 2; and
    the sheet of cases that a clinician judges, to be written (`review_sheet`) or read (`review`).
    """

    strict: bool = MISSING
    benchmark_files: list[str] = MISSING
    review_sheet: str | None = MISSING
    review_cases: int = number(1)
    review: str | None = MISSING


@dataclass
class AuditConfig(RunConfig):
    """A run, and how its cases are audited."""

    audit: AuditOptions = MISSING


@dataclass
class CompareOptions(Group):
    """Which finished runs `python -m medexp.compare` sets side by side (`run` is one name or a
    list), and what comes of it.
    """

    inside: ClassVar[str] = "compare."

    run: Any = MISSING
    study: str | None = MISSING
    file: str | None = MISSING
    format: Format = MISSING
    answers: int = number(0)
    mlflow: str = MISSING
    open: bool = MISSING


@dataclass
class CompareConfig(RunConfig):
    """Where the runs to be compared are kept, and which they are."""

    run: Any = MISSING
    study: str | None = MISSING
    compare: CompareOptions = MISSING


@dataclass
class EvaluateOptions(FinishedRunOptions):
    """Which finished run `python -m medexp.evaluate` measures, whether it only scores the answers
    stored with it, and whether it asks the tuned model twice to see what noise does.
    """

    rescore: bool = MISSING
    noise_floor: bool = MISSING


@dataclass
class EvaluateConfig(RunConfig):
    """A run to measure. What it was made with is read from the run itself; what the command line
    names wins over that.
    """

    run: str | None = MISSING
    evaluate: EvaluateOptions = MISSING


class AskFormat(Enum):
    """For people or for programs."""

    text = "text"
    json = "json"


class Reasoning(Enum):
    """What is done with the chain of thought of an answer."""

    show = "show"
    hide = "hide"


@dataclass
class AskOptions(FinishedRunOptions):
    """Which finished run `python -m medexp.ask` asks what, how its answers are drawn
    (`max_new_tokens` null: as many as the run was evaluated with), and how they are shown."""

    inside: ClassVar[str] = "ask."
    question: str | None = MISSING
    ui: bool = MISSING
    temperature: float = number(0, 2)
    top_p: float = number(high=1, above=0)
    max_new_tokens: int | None = number(1)
    seed: int = number(0, 2**32 - 1)
    reasoning: Reasoning = MISSING
    format: AskFormat = MISSING
    port: int | None = number(1, 65535)
    open: bool = MISSING


@dataclass
class AskConfig(RunConfig):
    """A finished run, and what it is asked. What it was made with is read from the run itself."""

    run: str | None = MISSING
    question: str | None = MISSING
    ui: bool = MISSING
    ask: AskOptions = MISSING


class ExportTo(Enum):
    """What `python -m medexp.export` makes of a finished run."""

    adapter = "adapter"
    merged = "merged"
    gguf = "gguf"
    ollama = "ollama"
    vllm = "vllm"
    registry = "registry"


class MergedDtype(Enum):
    """The format of merged weights."""

    bfloat16 = "bfloat16"
    float16 = "float16"


class GgufType(Enum):
    """The format of a GGUF's matrices. The first three are written here; the others by llama.cpp's
    quantiser.
    """

    f16 = "f16"
    bf16 = "bf16"
    q8_0 = "q8_0"
    q6_k = "q6_k"
    q5_k_m = "q5_k_m"
    q5_k_s = "q5_k_s"
    q4_k_m = "q4_k_m"
    q4_k_s = "q4_k_s"
    q3_k_l = "q3_k_l"
    q3_k_m = "q3_k_m"
    q3_k_s = "q3_k_s"
    q2_k = "q2_k"


@dataclass
class ExportOptions(FinishedRunOptions):
    """Which finished run is exported, as what, to where; and whether it goes to the Hub."""

    inside: ClassVar[str] = "export."
    to: ExportTo = MISSING
    overwrite: bool = MISSING
    push: bool = MISSING
    folder: str | None = MISSING
    dtype: MergedDtype = MISSING
    quantisation: GgufType = MISSING
    llama_cpp: str | None = MISSING
    name: str | None = MISSING
    alias: str = MISSING
    repo: str | None = MISSING
    private: bool = MISSING


@dataclass
class ExportConfig(RunConfig):
    """A run to export. What it was made with is read from the run itself."""

    run: str | None = MISSING
    to: ExportTo = MISSING
    overwrite: bool = MISSING
    push: bool = MISSING
    export: ExportOptions = MISSING
