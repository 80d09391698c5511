"""Reference items against their corruptions, in a real (tiny) model."""

import pytest
from helpers.commands import TinyRuns

from medexp.config.schema import Prompt
from medexp.data.cases import Case
from medexp.data.encoding import make_vocabulary
from medexp.evaluation.knowledge import score_knowledge
from medexp.evaluation.likelihood import Continuation, fits_tokens, measure_log_likelihoods
from medexp.evaluation.question_forms import make_training_form
from medexp.models import backend as stack
from medexp.models import loading as model
from medexp.models import weights
from medexp.models.adapter_model import AdapterModel
from medexp.models.tokenizer import load_tokenizer
from medexp.system import machine

PROMPT = Prompt("a", "Q: {question}\n<think>\n", "{reasoning}\n</think>\n\n{answer}")
CASE = Case(
    "A crushing chest pain?",
    "Heart.",
    "## Symptoms\n- Cold left hand\n## Precautions\n- Aspirin 300 mg at once",
    {"condition": "acute coronary syndrome"},
)


@pytest.fixture
def tuned(tiny_runs: TinyRuns) -> AdapterModel:
    run = tiny_runs.run("hardware.dtype=float32")
    modules = stack.load_backend(run.hardware, machine.cache_dir())
    found = weights.find_weights(run.model)
    return model.load_model(run, found, load_tokenizer(found, modules), modules)


def test_every_corruption_is_a_pair_and_the_items_are_counted_alone(tuned):
    form = make_training_form(PROMPT, make_vocabulary(tuned.tokenizer, PROMPT))
    counted = []
    cases = [CASE, Case("Another?", "", "No sections here.")]
    (found,) = score_knowledge(tuned, form, cases, fits_tokens(8, 200), True, counted.append)
    assert counted == [1, 1]
    assert (found.case, found.group) == (CASE.digest, "acute coronary syndrome")
    kinds = [pair.kind for pair in found.pairs]
    assert sorted(kinds) == ["dose", "dose", "drug", "laterality", "send_home"]
    hand = found.pairs[kinds.index("laterality")]
    prefix = form.encode_prefix(CASE.question, "")
    heading = form.encode("## Symptoms\n-")
    true, corrupted = (
        Continuation(prefix, (*heading, *form.encode(f" Cold {side} hand")), skipped=len(heading))
        for side in ("left", "right")
    )
    expected = measure_log_likelihoods(tuned, [true, corrupted], fits_tokens(1, 200), False)
    assert [-hand.true_nats, -hand.corrupted_nats] == pytest.approx(expected, abs=1e-4)
    assert hand.true_tokens == len(form.encode(" Cold left hand"))
