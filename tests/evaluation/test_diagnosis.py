"""Rivals of a diagnosis, where its name stands, and what it costs less than without a question."""

import pytest
import torch
from helpers.commands import TinyRuns

from medexp.config.schema import Prompt
from medexp.data.cases import Case
from medexp.data.encoding import make_vocabulary
from medexp.evaluation.diagnosis import (
    DRAWS,
    RIVALS,
    STEM,
    draw_rivals,
    list_known_conditions,
    score_diagnoses,
)
from medexp.evaluation.likelihood import Continuation, fits_tokens, measure_log_likelihoods
from medexp.evaluation.measures.conditions import are_related
from medexp.evaluation.question_forms import make_training_form
from medexp.models import backend as stack
from medexp.models import loading as model
from medexp.models import weights
from medexp.models.adapter_model import AdapterModel
from medexp.models.tokenizer import load_tokenizer
from medexp.system import machine

GOUT = Case(
    "A hot red big toe since last night. What is it?",
    "Sudden.",
    "Gout.",
    {"condition": "gout", "specialty": "rheumatology and orthopaedics"},
)
REASONED = Prompt("a", "Q: {question}\n<think>\n", "{reasoning}\n</think>\n\n{answer}")
DIRECT = Prompt("a", "Q: {question}\n", "{answer}")


@pytest.fixture
def tuned(tiny_runs: TinyRuns) -> AdapterModel:
    run = tiny_runs.run("hardware.dtype=float32")
    modules = stack.load_backend(run.hardware, machine.cache_dir())
    found = weights.find_weights(run.model)
    return model.load_model(run, found, load_tokenizer(found, modules), modules)


def test_rivals_are_of_the_specialty_first_and_never_related():
    every = list_known_conditions([])
    own = [name for name, specialty in every.items() if specialty == GOUT.extra["specialty"]]
    # As if the specialty had gout and five others alone.
    few = {"gout", *[name for name in own if not are_related(name, "gout")][:5]}
    known = {name: value for name, value in every.items() if name not in own or name in few}
    draws = draw_rivals(GOUT, known, 1)
    assert len(draws) == DRAWS
    for draw in draws:
        assert len(set(draw)) == RIVALS
        assert not any(are_related(name, "gout") for name in draw)
        near = [name for name in draw if known[name] == GOUT.extra["specialty"]]
        # All others of the specialty.
        assert len(near) == 5
    assert len(set(draws)) == DRAWS


def test_rivals_are_those_of_the_seed_and_the_case_whatever_else_is_measured():
    known = list_known_conditions([])
    assert draw_rivals(GOUT, known, 1) == draw_rivals(GOUT, known, 1)
    assert draw_rivals(GOUT, known, 1) != draw_rivals(GOUT, known, 2)


def test_a_condition_of_its_own_data_set_has_rivals_too():
    case = Case("Q?", "", "A", {"condition": "dengue"})
    known = list_known_conditions([case])
    assert known["dengue"] == ""
    assert all(len(draw) == RIVALS for draw in draw_rivals(case, known, 1))


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [(REASONED, f"Q: What?\n<think>\n\n</think>\n\n{STEM}"), (DIRECT, f"Q: What?\n{STEM}")],
)
def test_the_name_stands_where_the_answer_begins(tuned, prompt, expected):
    form = make_training_form(prompt, make_vocabulary(tuned.tokenizer, prompt))
    ids = form.encode_prefix("What?", STEM)
    assert tuned.tokenizer.decode(ids, skip_special_tokens=True) == expected


def test_the_prior_is_taken_off_and_the_right_one_comes_first(tuned):
    form = make_training_form(REASONED, make_vocabulary(tuned.tokenizer, REASONED))
    cases = [GOUT, Case("No condition?", "", "A")]
    counted = []
    (found,) = score_diagnoses(tuned, form, cases, fits_tokens(16, 200), True, 3, counted.append)
    assert counted == [1]
    assert found.case == GOUT.digest
    assert found.candidates[0] == "gout"
    ids = tuple(form.encode(" gout"))
    asked, bare = (
        Continuation(form.encode_prefix(question, STEM), ids) for question in (GOUT.question, "")
    )
    with_question, prior = measure_log_likelihoods(tuned, [asked, bare], fits_tokens(1, 200), False)
    assert found.nats[0] == pytest.approx(with_question - prior, abs=1e-4)
    assert all(0 not in draw and len(draw) == RIVALS for draw in found.draws)


def test_a_model_that_was_taught_the_name_prefers_it(tuned):
    form = make_training_form(DIRECT, make_vocabulary(tuned.tokenizer, DIRECT))

    def margin() -> float:
        (found,) = score_diagnoses(tuned, form, [GOUT], fits_tokens(16, 200), True, 3)
        return found.margin

    before = margin()
    lessons = []
    for question, name in ((GOUT.question, "gout"), ("", "sepsis")):
        prefix, ids = form.encode_prefix(question, STEM), form.encode(f" {name}")
        lessons.append(([*prefix, *ids], [*[-100] * len(prefix), *ids]))
    optimizer = torch.optim.Adam(
        [each for each in tuned.network.parameters() if each.requires_grad], lr=1e-2
    )
    tuned.network.train()
    for _ in range(60):
        for ids, labels in lessons:
            tuned.network(
                input_ids=torch.tensor([ids]), labels=torch.tensor([labels])
            ).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert margin() > before + 1
    with tuned.adapter_disabled():
        assert margin() == pytest.approx(before, abs=1e-3)
