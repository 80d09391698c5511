"""Prompt presets by name, the shipped ones and a project's own."""

from pathlib import Path

import hydra
import pytest

from medexp.config.prompt_presets import load_prompt_presets
from medexp.config.registration import register_with_hydra
from medexp.config.shipped import find_conf_dir

SHIPPED = {"chat", "clinical", "clinical_sections", "direct", "r1_reasoning"}


def found() -> dict[str, str]:
    register_with_hydra()
    with hydra.initialize_config_dir(str(find_conf_dir()), version_base="1.3"):
        return {name: prompt.question for name, prompt in load_prompt_presets().items()}


def test_every_shipped_preset_is_there_with_its_question() -> None:
    assert set(found()) == SHIPPED
    assert found()["direct"].startswith("### Task:\nYou are a physician.")


def test_a_projects_own_is_there_too_unless_it_asks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "conf" / "prompt"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(
        'name: mine\nquestion: "Q: {question}"\ncompletion: "{answer}"\n'
    )
    (folder / "empty.yaml").write_text('name: empty\nquestion: "Q:"\ncompletion: "{answer}"\n')
    monkeypatch.chdir(tmp_path)
    assert set(found()) == SHIPPED | {"mine"}
    assert found()["mine"] == "Q: {question}"
