"""Answers come in order and are kept as they come; the base answers as without an adapter."""

import json
from pathlib import Path

import pytest
import torch
from helpers.commands import TinyRuns

from medexp.evaluation.generation import Answer, generate_answers, limit_batch_size, read_answers
from medexp.evaluation.generation import _append_answer as keep
from medexp.models import backend, weights
from medexp.models import loading as model_loading
from medexp.models.adapter_model import AdapterModel
from medexp.models.tokenizer import load_tokenizer
from medexp.system import machine

PROMPTS = [[1, *range(100, 100 + length)] for length in (9, 3, 6)]


@pytest.fixture
def tuned(tiny_runs: TinyRuns) -> AdapterModel:
    run = tiny_runs.run("hardware.dtype=float32")
    modules = backend.load_backend(run.hardware, machine.cache_dir())
    found = weights.find_weights(run.model)
    return model_loading.load_model(run, found, load_tokenizer(found, modules), modules)


def made(
    tuned: AdapterModel, answers_file: Path, batch_size: int = 2, base: bool = False
) -> list[Answer]:
    return generate_answers(
        tuned,
        PROMPTS,
        8,
        limit_batch_size(batch_size),
        answers_file=answers_file,
        base=base,
        advance=lambda _: None,
    )


def test_a_batch_answers_as_one_by_one(tuned: AdapterModel, tmp_path: Path) -> None:
    together, alone = made(tuned, tmp_path / "3", 3), made(tuned, tmp_path / "1", 1)
    assert together == alone
    assert [each.case for each in together] == [0, 1, 2]


def test_an_answer_is_greedy(tuned: AdapterModel, tmp_path: Path) -> None:
    ids = list(PROMPTS[0])
    for _ in range(8):
        with torch.no_grad():
            ids.append(int(tuned.network(torch.tensor([ids])).logits[0, -1].argmax()))
    expected = tuned.tokenizer.decode(ids[len(PROMPTS[0]) :], skip_special_tokens=True).strip()
    assert made(tuned, tmp_path / "kept")[0].text == expected


def test_the_base_does_not_see_the_adapter(tuned: AdapterModel, tmp_path: Path) -> None:
    before = made(tuned, tmp_path / "before", base=True)
    for name, parameter in tuned.network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    assert made(tuned, tmp_path / "base", base=True) == before
    assert made(tuned, tmp_path / "tuned") != before


def test_kept_answers_are_not_made_again_and_a_torn_line_is(
    tuned: AdapterModel, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    whole = made(tuned, kept)
    first = kept.read_text().splitlines()[0]
    known = json.loads(first) | {"text": "from the file"}
    kept.write_text(json.dumps(known) + "\n" + first[:20])
    again = made(tuned, kept)
    assert again[known["case"]].text == "from the file"
    assert [each for each in again if each.case != known["case"]] == [
        each for each in whole if each.case != known["case"]
    ]


def test_an_answer_after_one_cut_inside_a_character_has_a_line_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    whole, cut = (
        Answer(0, "a\u2028line, a \u0085page", 3, True),
        Answer(1, "23 \N{DEGREE SIGN}C", 3, True),
    )
    keep(whole, file)
    keep(cut, file)
    written = file.read_bytes()
    file.write_bytes(written[: written.index("\N{DEGREE SIGN}".encode()) + 1])
    assert read_answers(file) == {0: whole}
    keep(cut, file)
    assert read_answers(file) == {0: whole, 1: cut}
