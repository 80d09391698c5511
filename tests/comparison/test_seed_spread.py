"""What another seed changes stands beside what other cases would."""

import json

import pytest
from helpers.records import evaluated, run

from medexp.comparison.compare_report import render_comparison
from medexp.comparison.comparison import RunComparison, as_dict
from medexp.comparison.seed_spread import SeededRun, find_seed_groups
from medexp.comparison.tables import build_seed_rows


@pytest.fixture(scope="module")
def seeds() -> RunComparison:
    made = [(1, 20.0), (2, 18.0), (3, 16.0)]
    runs = [
        run(f"S{seed}", evaluated(nats=nats), training__seed=str(seed), lora__r="8")
        for seed, nats in made
    ]
    other = run("O", evaluated(nats=10.0), training__seed="1", lora__r="16")
    return RunComparison("seeds", (*runs, other))


def test_runs_that_differ_in_their_seed_alone_are_one_group() -> None:
    made = [("A", "1", "8"), ("B", "2", "8"), ("C", "2", "16"), ("D", "2", "32"), ("E", "2", "32")]
    runs = [
        SeededRun(label, {"training.seed": seed, "lora.r": rank}, {}) for label, seed, rank in made
    ]
    (group,) = find_seed_groups([*runs, SeededRun("F", {}, {}), SeededRun("G", {}, {})])
    assert [member.label for member in group] == ["A", "B"]


def test_the_spread_is_over_the_tuned_models(seeds: RunComparison) -> None:
    spreads = {spread.measure.key: spread for spread in seeds.seed_spreads}
    loss = spreads["loss_answer"]
    assert loss.labels == ("S1", "S2", "S3")
    assert (loss.low, loss.mean, loss.high) == pytest.approx((0.4, 0.45, 0.5))
    assert loss.deviation == pytest.approx(0.05)
    assert loss.half_width is not None


def test_it_is_in_the_tables_on_the_page_and_for_programs(seeds: RunComparison) -> None:
    rows = build_seed_rows(seeds)
    assert ("held-out loss, answer", "S1, S2, S3", "0.45", "0.4 to 0.5", "0.05") in [
        row[:5] for row in rows
    ]
    assert "Between seeds" in render_comparison(seeds, "http://127.0.0.1:5000")
    found = json.loads(json.dumps(as_dict(seeds), allow_nan=False))
    assert found["seeds"]["loss_answer"][0]["runs"] == ["S1", "S2", "S3"]
    alone = RunComparison("two", seeds.runs[2:])
    assert build_seed_rows(alone) == []
    assert "Between seeds" not in render_comparison(alone, "http://127.0.0.1:5000")
