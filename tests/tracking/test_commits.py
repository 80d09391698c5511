"""A run that is gone on from takes the Hub commits that it recorded, and its project's files where
they lie now.
"""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import hydra
import pytest
from omegaconf import DictConfig, OmegaConf

from medexp.config.registration import register_with_hydra
from medexp.config.resolve import make_paths_absolute, resolve
from medexp.config.schema import RunConfig, Tracking
from medexp.config.shipped import find_conf_dir
from medexp.system.machine import Machine
from medexp.tracking import finished_run
from medexp.tracking.artifact_names import COMPOSED_CONFIG
from medexp.tracking.rerun import OriginalRun
from medexp.tracking.tracker import open_run

HUB = ["hardware=cpu", "model=llama_3_2_3b"]
MODEL, CASES = "a" * 40, "b" * 40


class Kept:
    """A finished run in the store of a project."""

    def __init__(self, project: Path, on: Machine):
        self.project, self.on = project, on
        register_with_hydra()
        self.run_id = ""

    def compose(self, *words: str) -> DictConfig:
        cfg = hydra.compose("train", [*words, f"tracking.root={self.project / 'mlruns'}"])
        return OmegaConf.masked_copy(cfg, list(RunConfig.__dataclass_fields__))

    def keep(self, *words: str, **tags: str) -> None:
        root = str(self.project / "mlruns")
        where = Tracking(
            root=root,
            experiment="medexp",
            run_name=None,
            system_metrics=False,
            log_adapter=True,
            tags={},
        )
        with open_run(where, None, "first") as run:
            run.log_text(
                OmegaConf.to_yaml(
                    make_paths_absolute(self.compose(*words), self.project), resolve=True
                ),
                COMPOSED_CONFIG,
            )
            run.set_tags({f"medexp.{name}": value for name, value in tags.items()})
        self.run_id = run.run_id

    def again(self, *words: str) -> tuple[RunConfig, str | None]:
        """What a command with these overrides makes of it, and what it says of commits."""
        subject = finished_run.find_run(self.run_id, str(self.project / "mlruns"), self.project)
        cfg = finished_run.recompose_from_run(self.compose(*words), subject, words)
        run = resolve(cfg, self.on, self.project, {})
        return run, OriginalRun(subject).commits(run)


@pytest.fixture
def kept(tmp_path: Path, empty_store: Path, no_card: Machine) -> Iterator[Kept]:
    project = tmp_path / "project"
    (project / "mlruns").mkdir(parents=True)
    shutil.copy(empty_store, project / "mlruns" / "mlflow.db")
    with hydra.initialize_config_dir(str(find_conf_dir()), version_base="1.3"):
        yield Kept(project, replace(no_card, ram_bytes=2**40))


def test_model_and_cases_are_those_that_were_recorded(kept: Kept) -> None:
    kept.keep(*HUB, "dataset=medical_o1", model_revision=MODEL, dataset_revision=CASES)
    run, said = kept.again()
    assert (run.model.revision, run.dataset.revision) == (MODEL, CASES)
    assert (
        said
        == f"as that run had them from the Hub: {run.model.hub_id} at {MODEL}, {run.dataset.hub_id}"
        f" at {CASES}"
    )


def test_a_part_of_a_mixture_has_the_commit_of_its_own(kept: Kept) -> None:
    kept.keep("hardware=cpu", "dataset=medical_o1_structured", dataset_revision=CASES)
    run, _ = kept.again()
    assert [each.revision for each in run.dataset.mixture] == [CASES, None]
    assert run.model.revision is None


@pytest.mark.parametrize(
    ("words", "revisions"),
    [
        (["model.revision=main"], ("main", CASES)),
        (["model=deepseek_r1_distill_qwen_1_5b"], (None, CASES)),
        (["dataset.revision=main"], (MODEL, "main")),
        (["dataset=clinical_cases"], (MODEL, None)),
    ],
)
def test_what_the_command_line_names_wins(
    kept: Kept, words: list[str], revisions: tuple[str | None, str | None]
) -> None:
    kept.keep(*HUB, "dataset=medical_o1", model_revision=MODEL, dataset_revision=CASES)
    run, _ = kept.again(*words)
    assert run.model.revision not in {MODEL} or revisions[0] == MODEL
    assert (run.dataset.revision == CASES) is (revisions[1] == CASES)
    for asked, found in zip(revisions, (run.model.revision, run.dataset.revision), strict=True):
        assert asked is None or found == asked


def test_a_run_that_recorded_none_says_none(kept: Kept) -> None:
    kept.keep("hardware=cpu")
    run, said = kept.again()
    assert (run.model.revision, run.dataset.revision, said) == (None, None, None)


def test_the_files_of_a_project_are_found_where_it_lies_now(kept: Kept, tmp_path: Path) -> None:
    (kept.project / "cases.jsonl").write_text("{}")
    elsewhere = tmp_path / "elsewhere.jsonl"
    elsewhere.write_text("{}")
    words = [
        "hardware=cpu",
        "dataset=mixture",
        (
            "dataset.mixture=[{use: local, path: cases.jsonl, weight: 1}, {use: local, path:"
            f" {elsewhere}, weight: 1}}]"
        ),
    ]
    kept.keep(*words, "evaluation.benchmark_files.medqa=cases.jsonl")
    kept.project = Path(shutil.copytree(kept.project, tmp_path / "copy"))
    run, _ = kept.again()
    assert [each.path for each in run.dataset.mixture] == [
        str(tmp_path / "copy" / "cases.jsonl"),
        str(elsewhere),
    ]
    assert run.evaluation.benchmark_files.medqa == str(tmp_path / "copy" / "cases.jsonl")


def test_the_shipped_cases_are_those_of_this_medexp(kept: Kept) -> None:
    kept.keep(
        "hardware=cpu", "dataset.path=/gone/lib/site-packages/medexp/data/clinical_cases.jsonl"
    )
    run, _ = kept.again()
    assert Path(str(run.dataset.path)).is_file()
    kept.keep("hardware=cpu", "dataset.path=/gone/mine.jsonl")
    assert kept.again()[0].dataset.path == "/gone/mine.jsonl"
