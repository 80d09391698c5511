import itertools
import re

from medexp.config.changes import change_values
from medexp.config.remarks import remark_on_schedule

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
