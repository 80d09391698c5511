import itertools
import re

from medexp.config.changes import change_values
from medexp.config.remarks import remark_on_kernels, remark_on_schedule

WARMUP = (
    "training.warmup_steps=5 is not less than the 4 steps of this run: the learning rate never"
    " reaches training.learning_rate=0.004; set training.warmup_steps=0"
)
EVERY = (
    "evaluation.every_steps=20 is more than the 4 steps of this run: the held-out loss is measured"
    " before and after, and not on the way; set evaluation.every_steps=2 to measure it halfway"
)


def test_a_short_run_is_told_what_its_presets_do_to_it(resolved):
    assert [*remark_on_schedule(resolved("hardware=cpu", "training.max_steps=4"), 4)] == [
        WARMUP,
        EVERY,
    ]


def test_a_remark_that_is_followed_is_not_made_again(resolved):
    run = resolved("hardware=cpu")
    for steps, warmup in itertools.product(range(1, 25), (0, 1, 5, 20)):
        run = change_values(run, {"training.warmup_steps": warmup, "evaluation.every_steps": 20})
        said = [*remark_on_schedule(run, steps)]
        assert any("warmup" in each for each in said) is (warmup >= steps)
        assert any("every_steps" in each for each in said) is (20 > steps > 1)
        for group, key, value in re.findall(r"set (\w+)\.(\w+)=(\d+)", " ".join(said)):
            run = change_values(run, {f"{group}.{key}": int(value)})
        assert not [*remark_on_schedule(run, steps)], steps


def test_a_share_of_the_steps_is_told_in_shares(resolved):
    whole = ["hardware=cpu", "training.warmup_steps=null", "evaluation.every_steps=1"]
    for steps in range(1, 25):
        run = resolved(*whole, "training.warmup_ratio=1")
        (said,) = remark_on_schedule(run, steps)
        assert said.startswith("training.warmup_ratio=1 is not less than")
        share = float(re.search(r"set training\.warmup_ratio=(\S+)$", said)[1])
        run = change_values(run, {"training.warmup_ratio": share})
        assert not [*remark_on_schedule(run, steps)], steps


def test_a_constant_rate_has_no_warm_up(resolved):
    run = resolved("hardware=cpu", "training.schedule=constant", "evaluation.every_steps=1")
    assert not [*remark_on_schedule(run, 4)]


def test_the_rate_of_a_warm_up_as_long_as_the_run_stays_below_what_was_asked():
    """What the remark says of Transformers' schedule."""
    import torch
    from transformers import get_scheduler

    for warmup, reaches in ((3, True), (4, False)):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        schedule = get_scheduler("linear", optimizer, num_warmup_steps=warmup, num_training_steps=4)
        rates = []
        for _ in range(4):
            rates.append(schedule.get_last_lr()[0])
            optimizer.step()
            schedule.step()
        assert (max(rates) == 1.0) is reaches


def test_what_leaves_the_fused_kernels_is_said_once(resolved):
    card = "hardware=rtx4090_24gb"
    fused = ["lora.rank_stabilised=true", "training.neftune_noise_alpha=5"]
    assert not [*remark_on_kernels(resolved(card, *fused, "training.loraplus_lr_ratio=16"))]
    (said,) = remark_on_kernels(resolved(card, "lora.dora=true", "lora.bias=lora_only"))
    assert said.startswith("lora.dora=true runs outside Unsloth's fused kernels")
    (said,) = remark_on_kernels(resolved(card, "lora.bias=all"))
    assert said.startswith("lora.bias=all runs outside Unsloth's fused kernels")
    (said,) = remark_on_kernels(resolved(card, "lora.dropout=0.05"))
    assert said.startswith("lora.dropout=0.05 takes up to 8 % more of the card than planned")
    plain = "hardware.engine=transformers"
    assert not [*remark_on_kernels(resolved(card, plain, "lora.dora=true"))]
