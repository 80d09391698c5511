"""A small model of text and images, around a decoder."""

from typing import Any


def make_seeing_network(decoder: Any) -> Any:
    """A model of text and images around `decoder`."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, SiglipVisionConfig

    vision = SiglipVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        image_size=28, patch_size=14,
    )  # fmt: skip
    config = Gemma3Config(
        text_config=decoder.config, vision_config=vision, mm_tokens_per_image=4,
        image_token_index=5, boi_token_index=6, eoi_token_index=7,
    )  # fmt: skip
    network = Gemma3ForConditionalGeneration(config)
    network.model.language_model.load_state_dict(decoder.model.state_dict())
    return network
