"""Presets measure enough cases to find a change, and choose by others than they judge by."""

import pytest

from medexp.system.known_cards import KNOWN_CARDS

CARDS = [card.preset for card in KNOWN_CARDS]


@pytest.mark.parametrize("card", CARDS)
def test_a_card_is_measured_on_the_shipped_test_part_with_all_arms(resolved, card):
    run = resolved(f"hardware={card}")
    assert (run.dataset.held_out, run.evaluation.answers) == (64, 64)
    assert run.dataset.held_out_from is not None
    assert run.dataset.held_out_from.name == "clinical_cases"
    assert run.dataset.stratify_by == ["specialty", "urgency"]
    assert run.evaluation.arms == ["base", "base_best", "tuned"]
    own = resolved(f"hardware={card}", "dataset=clinical_cases", "prompt=clinical_sections")
    assert own.dataset.held_out_from is None
    assert (own.dataset.held_out, own.dataset.validation) == (163, 38)
    assert own.evaluation.answers == 96
    fewer = resolved(f"hardware={card}", "dataset.held_out=8")
    assert fewer.evaluation.answers == 8


def test_a_cpu_keeps_to_minutes(resolved):
    run = resolved()
    assert (run.dataset.held_out, run.evaluation.answers) == (16, 8)
    assert run.evaluation.arms == ["base", "tuned"]


@pytest.mark.parametrize("sweep", ["rank_lr_seq", "grid_rank", "pareto_loss_vram"])
def test_a_sweep_chooses_by_validation_cases(compose, sweep):
    plain = compose(f"sweep={sweep}")
    assert (plain.dataset.validation, plain.dataset.held_out) == (16, 16)
    assert compose(f"sweep={sweep}", "dataset.held_out=4").dataset.validation == 4


def test_other_seeds_judge_what_was_chosen(compose):
    assert compose("sweep=seeds").dataset.validation == 0


@pytest.mark.parametrize("debug", ["fast", "overfit"])
def test_a_quick_look_stays_quick_on_a_card(resolved, debug):
    run = resolved("hardware=rtx4050_6gb", f"debug={debug}")
    assert (run.evaluation.answers, run.dataset.validation) == (1, 0)
    assert run.evaluation.arms == ["base", "tuned"]
    assert run.dataset.held_out_from is None
