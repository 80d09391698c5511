"""Names of runs say what varied."""

import pytest

from medexp.tracking.run_name import LONGEST, abbreviate_params, format_rate, make_run_name


@pytest.mark.parametrize(
    ("value", "said"),
    [(2e-4, "2e-4"), (0.004, "4e-3"), (1.5e-5, "1.5e-5"), (0.00854321, "8.54e-3"), (1.0, "1e0")],
)
def test_a_rate_is_written_as_by_hand(value: float, said: str) -> None:
    assert format_rate(value) == said


def test_a_run_is_named_by_rank_rate_and_length(resolved) -> None:
    run = resolved(
        "hardware=rtx4050_6gb",
        "lora.r=16",
        "training.learning_rate=2e-4",
        "training.max_seq_tokens=1024",
    )
    assert make_run_name(run) == "r16 lr2e-4 seq1024"


def test_what_else_the_command_line_names_of_the_recipe_follows(resolved) -> None:
    overrides = [
        "lora.r=8",
        "lora=attention_only",
        "training.seed=2",
        "lora.dropout=0.1",
        "tracking.root=x",
        "hardware=cpu",
        "evaluation.answers=2",
    ]
    run = resolved("hardware=cpu", "lora.r=8", "lora=attention_only")
    assert make_run_name(run, overrides) == "r8 lr4e-3 seq800 attention_only seed2 dropout=0.1"
    assert (
        make_run_name(run, ["experiment=from_run", "training.resume=never", "lora.start_from=a/b"])
        == "r8 lr4e-3 seq800"
    )


def test_a_name_stays_short(resolved) -> None:
    name = make_run_name(
        resolved("hardware=cpu"), [f"training.learning_{number}=1" for number in range(20)]
    )
    assert len(name) <= LONGEST
    assert name.endswith("…")


def test_a_trial_is_named_by_its_point() -> None:
    point = {
        "lora.r": 8,
        "training.learning_rate": 0.000427,
        "training.max_seq_tokens": 480,
        "lora.dropout": 0.05,
        "lora": "all_linear",
    }
    assert abbreviate_params(point) == "r8 lr4.27e-4 seq480 dropout=0.05 lora=all_linear"
