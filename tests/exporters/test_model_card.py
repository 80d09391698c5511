"""The model card: front matter that the Hub takes, and what a reader must know."""

from collections.abc import Callable

import pytest
from huggingface_hub import ModelCard

from medexp.config.schema import RunConfig
from medexp.exporters import model_card

MEASURES = [
    ("held-out loss, all", "4.05 -> 3.32", "improved", "-0.73 [-0.78, -0.68], p 3e-05, n 16")
]


def _card(run: RunConfig, kind: str) -> ModelCard:
    files = {
        "adapter": {"adapter": "a"},
        "merged": {"merged": "m"},
        "gguf": {"gguf": "x.gguf", "Modelfile": "Modelfile"},
    }[kind]
    facts = model_card.CardFacts(
        kind,
        "A thing",
        "mine",
        "1dcdb309",
        MEASURES,
        model_card.render_usage("mine", files, serves=True),
    )
    return ModelCard(model_card.render_card(run, facts))


@pytest.mark.parametrize(
    ("kind", "relation", "library"),
    [
        ("adapter", "adapter", "peft"),
        ("merged", "finetune", "transformers"),
        ("gguf", "quantized", "gguf"),
    ],
)
def test_the_front_matter_is_the_hub_s(
    resolved: Callable[..., RunConfig], kind: str, relation: str, library: str
) -> None:
    found = _card(resolved("hardware=rtx4050_6gb"), kind).data
    assert (found["base_model_relation"], found["library_name"]) == (relation, library)
    assert found["base_model"] == "unsloth/DeepSeek-R1-Distill-Llama-8B-bnb-4bit"
    assert found["datasets"] == ["FreedomIntelligence/medical-o1-reasoning-SFT"]
    assert (found["license"], found["license_name"]) == ("other", "see-licences-below")
    assert "not-for-clinical-use" in found["tags"]


def test_a_licence_that_the_hub_knows_is_its_word(resolved: Callable[..., RunConfig]) -> None:
    assert _card(resolved("model=llama_3_2_3b"), "adapter").data["license"] == "llama3.2"
    assert _card(resolved(), "adapter").data["license"] == "apache-2.0"


def test_a_reader_finds_prompt_measures_data_limits_and_licences(
    resolved: Callable[..., RunConfig],
) -> None:
    run = resolved(
        "dataset=medical_o1_structured", "hardware=rtx4050_6gb", "lora.rank_stabilised=true"
    )
    text = _card(run, "merged").text
    assert run.prompt.question.rstrip() in text
    assert (
        "| held-out loss, all | 4.05 -> 3.32 | improved | -0.73 [-0.78, -0.68], p 3e-05, n 16 |"
        in text
    )
    assert (
        "| medical_o1 | FreedomIntelligence/medical-o1-reasoning-SFT, weight 0.9 | Apache-2.0 |"
        in text
    )
    assert "| clinical_cases | shipped with medexp, weight 0.1 | Apache-2.0 |" in text
    assert "LoRA, rank 16, alpha 16, rank-stabilised" in text
    assert "MIT, and the Llama 3.1 Community License" in text
    assert "Not for clinical use" in text
    assert "dequantised from NF4" in text
    assert "No measures are stored" in model_card.render_card(
        run, model_card.CardFacts("adapter", "A thing", "mine", None, [], "")
    )


def test_the_three_lines_and_the_harm_lead_what_changed(resolved: Callable[..., RunConfig]) -> None:
    leading = [("FORM", "four sections 0 -> 1"), ("MEDICINE", "not measured"), ("HARM", "worse")]
    facts = model_card.CardFacts(
        "adapter", "A thing", "mine", None, MEASURES, "", leading, ["new: COPD? -> no oxygen"]
    )
    text = model_card.render_card(resolved(), facts)
    changed = text[text.index("## What changed") :]
    places = [
        changed.index(words) for words in ("FORM", "MEDICINE", "HARM", "no oxygen", "held-out loss")
    ]
    assert places == sorted(places)


def test_how_to_use_it_fits_the_kind(resolved: Callable[..., RunConfig]) -> None:
    run = resolved()
    assert "AutoPeftModelForCausalLM" in _card(run, "adapter").text
    assert (
        "from transformers import AutoModelForCausalLM, AutoTokenizer" in _card(run, "merged").text
    )
    assert "ollama create mine -f Modelfile" in _card(run, "gguf").text
    assert "serve.sh" not in model_card.render_usage("mine", {"adapter": "a"}, serves=False)
