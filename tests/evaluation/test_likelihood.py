"""The log-likelihood of continuations: both ways agree with one token at a time, and the base is
asked without the adapter."""

import pickle

import pytest
import torch
from helpers.commands import TinyRuns

from medexp.evaluation.likelihood import (
    Continuation,
    fits_tokens,
    measure_groups,
    measure_log_likelihoods,
)
from medexp.models import backend as stack
from medexp.models import loading as model
from medexp.models import weights
from medexp.models.adapter_model import AdapterModel
from medexp.models.tokenizer import load_tokenizer
from medexp.system import machine

PREFIX = tuple(range(100, 112))
CONTINUATIONS = [
    Continuation(PREFIX, (7, 8, 9)),
    Continuation(PREFIX, (7,)),
    Continuation(PREFIX[:5], (300, 301, 302, 303, 304)),
    Continuation(PREFIX, (44, 45, 46, 47), skipped=2),
    Continuation((5,), (6, 7)),
]


@pytest.fixture
def tuned(tiny_runs: TinyRuns) -> AdapterModel:
    run = tiny_runs.run("hardware.dtype=float32")
    modules = stack.load_backend(run.hardware, machine.cache_dir())
    found = weights.find_weights(run.model)
    return model.load_model(run, found, load_tokenizer(found, modules), modules)


def one_by_one(tuned: AdapterModel, each: Continuation) -> float:
    total, ids = 0.0, list(each.prefix)
    for at, token in enumerate(each.ids):
        with torch.no_grad():
            logits = tuned.network(torch.tensor([ids])).logits[0, -1].double()
        if at >= each.skipped:
            total += float(logits.log_softmax(-1)[token])
        ids.append(token)
    return total


def with_random_adapter(tuned: AdapterModel) -> AdapterModel:
    for name, parameter in tuned.network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    return tuned


@pytest.mark.parametrize("shares_prefix", [True, False])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_both_ways_and_every_batch_give_the_sum_of_single_tokens(tuned, shares_prefix, batch_size):
    tuned = with_random_adapter(tuned)
    tuned.network.eval()
    found = measure_log_likelihoods(
        tuned, CONTINUATIONS, fits_tokens(batch_size, 20), shares_prefix
    )
    assert found == pytest.approx([one_by_one(tuned, each) for each in CONTINUATIONS], abs=1e-4)


def test_the_base_does_not_see_the_adapter(tuned):
    before = measure_log_likelihoods(tuned, CONTINUATIONS, fits_tokens(4, 20), True)
    tuned = with_random_adapter(tuned)
    with tuned.adapter_disabled():
        base = measure_log_likelihoods(tuned, CONTINUATIONS, fits_tokens(4, 20), True)
    after = measure_log_likelihoods(tuned, CONTINUATIONS, fits_tokens(4, 20), True)
    assert base == pytest.approx(before, abs=1e-5)
    assert after != pytest.approx(before, abs=1e-2)


def test_no_more_tokens_go_together_than_fit(tuned):
    seen = []

    def fits(rows, longest):
        seen.append((rows, longest))
        return rows * longest <= 30

    counts = []
    measure_log_likelihoods(tuned, CONTINUATIONS, fits, False, counts.append)
    assert counts == [1, 2, 2]
    assert sum(counts) == len(CONTINUATIONS)


def test_all_continuations_of_a_token_sum_to_one(tuned):
    count = tuned.network.get_base_model().lm_head.weight.shape[0]
    every = [Continuation(PREFIX, (token,)) for token in range(count)]
    found = torch.tensor(measure_log_likelihoods(tuned, every, fits_tokens(2048, 13), True))
    assert float(found.exp().sum()) == pytest.approx(1, abs=1e-4)


def test_the_mode_of_the_network_is_put_back(tuned):
    tuned.network.train()
    measure_log_likelihoods(tuned, CONTINUATIONS[:1], fits_tokens(1, 20), True)
    assert tuned.network.training


class LastFirst:
    """Does what is shared out from the last to the first, each sent as to another process."""

    rank, size = 0, 2

    def share(self, model, work, items):
        for place in reversed(range(len(items))):
            sent, item = pickle.loads(pickle.dumps((work, items[place])))
            yield place, sent(model, item)


@pytest.mark.parametrize("shares_prefix", [True, False])
def test_what_comes_in_another_order_is_put_in_its_place(tuned, shares_prefix):
    tuned, fits = with_random_adapter(tuned), fits_tokens(1, 20)
    groups = [CONTINUATIONS, CONTINUATIONS[3:], CONTINUATIONS[:2]]
    alone, told = measure_groups(tuned, groups, fits, shares_prefix), []
    assert alone == [measure_log_likelihoods(tuned, group, fits, shares_prefix) for group in groups]
    tuned.ranks = LastFirst()
    assert measure_groups(tuned, groups, fits, shares_prefix, told.append) == alone
    assert told == [1, 1, 1]
