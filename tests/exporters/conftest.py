"""Small bases of any family with adapters that PEFT made, for what an export does with
weights.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from medexp.config.families.sizes import PROJECTIONS, name_targets
from medexp.config.schema import Family
from medexp.exporters.base_checkpoint import BaseCheckpoint
from medexp.exporters.merge import MergedWeights
from medexp.models import backend

SIDES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@dataclass(frozen=True)
class Pair:
    """A base and an adapter on the disk, and both as PEFT has them in memory."""

    base: Path
    adapter: Path
    network: Any

    def merged(self) -> MergedWeights:
        """What the export makes of them."""
        return MergedWeights(BaseCheckpoint(self.base, backend.load_bitsandbytes), self.adapter)

    def by_peft(self) -> dict[str, Any]:
        """What merge_and_unload makes of them."""
        return dict(self.network.merge_and_unload().state_dict())


def _randomised(network: Any) -> None:
    """LoRA's B begins at zero and a bias too: nothing would be seen of them."""
    import torch

    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.requires_grad and ("lora_B" in name or name.endswith(".bias")):
                parameter.normal_(std=0.05)
            elif "magnitude" in name:
                parameter.mul_(torch.rand_like(parameter) + 0.5)


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Pair]:
    """pair(family, dtype="float32", nf4=False, config={}, **lora): a Pair."""

    def made(
        family: str,
        dtype: str = "float32",
        nf4: bool = False,
        config: dict[str, Any] | None = None,
        **lora: Any,
    ) -> Pair:
        import torch
        import transformers
        from peft import LoraConfig, get_peft_model

        folder = tmp_path_factory.mktemp(family)
        torch.manual_seed(0)
        small = {"vocab_size": 300, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}
        made_config = transformers.AutoConfig.for_model(
            family, **{**small, **SIDES, **(config or {})}
        )
        network = transformers.AutoModelForCausalLM.from_config(made_config)
        network = network.to(getattr(torch, dtype))
        _randomised(network)
        network.save_pretrained(folder / "base")
        if nf4:
            network = _as_nf4(folder / "base", folder / "nf4")
        targets = name_targets(Family(family), lora.pop("target_modules", PROJECTIONS))
        tuned = get_peft_model(
            network,
            LoraConfig(**{"r": 4, "target_modules": targets, "task_type": "CAUSAL_LM", **lora}),
        )
        _randomised(tuned)
        tuned.save_pretrained(folder / "adapter")
        return Pair(folder / ("nf4" if nf4 else "base"), folder / "adapter", tuned)

    return made


def _as_nf4(plain: Path, folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    network = AutoModelForCausalLM.from_pretrained(
        plain, quantization_config=settings, device_map={"": "cpu"}, dtype=torch.bfloat16
    )
    network.save_pretrained(folder)
    return network
