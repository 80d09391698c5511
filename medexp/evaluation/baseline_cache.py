"""What the base answers and loses on held-out cases, kept for the next run that would ask it the
very same: a sweep's trials, another rank, another recipe. Asking it again takes as long as asking
the tuned model, and says nothing new.

Kept beside the runs (`tracking.root`/base), under a digest of all that decides it: the weights,
their precision, the engine and its versions, the card, the tokens of every prompt and case. What
only changes rounding (where layers lie) does not count.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from pathlib import Path

from medexp.config.schema import Device, RunConfig
from medexp.data.encoding import EncodedCase
from medexp.data.preparation import Prepared
from medexp.data.prompts import ChatPrompt
from medexp.evaluation.base_prompt import INSTRUCTION
from medexp.evaluation.generation import Sampling
from medexp.evaluation.measures.forced_choice import Likelihoods
from medexp.evaluation.record import CaseLoss
from medexp.models.base_identity import compute_config_digest, compute_weights_digest
from medexp.models.weights import Weights
from medexp.system import machine
from medexp.system.files import write_json_atomic

# Raised when answers or losses are made in another way: version 1 had the trained biases of
# lora.bias in the base.
VERSION = 2
# Raised when rivals are drawn, or corruptions made, in another way.
LIKELIHOOD_VERSION = 2
PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "unsloth", "unsloth_zoo")


@dataclass(frozen=True)
class BaselineCache:
    """The files of one base: those of answers are JSONL and grow as they come, losses and
    likelihoods are written whole. `answers_file(prompts, sampling)` says where the answers to
    prompts (token ids) are kept, greedy ones without `sampling`.
    """

    answers_file: Callable[..., Path]
    _losses: Path
    _likelihoods: Mapping[str, Path]

    def load_losses(self) -> list[CaseLoss] | None:
        """Return the base's held-out losses; None where they were not measured, or not readable."""
        try:
            losses = json.loads(self._losses.read_text(encoding="utf-8"))
            return [CaseLoss(**loss) for loss in losses]
        except (OSError, ValueError, TypeError):
            return None

    def store_losses(self, losses: Sequence[CaseLoss]) -> None:
        """Write the base's held-out losses, for the next run to find."""
        write_json_atomic(self._losses, [asdict(loss) for loss in losses])

    def load_likelihoods(self, arm: str) -> Likelihoods | None:
        """Return what the base finds likely when asked as in `arm` (base or base_best); None where
        that was not measured, or not readable.
        """
        try:
            stored = json.loads(self._likelihoods[arm].read_text(encoding="utf-8"))
            return Likelihoods.from_json(stored)
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def store_likelihoods(self, arm: str, likelihoods: Likelihoods) -> None:
        """Write what the base finds likely, for the next run to find."""
        write_json_atomic(self._likelihoods[arm], asdict(likelihoods))


def open_baseline_cache(
    config: RunConfig, weights: Weights, prepared: Prepared
) -> BaselineCache | None:
    """Return where what the base of `config` answers and loses on the cases of `prepared` is kept,
    or will be; None with `evaluation.reuse_base=false`.
    """
    if not config.evaluation.reuse_base:
        return None
    folder = Path(config.tracking.root or ".") / "base"
    folder.mkdir(parents=True, exist_ok=True)
    base = _describe_base(config, weights)
    # The same tokens may be asked of another template, which ends an answer by another token.
    if isinstance(config.prompt, ChatPrompt):
        base.append(config.prompt.template.digest)
    cases = _case_tokens(prepared.held_out.encoded)
    losses = _digest(base, config.prompt.completion, cases)
    asked = [[case.digest, dict(case.extra)] for case in prepared.held_out.cases]
    seed = config.dataset.split_seed
    likelihoods = _digest(base, config.prompt.question, losses, asked, seed, LIKELIHOOD_VERSION)
    return BaselineCache(
        partial(_answers_file, folder, base, config.evaluation.max_new_tokens),
        folder / f"losses-{losses}.json",
        {
            "base": folder / f"likelihoods-{likelihoods}.json",
            # How it is asked is a rule of base_prompt, and no setting.
            "base_best": folder / f"likelihoods-{_digest(likelihoods, INSTRUCTION)}.json",
        },
    )


def _answers_file(
    folder: Path,
    base: Sequence[object],
    max_new_tokens: int,
    prompts: Sequence[list[int]],
    sampling: Sampling | None = None,
) -> Path:
    """Return the file of the base's answers to `prompts`; greedy ones lie where they always did."""
    drawn = [asdict(sampling)] if sampling is not None else []
    return folder / f"answers-{_digest(base, ([*prompts], max_new_tokens, *drawn))}.jsonl"


def _describe_base(config: RunConfig, weights: Weights) -> list[object]:
    """Return all that decides what the base answers and loses."""
    hardware, on_card = config.hardware, config.hardware.device is Device.cuda
    return [
        VERSION,
        weights.commit or _describe_checkpoint(Path(weights.location)),
        config.model.quantisation.value,
        hardware.engine.value,
        hardware.dtype.value,
        machine.read().gpus[0].name if on_card else hardware.device.value,
        # It decides how answers are rounded in 16 bits.
        config.evaluation.batch_size,
        {name: _version(name) for name in PACKAGES},
    ]


def _case_tokens(cases: Sequence[EncodedCase]) -> list[object]:
    return [[case.input_ids, case.labels] for case in cases]


def _describe_checkpoint(folder: Path) -> list[object]:
    """Return what a local checkpoint is, wherever it lies: what it holds, and when its files were
    written, because the digest of the weights is of parts of them.
    """
    files = sorted(file for file in folder.iterdir() if file.is_file())
    written = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return [compute_weights_digest(folder), compute_config_digest(folder), *written]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _digest(*facts: object) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
