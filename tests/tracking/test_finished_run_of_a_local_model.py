"""A run of weights of one's own (model=local), used again by every command; and what it leaves
names neither user nor machine.
"""

import re
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import command
from omegaconf import OmegaConf

from medexp.config.resolve import resolve
from medexp.system import machine
from medexp.tracking.finished_run import FinishedRun, recompose_from_run

USER = "dr_ann_example"
QUICK = ["hardware=cpu", "debug=fast", "evaluation.answers=1", "tracking.system_metrics=false"]


@dataclass(frozen=True)
class Kept:
    """A user's home with the base model and a project in it, after `said` was printed there."""

    home: Path
    said: str

    def command(self, *words: str, user: str = USER) -> tuple[int, str]:
        """`python -m words...` in the project."""
        home = self.home.parent / user
        return command(
            "-m",
            *words,
            cwd=home / "project",
            HOME=str(home),
            USER=user,
            LOGNAME=user,
            COLUMNS="200",
        )


@pytest.fixture(scope="module")
def kept(
    tmp_path_factory: pytest.TempPathFactory, whole_vocabulary_model: Path, empty_store: Path
) -> Kept:
    home = tmp_path_factory.mktemp("homes") / USER
    (home / "project" / "runs").mkdir(parents=True)
    shutil.copytree(whole_vocabulary_model, home / "base")
    shutil.copy(empty_store, home / "project" / "runs" / "mlflow.db")
    cases = Path(__file__).parents[2] / "medexp" / "data" / "clinical_cases.jsonl"
    shutil.copy(cases, home / "project" / "cases.jsonl")
    words = [
        "model=local",
        f"model.path={home}/base",
        "model.quantisation=none",
        "dataset.path=cases.jsonl",
        "tracking.root=runs",
    ]
    status, said = Kept(home, "").command("medexp.train", *words, *QUICK)
    assert status == 0, said
    return Kept(home, said)


def test_the_command_that_train_prints_works_as_it_is(kept: Kept) -> None:
    (line,) = re.findall(r"Ask it: python -m (.*)", kept.said)
    status, said = kept.command(*shlex.split(line))
    assert status == 0, said
    assert "tokens in" in said


def test_no_file_of_a_run_or_of_an_export_names_user_or_machine(kept: Kept) -> None:
    for to in ("adapter", "merged", "ollama"):
        words = ["run=last", "tracking.root=runs", f"to={to}", f"export.folder=exported/{to}"]
        status, said = kept.command("medexp.export", *words)
        assert status == 0, said
    status, said = kept.command(
        "medexp.evaluate", "run=last", "tracking.root=runs", "evaluation.answers=0"
    )
    assert status == 0, said
    project = kept.home / "project"
    files = [
        each
        for folder in ("runs/artifacts", "outputs", "exported")
        for each in (project / folder).rglob("*")
        if each.is_file()
    ]
    # Hydra's own, of the command and not of the run
    files = [each for each in files if each.parent.name != ".hydra"]
    assert {
        "run.yaml",
        "README.md",
        "adapter_config.json",
        "report.html",
        "composed.yaml",
        "overrides.txt",
        "Modelfile",
    } <= {each.name for each in files}
    told = {USER, str(kept.home.parent), sys.prefix, str(Path(__file__).parents[2])}
    found = [
        (each.relative_to(project), one)
        for each in files
        for one in told
        if one.encode() in each.read_bytes()
    ]
    assert not found


def test_the_adapter_answers_in_another_home_with_the_base_in_another_place(kept: Kept) -> None:
    other = kept.home.with_name("another")
    (other / "project").mkdir(parents=True)
    (adapter,) = kept.home.glob("project/outputs/*/*/adapter")
    shutil.copytree(adapter, other / "project" / "adapter")
    shutil.copytree(kept.home / "base", other / "weights")
    status, said = kept.command(
        "medexp.ask", "run=adapter", f"model.path={other}/weights", "question=What?", user="another"
    )
    assert status == 0, said
    assert "tokens in" in said


def test_a_run_of_an_older_medexp_that_kept_no_shape_gets_it_from_its_weights(
    compose: Callable[..., Any], tmp_path: Path, tiny_model: Path
) -> None:
    old = compose("model=local", f"model.path={tiny_model}", "model.quantisation=none", "lora.r=4")
    (tmp_path / "run.yaml").write_text(OmegaConf.to_yaml(old, resolve=True))
    assert "shape: ???" in (tmp_path / "run.yaml").read_text()
    made = recompose_from_run(
        compose(), FinishedRun("old", None, tmp_path / "run.yaml", None, None), []
    )
    run = resolve(made, machine.read(), tmp_path, {})
    assert (run.model.shape.layers, run.lora.r) == (2, 4)
