"""How much of a card a plan leaves free: more where nobody has measured what it rests on."""

import pytest

from medexp.errors import VramPlanError
from medexp.planning import limits, planner
from medexp.system import private_names
from medexp.system.units import bytes_of_gib

# A Granite of this shape.
NEVER_MEASURED = ["model=llama_3_2_3b", "model.shape.family=granite"]


@pytest.fixture(autouse=True)
def forget_libraries():
    limits._list_unmeasured_libraries.cache_clear()
    yield
    limits._list_unmeasured_libraries.cache_clear()


@pytest.mark.parametrize(
    ("model", "share"),
    [
        (["model=deepseek_r1_distill_llama_8b"], 0.01),
        (["model=llama_3_2_3b"], 0.01),
        (["model=qwen3_8b"], 0.01),
        (["model=gemma3_4b_it"], 0.01),
        (NEVER_MEASURED, 0.03),
    ],
)
def test_a_family_that_no_card_was_measured_with_leaves_more_free(resolved, model, share):
    config = resolved("hardware=rtx4050_6gb", *model)
    assert limits.error_factor(config) == pytest.approx(1 + share)
    # The plan that is chosen keeps to it, and one byte more would not fit.
    chosen, _ = planner.choose_plan(config)
    room = limits.card_room_bytes(config, 5.25)
    assert chosen.budget.peak_bytes <= room == int(bytes_of_gib(5.25) / (1 + share))
    assert not limits.exceeds_ceiling(config, room)
    assert limits.exceeds_ceiling(config, room + 1)


def test_a_version_that_was_never_measured_leaves_more_free_and_is_said(resolved, monkeypatch):
    config = resolved("hardware=rtx4050_6gb")
    assert not [*limits.remark_on_margin(config)]
    limits._list_unmeasured_libraries.cache_clear()
    monkeypatch.setattr(private_names, "find_installed_version", {"unsloth": "2027.1.3"}.get)
    monkeypatch.setattr(limits, "find_installed_version", {"unsloth": "2027.1.3"}.get)
    (said,) = limits.remark_on_margin(config)
    assert said.startswith("plans were measured with unsloth 2026.10.6 to 2026.10.9 and 2027.1.3")
    assert "3 % of the ceiling is left free where 1 % is usual" in said
    assert limits.error_factor(config) == pytest.approx(1.03)


def test_without_a_card_nothing_is_left_free_for_one(resolved):
    config = resolved("hardware=cpu", "model=smollm2_135m")
    assert not [*limits.list_unmeasured(config)]


def test_a_refusal_says_how_much_is_left_for_error(resolved):
    with pytest.raises(VramPlanError, match=r"\(3 % is left for error\)"):
        planner.choose_plan(
            resolved("hardware=rtx4050_6gb", *NEVER_MEASURED, "training.max_seq_tokens=65536")
        )
