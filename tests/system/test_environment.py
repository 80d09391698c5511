"""What libraries read of the environment is set before they are imported, in every process."""

import json
from pathlib import Path

import pytest
from helpers.commands import command

from medexp.system import environment

SHOW = "import sys, os, json; import medexp; print(json.dumps([dict(os.environ), [*sys.modules]]))"
LIBRARIES = {
    "torch",
    "numpy",
    "transformers",
    "huggingface_hub",
    "mlflow",
    "datasets",
    "gradio",
    "hydra",
}


def test_usage_reports_are_off_before_anything_is_imported_whatever_the_user_has_set(
    tmp_path: Path,
) -> None:
    opted_in = {
        "DO_NOT_TRACK": "0",
        "HF_HUB_DISABLE_TELEMETRY": "0",
        "MLFLOW_DISABLE_TELEMETRY": "false",
    }
    status, output = command("-c", SHOW, cwd=tmp_path, **opted_in, GRADIO_ANALYTICS_ENABLED="True")
    assert status == 0, output
    variables, modules = json.loads(output)
    assert variables.items() >= environment.NO_USAGE_REPORTS.items()
    assert not LIBRARIES & set(modules)


def test_the_libraries_take_it_so(tmp_path: Path) -> None:
    read = """
import os
# MLflow sends nothing where one of these is set.
for name in ("CI", "PYTEST_CURRENT_TEST", "GITHUB_ACTIONS"):
    os.environ.pop(name, None)
import medexp
from huggingface_hub import constants
from mlflow.telemetry.utils import is_telemetry_disabled
import datasets
print(constants.HF_HUB_DISABLE_TELEMETRY)
print(is_telemetry_disabled())
print(datasets.config.HF_UPDATE_DOWNLOAD_COUNTS)
"""
    status, output = command("-c", read, cwd=tmp_path)
    assert (status, output.split()) == (0, ["True", "True", "False"]), output


@pytest.mark.parametrize("name", environment.WAITING)
def test_idle_threads_sleep_unless_the_user_says_how_long_they_spin(name: str) -> None:
    quiet: dict[str, str] = {}
    environment.prepare(quiet)
    assert quiet["OMP_WAIT_POLICY"] == "PASSIVE"
    own = {name: "active"}
    environment.prepare(own)
    assert {each: own[each] for each in environment.WAITING if each in own} == {name: "active"}


def test_libgomp_reads_it(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    unset = f"import os; [os.environ.pop(name, None) for name in {environment.WAITING}]"
    status, output = command(
        "-c", f"{unset}; import medexp, torch", cwd=tmp_path, OMP_DISPLAY_ENV="TRUE"
    )
    assert status == 0, output
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in output
