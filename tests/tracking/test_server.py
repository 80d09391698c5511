"""What a person sees of medexp's runs in MLflow's pages, in a real browser, without a network."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import pytest
from helpers import browser
from helpers.commands import TinyRuns, invoke
from omegaconf import OmegaConf

from medexp.config.registration import register_with_hydra
from medexp.config.shipped import find_conf_dir
from medexp.sweep.reporting import results
from medexp.sweep.search.options import check_options
from medexp.sweep.search.search_space import Choice, SearchSpace
from medexp.sweep.study import storage
from medexp.sweep.study.study import Study, open_study
from medexp.sweep.study.trial_files import Ending, TrialOutcome, TrialSpec
from medexp.sweep.workers.trial import TrialContext
from medexp.system.console import Console
from medexp.system.ports import find_free_port
from medexp.tracking import registry, run_name
from medexp.training.run import train

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parents[2]
RUNS = {
    "r4 lr1e-3 seq800": (4, 1e-3),
    "r8 lr2e-3 seq800": (8, 2e-3),
    "r16 lr4e-3 seq800": (16, 4e-3),
}
AXES = ["lora.r", "training.learning_rate", "training.max_seq_tokens"]


@dataclass(frozen=True)
class Site:
    """MLflow's server over the runs, as medexp.ui starts it: the links it prints by their titles,
    and what was trained.
    """

    links: dict[str, str]
    losses: dict[str, float]

    def link(self, begins: str) -> str:
        """The address printed under a title that begins so."""
        return next(url for title, url in self.links.items() if title.startswith(begins))


@pytest.fixture(scope="module")
def chromium() -> str:
    return browser.chromium()


@pytest.fixture(scope="module")
def tiny_runs(
    chromium: str,
    tiny_runs_in: Callable[..., TinyRuns],
    tmp_path_factory: pytest.TempPathFactory,
) -> TinyRuns:
    """A store with a sweep of two trials, its trials trained in this process."""
    root = tmp_path_factory.mktemp("site")
    made = tiny_runs_in(root)
    _sweep(made)
    return made


def _sweep(tiny_runs: TinyRuns) -> None:
    """A study as medexp.sweep keeps it, every trial a part of it."""
    register_with_hydra()
    with hydra.initialize_config_dir(str(find_conf_dir()), version_base="1.3"):
        cfg = hydra.compose(
            "train", ["sweep.n_trials=2", "hydra/sweeper/sampler=grid"], return_hydra_config=True
        )
    options = {
        str(key): value
        for key, value in OmegaConf.to_container(cfg.hydra.sweeper, resolve=True).items()
        if key[0] != "_"
    }
    study = open_study(
        "ranks",
        storage.default_url(tiny_runs.root),
        SearchSpace({"lora.r": Choice((4, 8))}),
        check_options(options),
    )
    where = tiny_runs.run("tracking.experiment=medexp").tracking
    with results.open_parent_run(where, study, tiny_runs.root, print) as parent:
        for _ in range(2):
            _trial(tiny_runs, study, parent.run_id)
        results.log_results(parent, study, None)
        assert results.register_best(where, study) is not None
    study.close()


def _trial(tiny_runs: TinyRuns, study: Study, parent_run_id: str) -> None:
    trial = study.ask()
    tags = {
        "mlflow.parentRunId": parent_run_id,
        "medexp.study": study.name,
        "medexp.trial": str(trial.number),
    }
    name = f"{trial.number}: {run_name.abbreviate_params(trial.params)}"
    trial_spec = TrialSpec(
        study.name, study.url, trial._trial_id, trial.number, name, None, reports=False, tags=tags
    )
    folder = tiny_runs.root / str(trial.number)
    folder.mkdir()
    run = tiny_runs.run(
        f"lora.r={trial.params['lora.r']}", "tracking.experiment=medexp", "evaluation.answers=1"
    )
    done = train(
        run, invoke(folder, (), "composed: yaml\n"), Console(), TrialContext(trial_spec, folder)
    )
    study.tell(trial, TrialOutcome(Ending.done, "", dict(done.metrics), done.run_id), {})


@pytest.fixture(scope="module")
def losses(tiny_runs: TinyRuns) -> dict[str, float]:
    """The held-out loss of three runs, by their names."""
    found = {}
    for name, (rank, rate) in RUNS.items():
        trained = tiny_runs.train(
            f"lora.r={rank}",
            f"training.learning_rate={rate}",
            "tracking.experiment=medexp",
            "evaluation.answers=1",
            name=f"out{rank}",
        )
        found[name] = trained.outcome.loss_after
    registry.register_adapter(tiny_runs.run().tracking, trained.run_id, "clinical", "champion")
    return found


@pytest.fixture(scope="module")
def site(tiny_runs: TinyRuns, losses: dict[str, float]) -> Iterator[Site]:
    words = [
        "-m",
        "medexp.ui",
        f"tracking.root={tiny_runs.root / 'mlruns'}",
        f"ui.port={find_free_port()}",
        "ui.open=false",
    ]
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [sys.executable, *words], cwd=tiny_runs.root, env=env, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline().strip() for _ in range(10)]
        yield Site(dict(zip(lines[::2], lines[1::2], strict=True)), losses)
        process.terminate()
        assert process.wait(60) == 143


@pytest.fixture(scope="module")
def page(chromium: str, site: Site) -> Iterator[Any]:
    """A window in which MLflow's assistant has been closed; nothing but the server has been asked
    for anything at the end.
    """
    with browser.window(chromium) as (opened, elsewhere):
        opened.goto(site.link("experiment medexp"))
        opened.get_by_role("button", name="Close", exact=True).click()
        yield opened
        assert not elsewhere


def test_the_list_of_runs_says_what_varied_and_what_came_of_it(page: Any, site: Site) -> None:
    page.goto(site.link("experiment medexp"))
    for name, loss in site.losses.items():
        page.get_by_role("link", name=name, exact=True).wait_for()
        assert page.get_by_text(str(loss)[:7]).count(), loss
    seen = page.locator("body").inner_text()
    for text in (
        "Model training",
        "medexp: runs",
        "lora.r",
        "result/loss_after",
        "ranks",
        "smollm2_135m-r16",
    ):
        assert text in seen, text
    assert not re.search(r"Traces\s+Sessions", seen)  # the menu is that for training


def test_a_run_opens_with_its_verdict_and_its_rank_first(page: Any, site: Site) -> None:
    page.goto(site.link("experiment medexp"))
    page.get_by_role("link", name="r8 lr2e-3 seq800", exact=True).click()
    page.get_by_role("heading", name="r8 lr2e-3 seq800").wait_for()
    page.get_by_text("Held-out loss", exact=False).first.wait_for()
    page.get_by_text("Show more").first.click()
    page.get_by_text("experiment=from_run").wait_for()
    seen = page.locator("body").inner_text()
    assert "Not for clinical use" in seen
    assert "medexp.model" in seen
    parameters = seen[seen.index("Parameters (") :]
    assert re.match(
        r"Parameters \(\d\d\)\s+Parameter\s+Value\s+lora\.r\s+8\s+training\.learning_rate\s+0\.002",
        parameters,
    ), parameters[:200]


def test_its_report_opens_from_its_description(page: Any, site: Site) -> None:
    page.goto(site.link("last run, r16 lr4e-3 seq800"))
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="Before and after, side by side").click()
    report = opened.value.frame_locator("iframe")
    report.get_by_role("heading", name="What changed").wait_for()
    assert "Not for clinical use" in report.locator("body").inner_text()
    opened.value.close()
    page.goto(site.link("its report"))
    page.frame_locator("iframe").get_by_role("heading", name="What changed").wait_for()


def test_three_runs_are_compared_in_parallel_coordinates(page: Any, site: Site) -> None:
    page.goto(site.link("experiment medexp"))
    page.get_by_role("link", name="r4 lr1e-3 seq800", exact=True).wait_for()
    for name in RUNS:
        page.locator(".ag-row").filter(has=page.get_by_role("link", name=name, exact=True)).locator(
            "input.ag-checkbox-input"
        ).check()
    page.get_by_role("button", name="Compare").click()
    page.get_by_role("heading", name="Comparing 3 Runs").wait_for()
    axes = page.locator(".axis-title")
    axes.first.wait_for()
    # those that differ, and the held-out loss
    assert axes.all_text_contents() == ["lora.r", "training.learning_rate", "eval/loss"]


def test_a_sweep_shows_everything_without_a_click(page: Any, site: Site) -> None:
    page.goto(site.link("sweep ranks, 2 trials in charts"))
    page.get_by_text("ranks: trials compared").wait_for()
    axes = page.locator(".parcoords .label")
    axes.first.wait_for()
    assert axes.all_text_contents() == [
        *AXES,
        "eval/structure/after",
        "host/peak_gib",
        "result/loss_after",
    ]
    seen = page.locator("body").inner_text()
    for rank in (4, 8):
        assert re.search(rf"\d: r{rank}\b", seen), seen
    assert "Parallel Coordinates" in seen
    page.goto(site.link("sweep ranks, 2 trials side by side"))
    page.get_by_role("heading", name="Comparing 2 Runs").wait_for()
    page.locator(".axis-title").first.wait_for()
    assert page.locator(".axis-title").all_text_contents() == ["lora.r", "eval/loss"]


def test_a_registered_adapter_leads_to_its_run_and_report(page: Any, site: Site) -> None:
    page.goto(site.link("its report").partition("#")[0] + "#/models/clinical/versions/1")
    page.get_by_text("@ champion").wait_for()
    page.get_by_role("link", name="its report").wait_for()
    seen = page.locator("body").inner_text()
    assert all(line in seen for line in ("FORM", "MEDICINE", "HARM")), seen
