"""The verifier that an evaluation asks whether the evidence supports each answer, and what it said.

`evaluation.verifier` is `base` (the run's own base, its adapter off), the folder of a causal model,
of an adapter or of a classifier, or the address of an OpenAI-compatible server. The evidence of an
answer is its question's reference. What a verifier is worth depends on the model:
benchmarks/answers measures it on texts by other authors. So its figure is a description, and gives
no verdict.
"""

from collections.abc import Callable, Mapping, Sequence

from medexp.config.schema import Evaluation, RunConfig
from medexp.errors import ConfigError, ModelError
from medexp.evaluation.base_prompt import (
    choose_way,
    close_reasoning,
    encode_best_way,
    render_request,
)
from medexp.evaluation.likelihood import Continuation, measure_log_likelihoods
from medexp.evaluation.record import AnsweredCase
from medexp.evaluation.verifier import (
    EndpointVerifier,
    Item,
    Verifier,
    judge_request,
    load_from_folder,
)
from medexp.models import backend
from medexp.models.adapter_model import AdapterModel
from medexp.planning import planner
from medexp.system import machine
from medexp.system.home import expand_home

BASE = "base"
_ADDRESS = ("http://", "https://")


class BaseVerifier:
    """The base of the run itself, asked for yes or no in the form it was made for."""

    name = "base, judge"

    def __init__(self, model: AdapterModel, fits: Callable[[int, int], bool], shares_prefix: bool):
        self._model, self._fits, self._shares_prefix = model, fits, shares_prefix

    def support(self, items: Sequence[Item]) -> list[float]:
        """Return the log-odds of Yes against No."""
        tokenizer = self._model.tokenizer
        way = choose_way(tokenizer)
        # Behind a template's own marks the reply begins without a space.
        space = " " if way == "plain instruction" else ""
        yes, no = (
            tuple(tokenizer(f"{space}{word}", add_special_tokens=False)["input_ids"])
            for word in ("Yes", "No")
        )
        prefixes = []
        for item in items:
            text = close_reasoning(render_request(tokenizer, judge_request(item), way))
            prefixes.append(tuple(encode_best_way(tokenizer, text.rstrip(" "), way)))
        replies = [Continuation(prefix, reply) for prefix in prefixes for reply in (yes, no)]
        with self._model.adapter_disabled():
            nats = measure_log_likelihoods(self._model, replies, self._fits, self._shares_prefix)
        return [nats[place] - nats[place + 1] for place in range(0, len(nats), 2)]


def check_verifier(evaluation: Evaluation) -> None:
    """Refuse a verifier that is none, before anything heavy loads.

    Raises: ConfigError.
    """
    named = evaluation.verifier
    if named is None or named == BASE:
        return
    if named.startswith(_ADDRESS):
        if evaluation.verifier_model is None:
            raise ConfigError(
                f"evaluation.verifier={named} is a server; name the model that it is to ask in"
                " evaluation.verifier_model"
            )
        return
    folder = expand_home(named)
    if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise ConfigError(
            f"evaluation.verifier={named} is no verifier: give base, the folder of a model (with"
            " config.json or adapter_config.json), or the address of a server (http://...)"
        )


def make_verifier(
    config: RunConfig, model: AdapterModel, fits: Callable[[int, int], bool]
) -> Verifier:
    """Return the verifier that `config.evaluation.verifier` names.

    On a card with a planned ceiling a model from a folder is loaded into the processor's memory.
    Raises: ModelError if the folder holds none.
    """
    evaluation, is_planned = config.evaluation, planner.is_planned(config)
    assert evaluation.verifier is not None
    if evaluation.verifier == BASE:
        return BaseVerifier(model, fits, not is_planned)
    if evaluation.verifier.startswith(_ADDRESS):
        return EndpointVerifier(str(evaluation.verifier_model), evaluation.verifier)
    libraries = backend.load_backend(config.hardware, machine.cache_dir())
    return load_from_folder(
        expand_home(evaluation.verifier),
        libraries,
        evaluation.batch_size,
        device="cpu" if is_planned else None,
    )[0]


def verify_answers(
    verifier: Verifier,
    cases: Sequence[AnsweredCase],
    arms: Sequence[str],
    advance: Callable[[int], None],
) -> Mapping[str, tuple[float, ...]]:
    """Return how much `verifier` finds the first answer of every case supported, by arm.

    Above 0 it says yes. Nothing where a server does not answer: a run never fails because of it.
    """
    found: dict[str, tuple[float, ...]] = {}
    for arm in arms:
        items = [
            Item(case.question, f"{case.question}\n{case.reference}", case.answers(arm)[0].text)
            for case in cases
        ]
        values: list[float] = []
        for item in items:
            try:
                values += verifier.support([item])
            except ModelError:
                return {}
            advance(1)
        found[arm] = tuple(values)
    return found
