"""Saved views of MLflow: stable names, and what they show."""

import json

from medexp.tracking.views import (
    LOSS,
    STRUCTURE,
    list_dimensions,
    make_all_runs_view,
    make_running_sweep_view,
    make_sweep_view,
)

TRIALS = [
    {
        "lora.r": "8",
        "training.learning_rate": "1e-3",
        "training.max_seq_tokens": "640",
        "vram.micro_batch": "1",
        "hardware.name": "a",
    },
    {
        "lora.r": "16",
        "training.learning_rate": "1e-3",
        "training.max_seq_tokens": "640",
        "vram.micro_batch": "2",
        "hardware.name": "b",
    },
]


def test_rank_rate_and_length_come_first_and_what_else_varied_follows() -> None:
    assert list_dimensions(TRIALS) == [
        "lora.r",
        "training.learning_rate",
        "training.max_seq_tokens",
    ]
    varied = [TRIALS[0] | {"lora.dropout": "0"}, TRIALS[1] | {"lora.dropout": "0.1"}]
    assert list_dimensions(varied) == [
        "lora.r",
        "training.learning_rate",
        "training.max_seq_tokens",
        "lora.dropout",
    ]


def test_a_sweep_shows_its_finished_trials_in_parallel_coordinates() -> None:
    state = make_sweep_view("it's", TRIALS, "vram/peak_gib").state
    assert (
        state["searchFilter"]
        == 'tags."medexp.study" = "it\'s" AND tags."medexp.trial" != \'\' AND attributes.status ='
        " 'FINISHED'"
    )
    parallel, scatter = state["compareRunCharts"]
    assert parallel["selectedParams"] == [
        "lora.r",
        "training.learning_rate",
        "training.max_seq_tokens",
    ]
    assert parallel["selectedMetrics"] == (STRUCTURE, "vram/peak_gib", LOSS)
    assert (scatter["xaxis"]["key"], scatter["yaxis"]["key"]) == ("vram/peak_gib", LOSS)
    (section,) = state["compareRunSections"]
    assert {parallel["metricSectionId"], scatter["metricSectionId"]} == {section["uuid"]}


def test_a_sweep_under_way_shows_the_losses_of_all_its_trials_by_step() -> None:
    state = make_running_sweep_view("s").state
    assert state["searchFilter"] == "tags.\"medexp.study\" = 's' AND tags.\"medexp.trial\" != ''"
    charts = state["compareRunCharts"]
    assert [(chart["type"], chart["metricKey"]) for chart in charts] == [
        ("LINE", "train/loss"),
        ("LINE", "eval/loss"),
    ]
    assert len({chart["uuid"] for chart in charts}) == 2


def test_a_view_keeps_its_place_and_fits_into_a_tag() -> None:
    view = make_sweep_view("rank_lr_seq-cpu", TRIALS, "vram/peak_gib")
    key, value = view.tag(7)
    assert key == "mlflow.sharedViewState.medexp-8a8fb3be0386"  # links to it are kept elsewhere
    assert view.key == make_sweep_view("rank_lr_seq-cpu", [], "host/peak_gib").key
    assert len(value) < 20_000  # MLflow's limit for an experiment's tag
    kept = json.loads(value)
    assert (kept["name"], kept["createdAt"]) == ("medexp: sweep rank_lr_seq-cpu", 7)
    assert json.loads(kept["state"]) == json.loads(json.dumps(view.state))


def test_a_link_opens_the_view() -> None:
    view = make_all_runs_view("vram/peak_gib")
    words = f"viewStateShareKey={view.key}&workflowType=machine_learning"
    assert (
        view.url("http://127.0.0.1:1", "3", charts=False)
        == f"http://127.0.0.1:1/#/experiments/3/runs?{words}"
    )
    assert "runs?compareRunsMode=CHART&view" in view.url("http://127.0.0.1:1", "3", charts=True)
