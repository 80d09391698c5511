"""What examples/ shows runs, with the tiny model."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.commands import TinyRuns

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tiny_runs: TinyRuns) -> Path:
    """A folder with a copy of examples/, in which nothing of the repository is written to."""
    shutil.copytree(ROOT / "examples", tiny_runs.root / "examples")
    return tiny_runs.root


def run(checkout: Path, *words: str, **environment: str) -> str:
    """What the command printed; it must end with 0."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHON": sys.executable} | environment
    done = subprocess.run(
        words, cwd=checkout, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        check=False, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_quickstart_runs(tiny_runs: TinyRuns, checkout: Path) -> None:
    words = tiny_runs.overrides("training.max_steps=2", "evaluation.max_new_tokens=8")
    output = run(checkout, sys.executable, "examples/quickstart.py", *words)
    assert "the 8B on a 6 GB card: " in output
    assert "training.learning_rate: " in output


@pytest.mark.slow
def test_own_cases_are_audited_trained_on_and_asked(tiny_runs: TinyRuns, checkout: Path) -> None:
    words = tiny_runs.overrides("training.max_steps=2", "evaluation.max_new_tokens=8")
    output = run(checkout, "sh", "examples/own_cases/run.sh", *words)
    assert "held-out loss" in output


@pytest.mark.slow
def test_the_sweep_ends_with_a_comparison(tiny_runs: TinyRuns, checkout: Path) -> None:
    output = run(checkout, "sh", "examples/sweep/run.sh", *tiny_runs.overrides("sweep.n_trials=2"))
    assert "training.learning_rate" in output


@pytest.mark.slow
def test_the_notebook_s_cells_run_from_top_to_bottom(tiny_runs: TinyRuns, checkout: Path) -> None:
    notebook = json.loads((checkout / "examples/notebooks/first_run.ipynb").read_text("utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    script = checkout / "cells.py"
    script.write_text("\n\n".join(cells), encoding="utf-8")
    words = tiny_runs.overrides("training.max_steps=2", "evaluation.max_new_tokens=8")
    output = run(checkout, sys.executable, "cells.py", MEDEXP_EXAMPLE=" ".join(words))
    assert "GiB at its peak" in output
