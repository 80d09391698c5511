"""Whole runs with prompt=chat on files of the kinds that other tools write."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.chats import (
    OPENAI,
    SHAREGPT,
    SYSTEM,
    write_alpaca,
    write_chat,
    write_think_in_answer,
)
from helpers.commands import TinyRuns, command

from medexp.config.schema import RunConfig
from medexp.errors import RunError, RunInterrupted
from medexp.training.callbacks import StepRecorder
from medexp.training.context import TrainResult

OF_FILE = ["dataset=local", "dataset.held_out=2", "dataset.validation=0", "dataset.max_cases=null"]
COLUMNS = ["dataset.columns.question=question", "dataset.columns.answer=answer"]
# How a file is written, what else is said on the command line, and whether its answers reason.
FILES: dict[str, tuple[Callable[[Path], Path], list[str], bool]] = {
    "sharegpt.json": (lambda file: write_chat(file, SHAREGPT, True), [], True),
    "messages.jsonl": (
        lambda file: write_chat(file, OPENAI, True),
        ["dataset.turns=all"],
        True,
    ),
    "plain.jsonl": (lambda file: write_chat(file, OPENAI, False), ["dataset.turns=all"], False),
    "alpaca.json": (write_alpaca, [], False),
    "think_in_answer.csv": (write_think_in_answer, COLUMNS, True),
}


def overrides(name: str, folder: Path) -> list[str]:
    """The command line of a run on the file `name`, which is written to `folder`."""
    write, more, _ = FILES[name]
    return [*OF_FILE, f"dataset.path={write(folder / name)}", "prompt=chat", *more]


def stored(tiny_runs: TinyRuns, result: TrainResult, name: str) -> Any:
    folder = Path(tiny_runs.client().download_artifacts(result.run_id, ""))
    return json.loads((folder / name).read_text())


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_chat_trains(name: str, tiny_runs: TinyRuns, tmp_path: Path) -> None:
    result = tiny_runs.train(*overrides(name, tmp_path))
    assert result.outcome.loss_after < result.outcome.loss_before
    audit = stored(tiny_runs, result, "data/audit.json")
    assert ("reasoning" in audit["label_tokens"]) == FILES[name][2]
    assert audit["label_tokens"]["EOS"] > 0
    assert "asks for it" not in str(audit["broken_rules"])
    record = stored(tiny_runs, result, "evaluation/record.json")
    assert not record["reasons"]
    if name == "plain.jsonl":
        assert audit["joined_turns"] == audit["train"]["kept"] > 0
        # Both answers of every text, and what ends them.
        assert audit["label_tokens"]["EOS"] == 2 * audit["train"]["kept"]
    if name != "think_in_answer.csv":
        said = "Answer as a physician." if name == "alpaca.json" else SYSTEM
        assert record["cases"][0]["turns"][0] == ["system", said]


def test_another_chat_template_does_not_continue_a_run(
    tiny_runs: TinyRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*overrides("alpaca.json", tmp_path), "training.max_steps=3"]

    def stop(_: StepRecorder, step: int, __: dict[str, float]) -> None:
        raise RunInterrupted("stopped", 2)

    with monkeypatch.context() as patched:
        patched.setattr(StepRecorder, "on_step_end", stop)
        with pytest.raises(RunInterrupted):
            tiny_runs.train(*words)
    template = tiny_runs.model / "chat_template.jinja"
    own = template.read_text()
    try:
        template.write_text(own.replace("named SmolLM", "named otherwise"))
        with pytest.raises(RunError, match="chat template is another than when this run was begun"):
            tiny_runs.train(*words)
    finally:
        template.write_text(own)
    assert tiny_runs.train(*words).outcome.steps == 3


def test_a_model_without_a_chat_template_is_refused_at_once(
    tiny_runs: TinyRuns, tmp_path: Path
) -> None:
    words = overrides("alpaca.json", tmp_path)
    template = tiny_runs.model / "chat_template.jinja"
    own = template.read_text()
    try:
        template.unlink()
        status, output = command("-m", "medexp.train", *tiny_runs.overrides(*words), cwd=tmp_path)
    finally:
        template.write_text(own)
    assert status == 2
    assert "prompt=chat needs a chat template and the tokenizer of model has none" in output
    assert "prompt=direct" in output
    assert "loading the training stack" not in output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["prompt=chat", "prompt.question='Q: {question}'"], "goes with prompt.form=text alone"),
        (["prompt=chat", "prompt.completion='{answer}'"], "has no {reasoning}"),
        (["prompt=direct", "prompt.system=x", "dataset.overlong=drop"], "has no place for it"),
    ],
)
def test_what_does_not_go_with_a_chat_template_is_refused(
    problems: Callable[..., tuple[str, ...]], words: list[str], said: str
) -> None:
    assert any(said in problem for problem in problems(*words))


def test_a_text_prompt_is_what_it_was(resolved: Callable[..., RunConfig]) -> None:
    prompt = resolved("prompt=clinical").prompt
    assert (prompt.form.value, prompt.system) == ("text", None)
