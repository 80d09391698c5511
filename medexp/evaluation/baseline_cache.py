"""What the base answers and loses on held-out cases, kept for the next run that would ask it the
very same: a sweep's trials, another rank, another recipe. Asking it again takes as long as asking
the tuned model, and says nothing new.

Kept beside the runs (`tracking.root`/base), under a digest of all that decides it: the weights,
their precision, the engine and its versions, the card, the tokens of every prompt and case. What
only changes rounding (where layers lie) does not count.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from medexp.config.schema import Device, RunConfig
from medexp.data.encoding import EncodedCase
from medexp.data.preparation import Prepared
from medexp.evaluation.record import CaseLoss
from medexp.models.base_identity import compute_config_digest, compute_weights_digest
from medexp.models.weights import Weights
from medexp.system import machine
from medexp.system.files import write_json_atomic

# raised when answers or losses are made in another way; 1 had the trained biases of lora.bias in
# the base
VERSION = 2
PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "unsloth", "unsloth_zoo")


@dataclass(frozen=True)
class BaselineCache:
    """`answers` is a JSONL file that grows as they come; losses lie whole in a file of their own."""

    answers: Path
    _losses: Path

    def load_losses(self) -> list[CaseLoss] | None:
        """The base's held-out losses, where they were measured before and can be read."""
        try:
            return [
                CaseLoss(**each) for each in json.loads(self._losses.read_text(encoding="utf-8"))
            ]
        except (OSError, ValueError, TypeError):
            return None

    def store_losses(self, losses: Sequence[CaseLoss]) -> None:
        """Keep the base's held-out losses."""
        write_json_atomic(self._losses, [asdict(each) for each in losses])


def open_baseline_cache(run: RunConfig, weights: Weights, ready: Prepared) -> BaselineCache | None:
    """Where the base of `run` is known, or will be, on the cases of `ready`; None with
    `evaluation.reuse_base=false`.
    """
    if not run.evaluation.reuse_base:
        return None
    folder, base = Path(run.tracking.root or ".") / "base", _describe_base(run, weights)
    folder.mkdir(parents=True, exist_ok=True)
    asked = [*ready.prompts], run.evaluation.max_new_tokens
    return BaselineCache(
        folder / f"answers-{_digest(base, asked)}.jsonl",
        folder
        / f"losses-{_digest(base, run.prompt.completion, _case_tokens(ready.held_out.encoded))}.json",
    )


def _describe_base(run: RunConfig, weights: Weights) -> list[object]:
    """All that makes the base say what it says."""
    hardware, on_card = run.hardware, run.hardware.device is Device.cuda
    return [
        VERSION,
        weights.commit or _describe_checkpoint(Path(weights.location)),
        run.model.quantisation.value,
        hardware.engine.value,
        hardware.dtype.value,
        machine.read().gpus[0].name if on_card else hardware.device.value,
        run.evaluation.batch_size,  # it decides how answers are rounded in 16 bits
        {name: _version(name) for name in PACKAGES},
    ]


def _case_tokens(cases: Sequence[EncodedCase]) -> list[object]:
    return [[case.input_ids, case.labels] for case in cases]


def _describe_checkpoint(folder: Path) -> list[object]:
    """What a local checkpoint is, wherever it lies: what it holds, and that no file of it was
    written since, because the digest of the weights is of parts of them."""
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
