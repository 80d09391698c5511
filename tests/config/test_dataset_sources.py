"""dataset.mixture and dataset.held_out_from: parts are options by name; each mistake is one
sentence.
"""

from pathlib import Path

import pytest

import medexp
from medexp.config import dataset_sources
from medexp.config.flatten import fingerprint, flatten
from medexp.config.shipped import find_conf_dir

MIXED = "dataset=mixture"


def of(*entries: str) -> str:
    return f"dataset.mixture=[{', '.join(entries)}]"


REASONING, SECTIONS = "{use: medical_o1, weight: 0.9}", "{use: clinical_cases, weight: 0.1}"


def test_parts_are_options_with_what_their_entries_set(resolved):
    run = resolved(MIXED, of("{use: medical_o1, weight: 9, path: o1.json, config: zh}", SECTIONS))
    first, second = dataset_sources.list_trained_sources(run.dataset)
    assert (first.name, first.weight, first.path, first.config) == (
        "medical_o1",
        9.0,
        "/launched/here/o1.json",
        "zh",
    )
    assert (second.name, second.group_by) == ("clinical_cases", "group")
    assert Path(second.path).is_file()


def test_the_structured_preset_is_nine_to_one_and_measured_on_the_shipped_cases(resolved):
    dataset = resolved("dataset=medical_o1_structured", "dataset.mixture.0.path=o1.json").dataset
    assert [(part.name, part.weight) for part in dataset_sources.list_trained_sources(dataset)] == [
        ("medical_o1", 0.9),
        ("clinical_cases", 0.1),
    ]
    assert dataset.mixture[0].path == "/launched/here/o1.json"
    assert dataset_sources.list_sources(dataset) == dataset_sources.list_trained_sources(dataset)
    assert (
        dataset_sources.find_measured_place(
            dataset_sources.list_trained_sources(dataset), dataset.held_out_from
        )
        == 1
    )


def test_a_plain_dataset_is_its_own_only_source(resolved):
    dataset = resolved("dataset=clinical_cases").dataset
    (source,) = dataset_sources.list_sources(dataset)
    assert (source.name, source.weight, source.path) == ("clinical_cases", 1.0, dataset.path)


def test_what_is_measured_on_only_is_read_with_weight_0(resolved):
    dataset = resolved("dataset=medical_o1", "dataset.held_out_from=clinical_cases").dataset
    assert [(part.name, part.weight) for part in dataset_sources.list_sources(dataset)] == [
        ("medical_o1", 1.0),
        ("clinical_cases", 0.0),
    ]


def test_an_option_of_the_project_is_read_as_it_stands_and_a_shipped_one_once(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    dataset_sources._compose_shipped.cache_clear()
    for _ in range(2):
        medexp.compose("hardware=cpu", "dataset.held_out_from=medical_o1")
    assert dataset_sources._compose_shipped.cache_info().misses == 1
    (tmp_path / "conf" / "dataset").mkdir(parents=True)
    mine = tmp_path / "conf" / "dataset" / "mine.yaml"
    shipped = (find_conf_dir() / "dataset" / "clinical_cases.yaml").read_text()
    for column in ("group", "condition"):
        mine.write_text(shipped.replace("group_by: group", f"group_by: {column}"))
        run = medexp.compose("hardware=cpu", "dataset.held_out_from=mine").config
        assert run.dataset.held_out_from.group_by == column


def test_measuring_on_itself_reads_it_once(resolved):
    dataset = resolved("dataset=clinical_cases", "dataset.held_out_from=clinical_cases").dataset
    assert len(dataset_sources.list_sources(dataset)) == 1


def test_parts_are_parameters_and_tell_two_runs_apart(resolved):
    runs = [
        resolved(MIXED, of(REASONING, f"{{use: clinical_cases, weight: {weight}}}"))
        for weight in (0.1, 0.2)
    ]
    flat = flatten(runs[0])
    assert (flat["dataset.mixture.0.name"], flat["dataset.mixture.1.weight"]) == ("medical_o1", 0.1)
    assert len({fingerprint(run, "same cases") for run in runs}) == 2


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (
            ["{use: medical, weight: 1}"],
            (
                "dataset.mixture[0].use=medical does not exist; there are clinical_cases, local,"
                " medical_o1"
            ),
        ),
        (["{use: medical, weight: 1}"], "did you mean medical_o1?"),
        (
            [REASONING, "{use: clinical_cases, weight: 0}"],
            "dataset.mixture[1].weight=0 is out of range: allowed is above 0",
        ),
        (["{use: clinical_cases, weight: -1}"], "dataset.mixture[0].weight=-1 is out of range"),
        (["{use: clinical_cases, weight: half}"], "dataset.mixture[0].weight=half is out of range"),
        (["{use: clinical_cases, weight: .nan}"], "dataset.mixture[0].weight=.nan is out of range"),
        (
            ["{use: clinical_cases}"],
            (
                "dataset.mixture[0]={'use': 'clinical_cases'} is not a part; write {use: OPTION,"
                " weight: NUMBER}"
            ),
        ),
        (["clinical_cases"], "dataset.mixture[0]=clinical_cases is not a part"),
        (
            ["{use: clinical_cases, weight: 1, pat: x}"],
            "dataset.mixture[0].pat does not exist; an entry has use, weight, path",
        ),
        (
            ["{use: clinical_cases, weight: 1, held_out: 2}"],
            "dataset.mixture[0].held_out does not exist",
        ),
        (
            ["{use: local, weight: 1}"],
            "dataset.mixture[0] (local) has no file: give its entry a path",
        ),
        (
            ["{use: medical_o1_structured, weight: 1}"],
            "medical_o1_structured is a mixture itself; name its parts instead",
        ),
        ([SECTIONS, SECTIONS], "dataset.mixture[1] (clinical_cases) stands there twice"),
        (
            ["{use: clinical_cases, weight: 1, columns: {reasonin: x}}"],
            "dataset.mixture[0].use=clinical_cases: ",
        ),
        ([], "dataset=mixture has no parts: set 'dataset.mixture=["),
    ],
)
def test_a_wrong_part_is_refused_by_its_place(problems, entries, said):
    assert any(said in problem for problem in problems(MIXED, of(*entries)))


def test_every_wrong_part_is_said_at_once(problems):
    said = problems(
        MIXED,
        of("{use: nothing, weight: 1}", "{use: clinical_cases, weight: 0}"),
        "dataset.held_out_from=nowhere",
    )
    assert len(said) == 3


def test_a_mixture_has_no_file_of_its_own(problems):
    (said,) = problems("dataset=clinical_cases", of(REASONING, SECTIONS))
    assert "has a file of its own" in said
    assert (
        "use dataset=mixture, and set the file of a part in its entry (dataset.mixture.0.path=FILE)"
        in said
    )


def test_an_unknown_option_to_measure_on_is_refused(problems):
    (said,) = problems("dataset.held_out_from=clinical_case")
    assert said.startswith(
        "dataset.held_out_from=clinical_case does not exist; there are clinical_cases"
    )
