"""What medexp uses of libraries' insides is there, in the versions that it says, and what is not
there is said.
"""

import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

from medexp.errors import MachineError
from medexp.models import backend
from medexp.system import private_names
from medexp.system.private_names import (
    SETTINGS,
    TESTED,
    PrivateName,
    Versions,
    list_untested_libraries,
)

PYPROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
NAME = PrivateName("optuna", "study.Study._inner", "nothing works")


@pytest.mark.parametrize(
    ("version", "is_in"),
    [
        ("5.0.0", True),
        ("5.0.7", True),
        ("5.0.0rc1", True),
        ("5.1.0", False),
        ("4.9", False),
        ("6", False),
        ("50.0", False),
    ],
)
def test_a_version_between_the_tested_ones_is_tested(version, is_in):
    assert Versions("5.0", "5.0").has(version) is is_in


def test_the_tenth_is_after_the_ninth():
    assert Versions("2026.10.6", "2026.10.9").has("2026.10.7")
    assert not Versions("2026.10.6", "2026.10.9").has("2026.10.10")
    assert not Versions("2026.10.6", "2026.10.9").has("2026.9.30")


@pytest.mark.parametrize("library", TESTED)
def test_what_is_installed_here_was_run(library):
    assert not [*list_untested_libraries([library])]


def test_the_package_asks_for_versions_that_were_run():
    from packaging.requirements import Requirement

    extras = PYPROJECT["optional-dependencies"]
    asked = {
        each.name: each.specifier
        for each in map(Requirement, [*PYPROJECT["dependencies"], *extras["gpu"]])
    }
    for library, newer in {
        "unsloth": "2026.10.10", "unsloth_zoo": "2026.11.1", "mlflow": "3.18.0", "optuna": "5.1.0",
        "hydra-core": "1.4.0",
    }.items():  # fmt: skip
        assert TESTED[library].first in asked[library], library
        assert newer not in asked[library], library
        assert not TESTED[library].has(newer), library


def test_another_version_is_said_with_what_of_it_is_untested(monkeypatch):
    versions = {"optuna": "5.1.0", "mlflow": "3.17.2"}
    monkeypatch.setattr(private_names, "find_installed_version", versions.get)
    (said,) = list_untested_libraries(["optuna", "mlflow", "unsloth"])
    assert said.startswith(
        "optuna 5.1.0 is installed; medexp was run with 5.0, and what medexp uses of its inside is"
        " untested"
    )
    assert "samplers.GPSampler._optimize_acqf" in said


def test_a_name_that_cannot_be_done_without_is_a_sentence():
    assert NAME.require(SimpleNamespace(_inner=3)) == 3
    assert NAME.of(SimpleNamespace()) is None
    with pytest.raises(
        MachineError,
        match=(
            r"optuna 5\.0\.\d has no study\.Study\._inner, which optuna 5\.0 had: nothing works;"
            r" install"
        ),
    ):
        NAME.require(SimpleNamespace())


def test_names_of_optuna_and_hydra_are_there():
    import optuna
    from hydra.core.override_parser.types import Override
    from hydra.core.utils import JobReturn

    study = optuna.create_study()
    assert private_names.STUDY_STORAGE.require(study)
    assert private_names.STUDY_ID.require(study) == 0
    assert private_names.TRIAL_ID.require(study.ask()) == 0
    assert private_names.AS_TYPED.require(Override)
    assert private_names.JOB_RETURN.last in vars(JobReturn())
    with_a_file = optuna.storages.get_storage("sqlite:///:memory:")
    assert private_names.CACHED_STORAGE.of(with_a_file)
    assert private_names.STALE_TRIALS.of(with_a_file)


def folder_of_unsloth(root: Path, without: str = "") -> Path:
    """A package that reads every setting where Unsloth does, but one."""
    for each in SETTINGS:
        file = root / each.library / each.file
        file.parent.mkdir(parents=True, exist_ok=True)
        read = file.read_text() if file.exists() else ""
        file.write_text(read + (f"os.environ.get('{each.name}')\n" if each.name != without else ""))
    return root / "unsloth"


def test_settings_that_unsloth_reads_are_not_mentioned(tmp_path):
    assert backend.find_unread_settings(folder_of_unsloth(tmp_path)) == ()


@pytest.mark.parametrize("setting", SETTINGS, ids=[each.name for each in SETTINGS])
def test_a_setting_that_unsloth_does_not_read_any_more_is_said(tmp_path, setting):
    (said,) = backend.find_unread_settings(folder_of_unsloth(tmp_path, without=setting.name))
    assert f"does not read {setting.name} in {setting.file}" in said
    assert setting.without in said
