"""The budget against what cards were measured to take (benchmarks/vram/results), and the arithmetic
behind it.
"""

import json
from functools import cache
from pathlib import Path
from statistics import median

import pytest

from medexp.config.changes import change_values
from medexp.config.families.sizes import count_layer_parameters
from medexp.planning.budget import compute_budget, fits_answering_plan, layer_bytes
from medexp.planning.memory_terms import (
    Levers,
    Phase,
    Place,
    count_lora_parameters,
    dequantised_bytes,
)
from medexp.system.units import MIB

RESULTS = Path(__file__).parents[2] / "benchmarks" / "vram" / "results"
NOTHING_SAVED = [
    "hardware.checkpoint_skip_layers=0",
    "hardware.offload_layers=0",
    "hardware.offload_embedding=false",
]
EIGHT_B = ["hardware=rtx4050_6gb", *NOTHING_SAVED, "evaluation.answers=0"]


def points(name: str, date: str = "2026-11-22", card: str = "h200") -> list[dict]:
    return json.loads((RESULTS / f"{date}_{card}{name}.json").read_text())


def is_whole(point: dict) -> bool:
    """Does it compute its MLP as it did on 2026-11-26: as a whole?"""
    overrides = str(point["overrides"])
    return not is_compiled(point) or "last_product=true" in overrides or "attention" in overrides


def is_plain(point: dict) -> bool:
    return "hardware.engine=transformers" in point["overrides"]


def is_compiled(point: dict) -> bool:
    return "hardware.compile_layers=false" not in point["overrides"] and not is_plain(point)


MEASURED = [
    point
    for name in ("", "_whole", "_small", "_wide")
    for point in points(name, "2026-11-26", "h100")
]
# Measured while embedded tokens lay there to the end of a step, which they have not since.
GROUPS = points("_groups", "2026-12-01")
LATEST = [*filter(is_whole, MEASURED), *GROUPS]


@pytest.fixture(scope="module")
def budgeted(resolved):
    """budgeted(point, *more): the run of a measured point, and its budget."""
    resolved_once = cache(resolved)

    def made(point: dict, *more: str):
        words = "hardware=h200_141gb", *NOTHING_SAVED, "evaluation.answers=0", *point["overrides"]
        # Many points differ in length and micro-batch alone.
        run = change_values(
            resolved_once(*words, *more),
            {
                "training.max_seq_tokens": point["seq"],
                "training.micro_batch": point["micro_batch"],
            },
        )
        hardware = run.hardware
        saved = hardware.offload_layers, hardware.offload_embedding, hardware.checkpoint_skip_layers
        on_host = hardware.offload_activations is True
        levers = Levers(
            point["micro_batch"],
            2,
            *saved,
            is_compiled(point),
            hardware.tile_mlp is True,
            kept_on_host=on_host,
            fp8=hardware.fp8 is True,
        )
        return run, compute_budget(run, levers)

    return made


def is_fitted_on(point: dict) -> bool:
    """A constant of compiled layers was set by it, or by the same step in another process."""
    (family, shape, *_), tokens = point["name"].split("_"), point["micro_batch"] * point["seq"]
    is_small = family in ("z", "v") and (tokens <= 512 or shape in ("1b", "14b", "32b"))
    return (
        (family == "s" and is_compiled(point))
        or family in ("o", "zw")
        or family == "h"
        or point["name"] == "k_w_1b_k12"
        or is_small
    )


def test_what_lies_there_after_loading_is_exact(budgeted):
    every = (
        points("") + points("_validation") + points("_double_buffer") + points("_unseen") + MEASURED
    )
    fresh = {point["name"]: point for point in reversed(every) if not is_plain(point)}
    assert len(fresh) == 103
    later = {"optimizer state", "dequantised weight"}
    for point in fresh.values():
        _, needed = budgeted(point)
        held = [
            term for term in needed.terms if term.place is Place.gpu and term.phase is Phase.always
        ]
        held_bytes = sum(term.num_bytes for term in held if term.name not in later)
        assert held_bytes == pytest.approx(point["after_load_bytes"], abs=0.5 * MIB), point["name"]


def errors(budgeted, measured: list[dict], *more: str, beside: int = 0) -> list[float]:
    """Predicted over measured peak of a training step, in percent; with so many dequantised weights
    `beside` what is planned.
    """
    found = []
    for point in measured:
        run, needed = budgeted(point, *more)
        planned = needed.bytes_in(Phase.training) + beside * dequantised_bytes(run.model.shape)
        planned += embedded_bytes(run) if point in GROUPS else 0
        found.append(100 * (planned / point["train_reserved_bytes"] - 1))
    return found


def embedded_bytes(run) -> int:
    """What the embedded tokens of a micro-batch take."""
    tokens = run.training.micro_batch * run.training.max_seq_tokens
    return 2 * tokens * run.model.shape.hidden


def test_all_that_was_measured_with_today_s_settings(budgeted):
    found = errors(budgeted, LATEST)
    assert len(found) == 74
    assert median(map(abs, found)) <= 2
    assert max(found) <= 5
    assert min(found) >= -1


def test_what_tensors_take_in_compiled_layers_follows_from_the_shape(budgeted):
    """Nothing of it is the allocator's: all terms of a step but the slack."""
    measured = [
        each
        for each in filter(is_whole, MEASURED)
        if is_compiled(each) and each["micro_batch"] * each["seq"] >= 1024
    ]
    plain = [
        each
        for each in measured
        if "checkpoint_skip_layers" not in str(each["overrides"]) and each["name"] != "z_1b"
    ]
    off = []
    for point in plain:
        _, needed = budgeted(point)
        slack = {term.name: term.num_bytes for term in needed.terms}["allocator slack"]
        tensors = needed.bytes_in(Phase.training) - slack
        off.append(100 * (tensors - point["train_allocated_bytes"]) / point["train_reserved_bytes"])
    assert len(off) == 20
    assert max(map(abs, off)) <= 0.6


def test_what_tensors_take_in_pieces_and_groups_follows_from_the_source(budgeted):
    """No constant of it was fitted; kept layers that wait on the host are."""
    for point in GROUPS:
        if point["micro_batch"] * point["seq"] >= 1024 and "_w_" not in point["name"]:
            run, needed = budgeted(point)
            slack = {term.name: term.num_bytes for term in needed.terms}["allocator slack"]
            tensors = needed.bytes_in(Phase.training) - slack + embedded_bytes(run)
            off = 100 * (tensors - point["train_allocated_bytes"]) / point["train_reserved_bytes"]
            assert -1 <= off <= 1.4, point


def test_no_step_in_pieces_and_groups_took_more_than_planned(budgeted):
    found = errors(budgeted, GROUPS)
    assert len(found) == 32
    assert median(found) <= 1.6
    assert max(found) <= 4.3
    assert min(found) >= 0.1


def test_points_that_nothing_was_fitted_on(budgeted):
    found = errors(budgeted, [point for point in LATEST if not is_fitted_on(point)])
    assert len(found) == 26
    assert median(map(abs, found)) <= 2
    assert max(found) <= 5
    assert min(found) >= -1


def test_compiled_layers_as_another_card_took_them_days_before(budgeted):
    """Of today's constants only KEPT_EACH comes from some of these, and no other was fitted on
    them. Then the last product was computed, and after the held-out loss a dequantised weight
    stayed."""
    before = points("_double_buffer") + points("_unseen") + points("_waiting", "2026-11-23")
    found = errors(
        budgeted, [*filter(is_compiled, before)], "hardware.recompute_last_product=true", beside=1
    )
    assert len(found) == 44
    assert median(map(abs, found)) <= 2
    assert max(found) <= 5
    assert sorted(found)[1] >= -1  # all but one, a 3B at 4 x 1,024
    assert min(found) >= -3


def test_layers_that_are_not_compiled(budgeted):
    """Twenty-one points were fitted on."""
    before = [
        point for point in points("_double_buffer") + points("_unseen") if not is_compiled(point)
    ]
    found = errors(budgeted, before)
    assert len(found) == 34
    assert median(map(abs, found)) <= 2
    assert max(found) <= 5
    assert min(found) >= -1


def test_activations_on_the_host_take_one_layer_of_the_card_however_many_wait(resolved):
    run = resolved(*EIGHT_B)
    few, many = (
        compute_budget(run, Levers(2, 4, 0, True, kept, kept_on_host=True)) for kept in (6, 15)
    )
    assert few.peak_bytes == many.peak_bytes
    # what a layer of 2 x 2,048 tokens was seen to save (benchmarks/vram), in pieces of 8 MiB
    saved = 440 * MIB
    waiting = {term.name: term.num_bytes for term in many.terms}["activations of kept layers"]
    assert 14 * saved <= waiting <= 14 * 1.12 * saved
    assert many.link_bytes - few.link_bytes == pytest.approx(4 * 2 * 9 * saved, rel=0.005)


def test_plain_transformers_as_fitted(budgeted):
    found = errors(
        budgeted, [point for point in points("") + points("_validation") if is_plain(point)]
    )
    assert len(found) == 11
    assert max(found) <= 2
    assert min(found) >= -0.6


def test_plain_transformers_on_points_that_nothing_was_fitted_on(budgeted):
    found = errors(
        budgeted, [point for point in points("_shortened", "2026-11-25", "h100") if is_plain(point)]
    )
    assert len(found) == 7
    assert median(map(abs, found)) <= 2
    assert max(found) <= 5
    assert min(found) >= -1


def test_the_peak_of_answering(budgeted):
    """Four prompts of 512 tokens, 16 new ones: the cache by Unsloth's source, the rest measured."""
    asked = [
        "evaluation.answers=1",
        "evaluation.batch_size=4",
        "evaluation.max_seq_tokens=512",
        "evaluation.max_new_tokens=16",
    ]
    any_point = {point["name"]: point for point in points("_unseen")}
    for measured in points("_answers"):
        if "dora" not in measured["name"]:
            _, needed = budgeted(any_point[measured["name"]], *asked)
            assert needed.bytes_in(Phase.answering) == pytest.approx(
                measured["answers_reserved_bytes"], rel=0.045
            ), measured["name"]


def test_the_golden_bytes_of_the_seed_s_recipe(resolved):
    needed = compute_budget(resolved(*EIGHT_B), Levers(2, 4))
    terms = {term.name: term.num_bytes for term in needed.terms}
    assert terms["layer weights"] == 32 * (218_103_808 // 2 + 2 * 8192)
    assert terms["embedding"] == terms["lm_head"] == 2 * 128_256 * 4096
    assert terms["LoRA parameters"] == 4 * 41_943_040
    assert needed.peak_bytes == 6_775_899_750


def test_a_decoder_layer_of_the_8b(resolved):
    run = resolved(*EIGHT_B)
    assert count_layer_parameters(run.model.shape) == 218_103_808
    assert count_lora_parameters(run) == 41_943_040
    streamed, scales = layer_bytes(run)
    assert streamed == 109_068_288
    assert scales == pytest.approx(218_103_808 / 64 + 218_103_808 / 4096, rel=0.01)


def test_streaming_frees_all_but_three_slots(resolved):
    run = resolved(*EIGHT_B)
    layer, _ = layer_bytes(run)
    none, some = (compute_budget(run, Levers(2, 4, streamed)).peak_bytes for streamed in (0, 14))
    assert none - some == (14 - 3) * layer


def test_the_embedding_moves_to_the_host_whole(resolved):
    run = resolved(*EIGHT_B)
    here, there = (compute_budget(run, Levers(2, 4, 0, on_host)) for on_host in (False, True))
    assert (
        here.peak_bytes - there.peak_bytes
        == there.host_bytes - here.host_bytes
        == 2 * 128_256 * 4096
    )


def test_more_of_anything_takes_more(resolved):
    base = compute_budget(resolved(*EIGHT_B), Levers(2, 4)).peak_bytes
    assert compute_budget(resolved(*EIGHT_B), Levers(4, 2)).peak_bytes > base
    assert compute_budget(resolved(*EIGHT_B), Levers(2, 4, 0, False, 1)).peak_bytes > base
    for more in ("lora.r=32", "training.max_seq_tokens=2112", "training.optimizer=adamw_torch"):
        assert compute_budget(resolved(*EIGHT_B, more), Levers(2, 4)).peak_bytes > base
    assert compute_budget(resolved(*EIGHT_B, "lora.r=8"), Levers(2, 4)).peak_bytes < base


def test_without_a_card_everything_is_host_memory(resolved, no_card):
    needed = compute_budget(resolved(on=no_card), Levers(2, 2))
    assert needed.peak_bytes == 0
    assert needed.host_bytes > 2 * 134_515_008


def test_short_questions_go_together_in_the_memory_that_was_planned(resolved):
    run = resolved(
        "hardware=rtx4050_6gb",
        "evaluation.batch_size=2",
        "evaluation.max_seq_tokens=1024",
        "evaluation.max_new_tokens=768",
    )
    assert fits_answering_plan(run, 2, 1024)
    assert not fits_answering_plan(run, 3, 1024)
    assert fits_answering_plan(run, 4, 256)

    def answering(questions: int, longest: int) -> int:
        resized = change_values(
            run, {"evaluation.batch_size": questions, "evaluation.max_seq_tokens": longest}
        )
        levers = Levers(2, 4, 20, True, 0, True)
        return sum(
            term.num_bytes
            for term in compute_budget(resized, levers).terms
            if term.phase is Phase.answering
        )

    assert answering(4, 256) <= answering(2, 1024) < answering(3, 1024)


UNFUSED = points("_unfused", "2026-11-23")
UNFUSED_UNSEEN = points("_unfused_unseen", "2026-11-23")


def test_dora_and_biases_on_the_points_they_were_fitted_on(budgeted):
    found = errors(budgeted, UNFUSED)
    assert len(found) == 17
    assert median(map(abs, found)) <= 1
    assert max(found) <= 3
    assert min(found) >= -1


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("v_3b_dora", 2),
        ("v_3b_bias", 2),
        ("v_1b_dora_eager", 12),
        ("v_1b_dora_attention", 2),
        ("v_1b_dora_plain", 5),
        ("v_3b_dora_plain", 5),
    ],
)
def test_dora_and_biases_on_later_points_never_take_more(budgeted, name, most):
    """Nothing was fitted on the first three; the others showed where plans had been a third to a
    half too high.
    """
    found = errors(budgeted, [point for point in UNFUSED_UNSEEN if point["name"] == name])
    assert found
    assert min(found) >= 0
    assert max(found) <= most


def test_dora_is_measured_and_asked_in_more_memory_than_it_trains_with(budgeted):
    """A pass that is not compiled makes the identity matrix of the widest projection: the peak of
    short sequences.
    """
    for point in [each for each in UNFUSED if "dora" in each["name"]]:
        at_a_time = [
            f"evaluation.batch_size={point['micro_batch']}",
            f"evaluation.max_seq_tokens={point['seq']}",
        ]
        _, needed = budgeted(point, *at_a_time)
        assert needed.bytes_in(Phase.evaluation) == pytest.approx(
            point["evaluation_reserved_bytes"], rel=0.065
        ), point
        assert needed.bytes_in(Phase.evaluation) > 0.97 * point["evaluation_reserved_bytes"], point
    asked = [
        "evaluation.answers=1",
        "evaluation.batch_size=4",
        "evaluation.max_seq_tokens=512",
        "evaluation.max_new_tokens=16",
    ]
    any_point = {point["name"]: point for point in UNFUSED + UNFUSED_UNSEEN}
    for measured in points("_unfused_answers", "2026-11-23"):
        _, needed = budgeted(any_point[measured["name"]], *asked)
        assert needed.bytes_in(Phase.answering) == pytest.approx(
            measured["answers_reserved_bytes"], rel=0.1
        ), measured["name"]
