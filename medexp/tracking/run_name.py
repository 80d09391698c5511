"""What a run is called in a list: the values that tell it from its neighbours, in a few words (`r16
lr2e-4 seq1024`).
"""

import re
from collections.abc import Mapping, Sequence

from medexp.config.schema import RunConfig

_SHORT = {
    "lora.r": "r",
    "lora.alpha": "alpha",
    "training.learning_rate": "lr",
    "training.max_seq_tokens": "seq",
    "training.seed": "seed",
    "training.loraplus_lr_ratio": "loraplus",
    "training.neftune_noise_alpha": "neftune",
}
_ALWAYS = ("lora.r", "training.learning_rate", "training.max_seq_tokens")
_TELLING = re.compile(
    r"\+{0,2}(?P<key>lora|lora\.\w+|training\.\w+|dataset|prompt|experiment)=(?P<value>.+)"
)
_UNTELLING = ("training.save_steps", "training.resume", "lora.start_from", "experiment=from_run")
LONGEST = 80


def make_run_name(config: RunConfig, overrides: Sequence[str] = ()) -> str:
    """Return rank, learning rate and length of `config`, then whatever else of its recipe the
    command line has named."""
    values = (config.lora.r, config.training.learning_rate, config.training.max_seq_tokens)
    named = [abbreviate_params({key: value}) for key, value in zip(_ALWAYS, values, strict=True)]
    return _clip(" ".join([*named, *_list_other_overrides(overrides)]))


def abbreviate_params(params: Mapping[str, object]) -> str:
    """Return `params` (dotted key -> value) in a few words: `{"lora.r": 8,
    "training.learning_rate": 2e-4}` is `r8 lr2e-4`."""
    return " ".join(_abbreviate(key, value) for key, value in params.items())


def format_rate(value: float) -> str:
    """Return a learning rate as it is written by hand: 0.0002 is 2e-4."""
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def _abbreviate(key: str, value: object) -> str:
    last = key.rpartition(".")[2]
    if key == "training.learning_rate":
        return f"lr{format_rate(float(str(value)))}"
    shown = f"{value:.3g}" if isinstance(value, float) else str(value)
    return f"{_SHORT[key]}{shown}" if key in _SHORT else f"{last}={shown}"


def _list_other_overrides(overrides: Sequence[str]) -> list[str]:
    found = []
    for override in overrides:
        told = _TELLING.fullmatch(override)
        if told is None or told["key"] in (*_ALWAYS, *_UNTELLING) or override in _UNTELLING:
            continue
        # Of two keys that exclude each other it is the one that is not meant.
        if told["value"] == "null":
            continue
        found.append(
            _abbreviate(told["key"], told["value"]) if "." in told["key"] else told["value"]
        )
    return found


def _clip(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1].rstrip() + "…"
