"""Every verifier on models small enough for a test: what is supported ranks above what is not where
the verifier can know, and bad input is refused.
"""

import json
from types import SimpleNamespace

import pytest

from medexp.errors import ModelError
from medexp.evaluation.verifier import (
    ClassifierVerifier,
    EndpointVerifier,
    Item,
    JudgeVerifier,
    LikelihoodVerifier,
    RulesVerifier,
    find_support_label,
    judge_prompt,
    load_from_folder,
)

ITEMS = [
    Item("What helps?", "Aspirin 300 mg helps in 20 patients.", "Aspirin helps."),
    Item(
        "What helps?",
        "Aspirin 300 mg helps in 20 patients.",
        "Aspirin never significantly helps, due to enzymes.",
    ),
    Item("What is it?", "It is gout of the left toe. It started yesterday at night.", "Gout."),
]


@pytest.fixture(scope="module")
def libraries():
    import peft
    import transformers

    return SimpleNamespace(transformers=transformers, peft=peft)


def test_rules_rank_the_claim_beyond_its_evidence_lower(lexicon):
    support = RulesVerifier(lexicon).support(ITEMS)
    assert support[0] == support[2] == 0
    assert support[1] <= -2
    assert RulesVerifier(lexicon).support([]) == []


def test_rules_read_the_answer_and_not_the_reasoning(lexicon):
    item = Item("", "It is gout.", "Due to uric acid, significantly.</think>It is gout.")
    assert RulesVerifier(lexicon).support([item]) == [0]


def test_a_judge_gives_the_same_log_odds_whatever_else_is_asked(tiny_model, libraries):
    judges = [load_from_folder(tiny_model, libraries, size)[0] for size in (1, 3)]
    assert all(isinstance(judge, JudgeVerifier) for judge in judges)
    one, together = (judge.support(ITEMS) for judge in judges)
    assert one == pytest.approx(together, abs=0.05)
    assert len({round(value, 3) for value in together}) == 3
    assert judges[0].name == f"{tiny_model.name}, judge"


def test_a_judge_prefers_the_word_that_its_model_prefers(tiny_model, libraries):
    """The log-odds are those of the two words in the model's own logits, in the right direction."""
    import torch

    judge = load_from_folder(tiny_model, libraries, 1)[0]
    tokenizer, network = judge._tokenizer, judge._network
    ids = torch.tensor([tokenizer(judge_prompt(ITEMS[0]), add_special_tokens=False)["input_ids"]])
    logits = network(ids).logits[0, -1].detach().float()
    expected = torch.logsumexp(logits[judge._yes], 0) - torch.logsumexp(logits[judge._no], 0)
    assert judge.support(ITEMS[:1]) == pytest.approx([float(expected)], abs=0.05)
    assert not set(judge._yes) & set(judge._no)


def test_likelihood_is_the_gain_over_another_items_evidence(tiny_model, libraries):
    verifier = load_from_folder(tiny_model, libraries, 2)[1]
    assert isinstance(verifier, LikelihoodVerifier)
    gains = verifier.support(ITEMS)
    alone = [verifier.support([item])[0] for item in ITEMS]
    assert len(gains) == 3
    assert gains != pytest.approx(alone, abs=1e-4)
    swapped = [Item(item.question, other.evidence, item.answer)
               for item, other in zip(ITEMS[::2], ITEMS[::-2], strict=True)]  # fmt: skip
    there, back = verifier.support(ITEMS[::2]), verifier.support(swapped)
    assert there == pytest.approx([-value for value in back], abs=0.02)
    assert verifier.support([Item("", "e", ""), Item("", "f", "")]) == [0, 0]


def test_an_adapter_needs_its_base(tmp_path, libraries):
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "tiny"}')
    with pytest.raises(ModelError, match="its base model is not at tiny"):
        load_from_folder(tmp_path, libraries, 1)


def test_an_empty_folder_is_refused(tmp_path, libraries):
    with pytest.raises(ModelError, match="holds no checkpoint"):
        load_from_folder(tmp_path, libraries, 1)


def test_a_classifier_is_known_by_its_config(tmp_path, tiny_model, libraries):
    import torch

    torch.manual_seed(1)
    config = libraries.transformers.LlamaConfig.from_pretrained(
        tiny_model, num_labels=3, id2label={0: "CONTRADICTION", 1: "ENTAILMENT", 2: "NEUTRAL"}
    )
    network = libraries.transformers.LlamaForSequenceClassification(config)
    network.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny_model / name).read_bytes())
    (verifier,) = load_from_folder(tmp_path, libraries, 2)
    assert isinstance(verifier, ClassifierVerifier)
    support = verifier.support(ITEMS)
    with torch.no_grad():
        # Support now scores what contradiction did and the other way round.
        verifier._network.score.weight[:2] = verifier._network.score.weight[[1, 0]].clone()
    turned = verifier.support(ITEMS)
    assert len(support) == len(turned) == 3
    assert all(
        one * other < 0 or one + other < 0 for one, other in zip(support, turned, strict=True)
    )
    assert support != turned


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({0: "contradiction", 1: "entailment", 2: "neutral"}, 1),
        ({0: "SUPPORTED", 1: "UNSUPPORTED"}, 0),
        ({0: "not_entailment", 1: "entailment"}, 1),
        ({0: "hallucinated", 1: "consistent"}, 1),
    ],
)
def test_the_label_of_support_is_found_by_its_name(labels, expected):
    assert find_support_label(labels) == expected


def test_labels_without_names_are_refused():
    with pytest.raises(ModelError, match=r"LABEL_0, LABEL_1\) do not say"):
        find_support_label({0: "LABEL_0", 1: "LABEL_1"})


def _reply(content, log_probabilities=None):
    choice = {"message": {"content": content}, "logprobs": log_probabilities}
    return json.dumps({"choices": [choice]}).encode()


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (_reply("Yes"), 1),
        (_reply("no."), -1),
        (_reply("It depends"), 0),
        (
            _reply("No", {"content": [{"top_logprobs": [
                {"token": "Yes", "logprob": -0.1}, {"token": "No", "logprob": -2.1}]}]}), 2,
        ),
    ],
)  # fmt: skip
def test_an_endpoint_is_asked_and_its_probabilities_are_read(reply, expected):
    asked = []
    verifier = EndpointVerifier("m", "http://here", lambda *sent: asked.append(sent) or reply)
    assert verifier.support(ITEMS[:1]) == pytest.approx([expected], abs=1e-6)
    ((url, body),) = asked
    assert url == "http://here"
    assert ITEMS[0].evidence in json.loads(body)["messages"][0]["content"]


@pytest.mark.parametrize("reply", [b"<html>", b"{}", b'{"choices": []}'])
def test_an_endpoint_that_is_none_is_said(reply):
    with pytest.raises(ModelError, match="did not give a chat completion"):
        EndpointVerifier("m", "http://here", lambda *_: reply).support(ITEMS[:1])
