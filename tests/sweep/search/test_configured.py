"""The run as configured as a point of the space, and what is equal around it."""

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra

from medexp.config.registration import register_with_hydra
from medexp.config.shipped import find_conf_dir
from medexp.sweep.search import configured
from medexp.sweep.search.search_space import FloatRange, IntRange, SearchSpace, parse_search_space


@pytest.fixture
def find():
    """find(range, *more): the point that the composed run has in that space."""

    def made(sweep, *more):
        register_with_hydra()
        with hydra.initialize_config_dir(str(find_conf_dir()), version_base="1.3"):
            loader = GlobalHydra.instance().config_loader()
            space = parse_search_space({}, [sweep], loader)
            cfg = hydra.compose("train", list(more), return_hydra_config=True)
        (key,) = space.dimensions
        point = configured.find_configured_point(cfg, space)
        return None if point is None else (point[key], key)

    return made


@pytest.mark.parametrize(
    ("sweep", "value"),
    [
        ("lora.r=choice(8,16)", 16),
        ("lora.r=tag(log,int(interval(4,64)))", 16),
        ("lora.alpha=interval(1.0,64.0)", 16.0),
        ("lora=choice(attention_only,all_linear)", "all_linear"),
        ("experiment=null,2026-11-22_attention_only", None),
        ("training.epochs=1,null", None),
        ("training.plan=choice(frugal,manual)", "manual"),
        ("lora.dora=choice(true,false)", False),
        ("lora.target_modules=choice([q_proj,v_proj],[q_proj,k_proj,v_proj,o_proj,gate_proj,"
         "up_proj,down_proj])", "[q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj]"),
    ],
)  # fmt: skip
def test_the_run_as_configured_is_found_whatever_varies(find, sweep, value):
    found = find(sweep)
    assert found is not None
    assert (found[0], type(found[0])) == (value, type(value))


@pytest.mark.parametrize(
    "sweep",
    [
        "lora.r=choice(4,8)",
        "lora.r=int(interval(32,64))",
        "lora.r=range(4,64,5)",
        "lora=choice(attention_only)",
        "training.epochs=choice(1,2)",
        "training.epochs=int(interval(1,3))",
        "lora.dora=choice(0,1)",
        "lora.target_modules=choice([q_proj,v_proj],[o_proj])",
    ],
)
def test_what_the_space_does_not_hold_lies_outside(find, sweep):
    assert find(sweep) is None


RANKS = {"lora.r": IntRange(4, 64)}
WITH_RATE = RANKS | {"training.learning_rate": FloatRange(1e-4, 1e-2)}


@pytest.mark.parametrize(
    ("words", "space", "said"),
    [
        ([], RANKS, "lora.alpha=16 stays while the rank varies, so the scale alpha / r goes from 4"
         " (r=4) to 0.25 (r=64); lora.alpha=null lora.alpha_ratio=1 keeps it equal"),
        (["lora.rank_stabilised=true"], RANKS, "lora.alpha=16 stays while the rank varies, so the"
         " scale alpha / sqrt(r) goes from 8 (r=4) to 2 (r=64)"),
        (["sweep=grid_rank"], RANKS, "equal for every rank: the scale alpha / r = 1, learning rate"
         " 0.004, 12 steps, 800 tokens, seed 3407"),
        (["sweep=rank_lr_seq"], WITH_RATE, "equal for every rank: the scale alpha / r = 1"),
        ([], RANKS | {"lora.alpha": IntRange(8, 32)}, ""),
        ([], {"training.learning_rate": FloatRange(1e-4, 1e-2)}, ""),
    ],
)  # fmt: skip
def test_a_sweep_over_ranks_says_what_is_equal(resolved, no_card, words, space, said):
    assert configured.remark_on_rank(resolved(*words, on=no_card), SearchSpace(space)) == said
