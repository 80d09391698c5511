"""The plan that is taken fits, is the best of all that do, and says what would fit when none does."""

from dataclasses import replace

import pytest

from medexp.errors import VramPlanError
from medexp.units import bytes_of_gib
from medexp.vram import planner
from medexp.vram.budget import Levers

CARD = "hardware=rtx4050_6gb"
PRESETS = ["rtx4050_6gb", "rtx3060_12gb", "t4_16gb", "rtx4090_24gb", "h200_141gb"]
MODELS = ["smollm2_135m", "deepseek_r1_distill_qwen_1_5b", "llama_3_2_3b", "deepseek_r1_distill_llama_8b"]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("model", MODELS)
def test_every_model_has_a_plan_that_fits_every_card(resolved, preset, model):
    run = resolved(f"hardware={preset}", f"model={model}")
    chosen, runners_up = planner.choose(run)
    for plan in (chosen, *runners_up):
        assert plan.budget.peak_bytes <= bytes_of_gib(run.hardware.vram_ceiling_gib)
        assert plan.levers.micro_batch * plan.levers.accumulation == 8


def test_the_8b_fits_6_gb_only_by_leaving_parts_on_the_host(resolved):
    chosen, _ = planner.choose(resolved(CARD))
    assert chosen.levers == Levers(4, 2, 24, True, 0)
    with pytest.raises(VramPlanError, match=r"hardware\.vram_ceiling_gib is 5\.25"):
        planner.choose(resolved(CARD, "hardware.offload_layers=0", "hardware.offload_embedding=false"))


def test_the_14b_and_8192_tokens_fit_where_unsloth_s_own_plan_refuses(resolved):
    assert planner.choose(resolved(CARD, "model=deepseek_r1_distill_qwen_14b"))[0]
    assert planner.choose(resolved(CARD, "training.max_seq_tokens=8192"))[0]


def test_the_chosen_plan_is_within_what_can_be_told_of_the_fastest(resolved):
    run = resolved(CARD)
    chosen, _ = planner.choose(run)
    fastest = min((plan for plan in planner.ranked(run) if planner.fits(run, plan)), key=lambda plan: plan.step_s)
    assert chosen.step_s <= fastest.step_s * planner.TOO_CLOSE_TO_TELL


def test_frugal_takes_least(resolved):
    run = resolved(CARD, "training.plan=frugal")
    chosen, _ = planner.choose(run)
    assert chosen.budget.peak_bytes == min(plan.budget.peak_bytes for plan in planner.ranked(run))


def test_manual_keeps_the_batch_and_a_number_stays(resolved):
    manual, _ = planner.choose(resolved(CARD, "training.plan=manual"))
    assert (manual.levers.micro_batch, manual.levers.accumulation) == (2, 4)
    pinned, _ = planner.choose(resolved(CARD, "hardware.offload_layers=28", "hardware.checkpoint_skip_layers=0"))
    assert (pinned.levers.streamed_layers, pinned.levers.kept_layers) == (28, 0)


def test_applying_a_plan_sets_the_levers_of_the_run(resolved):
    run = resolved(CARD)
    chosen, _ = planner.choose(run)
    planner.apply(run, chosen)
    assert (run.training.micro_batch, run.training.accumulation) == (4, 2)
    assert (run.hardware.offload_layers, run.hardware.offload_embedding, run.hardware.checkpoint_skip_layers) == (24, True, 0)
    assert planner.choose(run)[0].levers == chosen.levers


def test_what_would_fit_does_and_one_more_does_not(resolved):
    run = resolved(CARD, "training.max_seq_tokens=65536")
    with pytest.raises(VramPlanError, match=r"Largest term: recompute peak of a layer.*Would fit: training.max_seq_tokens=11200"):
        planner.choose(run)
    assert planner.choose(replace(run, training=replace(run.training, max_seq_tokens=11200)))
    with pytest.raises(VramPlanError):
        planner.choose(replace(run, training=replace(run.training, max_seq_tokens=11264)))
    wide = resolved(CARD, "lora.r=1024")
    rank = planner.would_fit(wide)["lora.r"]
    assert planner.choose(replace(wide, lora=replace(wide.lora, r=rank)))
    with pytest.raises(VramPlanError, match=f"lora.r={rank}"):
        planner.choose(replace(wide, lora=replace(wide.lora, r=rank + 1)))


def test_a_tied_embedding_stays_and_plain_transformers_has_no_levers(resolved):
    tied, _ = planner.choose(resolved(CARD, "model=llama_3_2_3b"))
    assert not tied.levers.embedding_on_host
    plain, _ = planner.choose(resolved("hardware=rtx4090_24gb", "hardware.engine=transformers"))
    assert (plain.levers.streamed_layers, plain.levers.embedding_on_host, plain.levers.kept_layers) == (0, False, 0)


def test_the_predicted_speed_on_the_card_that_was_measured(resolved):
    h200 = ["hardware.matmul_tflops=788", "hardware.memory_gb_per_s=4300", "hardware.host_link_gb_per_s=50"]
    run = resolved(CARD, *h200)
    by_hand = planner.predicted(run, Levers(4, 2, 28, True, 0)).tokens_per_s
    plain = planner.predicted(run, Levers(2, 4, 14, True, 0)).tokens_per_s
    assert by_hand == pytest.approx(10_814, rel=0.05)  # benchmarks/train, first call
    assert plain == pytest.approx(10_329, rel=0.05)


def test_a_plan_in_words_and_as_values(resolved):
    run = resolved(CARD)
    chosen, _ = planner.choose(run)
    words = planner.sentence(chosen, 5.25)
    assert words.startswith("4 x 2 cases a step, 24 layers streamed from the host, embedding on the host: 5.12 of 5.25 GiB, ")
    values = planner.as_dict(chosen)
    assert values["peak_bytes"] == chosen.budget.peak_bytes
    assert {type(term["bytes"]) for term in values["terms"]} == {int}


def test_what_would_fit_honours_a_lever_that_is_a_number(resolved):
    run = resolved(CARD, "hardware.checkpoint_skip_layers=8", "training.max_seq_tokens=65536")
    longest = planner.would_fit(run)["training.max_seq_tokens"]
    assert longest < 11200
    assert planner.choose(planner.resized(run, seq=longest))[0].levers.kept_layers == 8
    with pytest.raises(VramPlanError):
        planner.choose(planner.resized(run, seq=longest + 64))
