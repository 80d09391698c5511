"""The one place through which medexp looks up what a library does not promise: the name, the
versions it was run with, and what happens without it.

    # None where another version has no such name; SCRATCH.absence() says so in a sentence
    scratch = SCRATCH.of(kernels)
    # MachineError where it is missing and nothing can be done without
    storage = STORAGE.require(study)

A name that is there may still mean something else in another version: what computes gradients is
tried besides (medexp.models.patches.gradient_check), and a version that was not run is said at the
start of a run (`list_untested_libraries`).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Any

from medexp.errors import MachineError


@dataclass(frozen=True)
class Versions:
    """The versions of a library that medexp was run with, both ends included; digits that an end
    does not give are free.
    """

    first: str
    last: str

    def has(self, version: str) -> bool:
        """Was `version` run, or one between two that were?"""
        low, given, high = map(_parse_digits, (self.first, version, self.last))
        return low <= given and given[: len(high)] <= high

    def __str__(self) -> str:
        return self.first if self.first == self.last else f"{self.first} to {self.last}"


TESTED = {
    "bitsandbytes": Versions("0.50.2", "0.50"),
    "hydra-core": Versions("1.3.8", "1.3"),
    "mlflow": Versions("3.17", "3.17"),
    "optuna": Versions("5.0", "5.0"),
    "transformers": Versions("5.2", "5.17.0"),
    "unsloth": Versions("2026.10.6", "2026.10.9"),
    "unsloth_zoo": Versions("2026.10.6", "2026.10.9"),
}


@dataclass(frozen=True)
class PrivateName:
    """A name of `library`, written from where its owner is found; `without` says what happens where
    it is missing.
    """

    library: str
    name: str
    without: str

    @property
    def last(self) -> str:
        """The name as its owner has it."""
        return self.name.rpartition(".")[2]

    def of(self, owner: Any) -> Any:
        """What `owner` has by this name, None where it has nothing."""
        return getattr(owner, self.last, None)

    def require(self, owner: Any) -> Any:
        """What `owner` has by this name.

        Raises: MachineError where it has nothing: it cannot be done without.
        """
        if not hasattr(owner, self.last):
            raise MachineError(f"{self.absence()}; install {self.library} {TESTED[self.library]}")
        return getattr(owner, self.last)

    def absence(self) -> str:
        """A sentence for where it is missing."""
        have = f"{self.library} {find_installed_version(self.library) or '(not installed)'}"
        return (
            f"{have} has no {self.name}, which {self.library} {TESTED[self.library]} had:"
            f" {self.without}"
        )


@dataclass(frozen=True)
class Setting:
    """A variable of the environment that `library` reads in `file` as it is imported or called."""

    library: str
    name: str
    file: str
    without: str

    def absence(self) -> str:
        """A sentence for where it is not read there any more."""
        have = f"{self.library} {find_installed_version(self.library) or '(not installed)'}"
        return (
            f"{have} does not read {self.name} in {self.file} as {TESTED[self.library]} did:"
            f" {self.without}"
        )


_BY_CARD = (
    "it sizes the loss's memory by the whole card, and a plan may be off; the rehearsed step"
    " measures what it really takes"
)
SETTINGS = (
    Setting(
        "unsloth",
        "UNSLOTH_DISABLE_STATISTICS",
        "models/_utils.py",
        "it may report the machine to its makers",
    ),
    Setting(
        "unsloth_zoo",
        "UNSLOTH_FUSED_LINEAR_FLASH_MIN_ROWS",
        "fused_losses/fused_linear.py",
        _BY_CARD,
    ),
    Setting(
        "unsloth_zoo", "UNSLOTH_FUSED_LINEAR_BWD_TILE_MB", "fused_losses/fused_linear.py", _BY_CARD
    ),
    Setting(
        "unsloth_zoo",
        "UNSLOTH_COMPILE_LOCATION",
        "compiler.py",
        "it writes unsloth_compiled_cache into the current folder",
    ),
    Setting(
        "unsloth",
        "UNSLOTH_RMSNORM_SAVE_OUTPUT",
        "kernels/rms_layernorm.py",
        "a tiled MLP cannot train; set hardware.tile_mlp=false",
    ),
    Setting(
        "unsloth",
        "UNSLOTH_BLOCK_COMPILE",
        "models/_block_compile.py",
        "hardware.compile_layers has no effect",
    ),
)

_MLP = (
    "recomputed layers compute their last product, and steps take a few percent longer and more"
    " memory"
)
FUSED_MLP = PrivateName("unsloth", "kernels.fast_lora.apply_lora_mlp_swiglu", _MLP)
PROJECTION = PrivateName("unsloth", "kernels.fast_lora.get_lora_parameters_bias", _MLP)

_NO_FP8 = "products cannot be computed in FP8; set hardware.fp8=false"
FUSED_ATTENTION = PrivateName("unsloth", "kernels.fast_lora.apply_lora_qkv", _NO_FP8)
FUSED_OUTPUT = PrivateName("unsloth", "kernels.fast_lora.apply_lora_o", _NO_FP8)
LORA_PRODUCT = PrivateName("unsloth", "kernels.fast_lora.matmul_lora", _NO_FP8)
ATTENTION_SLOT = PrivateName("unsloth", "layer.self_attn.apply_qkv", _NO_FP8)
OUTPUT_SLOT = PrivateName("unsloth", "layer.self_attn.apply_o", _NO_FP8)

ATTENTION = PrivateName(
    "unsloth",
    "utils.attention_dispatch._run_attention",
    "attention goes back through all of its heads at once, and steps take more memory than planned",
)

_SCRATCH_STAYS = (
    "the weight that was dequantised last (up to 112 MiB of an 8B) stays on the card after an"
    " evaluation"
)
SCRATCH = PrivateName("unsloth", "kernels.utils._SCRATCH", _SCRATCH_STAYS)
NF4_PLAN = PrivateName("unsloth", "quant_state._unsloth_nf4_plan", _SCRATCH_STAYS)
KEPT_MARK = PrivateName(
    "unsloth",
    "layer._unsloth_skip_checkpoint",
    "what kept layers save stays on the card, and recomputed ones are computed whole",
)
STREAMER = PrivateName(
    "unsloth",
    "network._unsloth_block_swap",
    "layers cannot be streamed; set hardware.offload_layers=0",
)

REPACKS = PrivateName(
    "bitsandbytes",
    "nn.Linear4bit.support_avx512bf16_for_cpu",
    "NF4 weights may be repacked on a CPU, after which gradients are wrong",
)
CARDS_USED = PrivateName(
    "transformers",
    "TrainingArguments._n_gpu",
    "with two cards in sight the Trainer doubles the batch",
)

_NO_STUDY = "a sweep cannot keep its study"
STUDY_STORAGE = PrivateName("optuna", "study.Study._storage", _NO_STUDY)
STUDY_ID = PrivateName("optuna", "study.Study._study_id", _NO_STUDY)
TRIAL_ID = PrivateName("optuna", "trial.Trial._trial_id", _NO_STUDY)
STALE_TRIALS = PrivateName(
    "optuna",
    "storage._get_stale_trial_ids",
    "trials of a sweeper that died on another machine stay RUNNING",
)
CACHED_STORAGE = PrivateName(
    "optuna", "storage._backend", "connections to the study are closed when the process ends"
)
_OTHER_SAMPLER = (
    "its Gaussian process cannot learn from refused trials; set hydra/sweeper/sampler=tpe"
)
GP_LIMITS = PrivateName("optuna", "samplers.GPSampler._get_constraints_acqf_args", _OTHER_SAMPLER)
GP_OPTIMUM = PrivateName("optuna", "samplers.GPSampler._optimize_acqf", _OTHER_SAMPLER)
GP_SAMPLES = PrivateName("optuna", "samplers.GPSampler._n_preliminary_samples", _OTHER_SAMPLER)
GP_RANDOM = PrivateName("optuna", "samplers.GPSampler._rng", _OTHER_SAMPLER)
GP_CACHE = PrivateName("optuna", "samplers.GPSampler._constraints_gprs_cache_list", _OTHER_SAMPLER)

JOB_RETURN = PrivateName(
    "hydra-core",
    "core.utils.JobReturn._return_value",
    "a launcher's failure is told as 'no result came back'",
)
AS_TYPED = PrivateName(
    "hydra-core",
    "core.override_parser.types.Override._get_value_element_as_str",
    "a sweep's values cannot be read as they were typed",
)

VIEWS = PrivateName(
    "mlflow",
    "the experiment's tag mlflow.sharedViewState.*",
    "links show the page without medexp's columns and charts",
)


def is_untested(library: str) -> bool:
    """Is `library` installed in a version that medexp was never run with?"""
    version = find_installed_version(library)
    return version is not None and not TESTED[library].has(version)


def list_untested_libraries(libraries: Iterable[str]) -> Iterator[str]:
    """Yield a sentence for each of `libraries` that is installed in a version medexp was never run
    with: what of it is untested.
    """
    for library in libraries:
        if not is_untested(library):
            continue
        names = [private.name for private in NAMES if private.library == library]
        inside = (
            f"what medexp uses of its inside is untested there ({', '.join(names)})"
            if names
            else "it is untested there"
        )
        yield (
            f"{library} {find_installed_version(library)} is installed; medexp was run with"
            f" {TESTED[library]}, and {inside}"
        )


@cache
def find_installed_version(library: str) -> str | None:
    """The version of `library` that is installed, None where it is not."""
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


def _parse_digits(version: str) -> tuple[int, ...]:
    """The numbers that `version` begins with: 5.0.0rc1 is (5, 0, 0)."""
    found: list[int] = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        found.append(int(digits))
        if digits != part:
            break
    return tuple(found)


NAMES = tuple(value for value in list(globals().values()) if isinstance(value, PrivateName))
