"""python -m medexp.plan: a table for people, JSON for programs, exit code 2 when nothing fits; no
torch, and quick.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.commands import command, quickest_start

from medexp.config.schema import RunConfig
from medexp.planning import planner
from medexp.reports import frontier_chart
from medexp.system.units import GIB

PLAN = ["-m", "medexp.plan", "hardware=rtx4050_6gb"]


def test_the_plan_is_shown_term_by_term(tmp_path: Path) -> None:
    status, output = command(*PLAN, cwd=tmp_path)
    assert status == 0, output
    for part in (
        "streamed-layer slots",
        "recompute peak",
        "5.14 of 5.25 GiB",
        "gradients in FP8",
        "Runners-up",
        "s a step of 8 cases",
    ):
        assert part in output
    assert not list(tmp_path.iterdir())


def test_json_is_for_programs(tmp_path: Path) -> None:
    status, output = command(*PLAN, "plan.format=json", cwd=tmp_path)
    assert status == 0
    values = json.loads(output)
    assert values["fits"] is True
    assert set(values) == {"fits", "chosen", "runners_up", "ceiling_gib"}
    assert values["chosen"]["levers"]["streamed_layers"] == 28
    assert values["chosen"]["levers"]["fp8"] is True


def test_what_cannot_fit_ends_with_2_and_what_would(tmp_path: Path) -> None:
    status, output = command(*PLAN, "training.max_seq_tokens=65536", cwd=tmp_path)
    assert status == 2
    assert "Would fit: training.max_seq_tokens=32768" in output
    status, output = command(
        *PLAN, "training.max_seq_tokens=65536", "plan.format=json", cwd=tmp_path
    )
    assert status == 2
    assert json.loads(output[: output.index("medexp:")])["would_fit"] == {
        "training.max_seq_tokens": 32768
    }


def test_the_frontier_names_the_longest_sequence_a_rank(tmp_path: Path) -> None:
    status, output = command(*PLAN, "plan.frontier=true", cwd=tmp_path)
    assert status == 0, output
    assert "32,768 tokens" in output
    (folder,) = tmp_path.glob("outputs/frontier-*")
    assert (folder / "frontier.png").read_bytes().startswith(b"\x89PNG")
    page = (folder / "frontier.html").read_text()
    assert page.count("<td") == 6 * 9
    assert page.count("nothing fits") == page.count("<td class='not'") > 0
    assert "– means that no plan fits" in page
    asked, given = (re.findall(pattern, page) for pattern in (r"href='#([^']+)'", r"id='([^']+)'"))
    assert asked == given  # a tap on a cell leads to its plan
    shades = [
        (int(speed), shade)
        for shade, speed in re.findall(r"background:(#\w{6})' title='[^']*'><a [^>]*>(\d+)<", page)
    ]
    assert max(shades)[1] < min(shades)[1]  # the faster, the darker
    assert "name='viewport'" in page


@pytest.mark.parametrize("tflops", ["24", "null"])
def test_a_frontier_without_the_figures_of_a_card_shows_no_speed(
    tflops: str, resolved: Callable[..., RunConfig], tmp_path: Path
) -> None:
    run = resolved("hardware=rtx4050_6gb", f"hardware.matmul_tflops={tflops}")
    cells = [planner.Cell(16, 512, planner.choose_plan(run)[0]), planner.Cell(16, 65536, None)]
    png, page = frontier_chart.draw_frontier(cells, "a card", tmp_path)
    assert png.stat().st_size > 5000
    said = page.read_text()
    assert ("tokens/s" in said) == ("the darker, the faster" in said) == (tflops == "24")
    assert (
        (">fits</a>" in said)
        == ("No speed is predicted: hardware.matmul_tflops is not set" in said)
        == (tflops == "null")
    )


def test_a_frontier_is_drawn_where_nothing_fits_too_and_in_json(tmp_path: Path) -> None:
    status, output = command(
        *PLAN,
        "plan.frontier=true",
        "training.max_seq_tokens=65536",
        "plan.format=json",
        cwd=tmp_path,
    )
    assert status == 2
    found = json.loads(output[: output.index("medexp:")])
    assert (found["fits"], len(found["frontier"])) == (False, 6 * 9)
    at = {(each["r"], each["max_seq_tokens"]): each["plan"] for each in found["frontier"]}
    assert at[128, 16384] is None
    assert 0 < at[16, 2048]["peak_bytes"] <= 5.25 * GIB


def test_the_embedded_model_has_a_plan_too(tmp_path: Path) -> None:
    status, output = command("-m", "medexp.plan", cwd=tmp_path)
    assert status == 0, output
    assert "host memory" in output


def test_a_plan_loads_nothing_heavy_and_is_quick(tmp_path: Path) -> None:
    start = quickest_start(*PLAN, cwd=tmp_path)
    assert start.status == 0
    assert not start.modules & {"torch", "transformers", "mlflow", "huggingface_hub"}
    assert start.took_s < 1


def test_a_frontier_needs_a_ceiling(tmp_path: Path) -> None:
    status, output = command("-m", "medexp.plan", "plan.frontier=true", cwd=tmp_path)
    assert (status, output.count("\n")) == (2, 1)
    assert "needs a ceiling and hardware=cpu has none" in output
