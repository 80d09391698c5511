"""A language model as judge of each answer, through MLflow's GenAI judges, at any OpenAI-compatible
endpoint. Off unless asked for.

What cannot be judged is left out and said: a run never fails because of its judge.
"""

import logging
import os
import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from medexp.config.schema import Judge
from medexp.errors import first_line
from medexp.evaluation.measures.words import extract_answer
from medexp.evaluation.record import AnsweredCase, Judgement, Judgements

LOWEST, HIGHEST = 1, 5
# How long to wait for the endpoint at first; MLflow's own retries take three minutes.
PATIENCE_S = 5


def judge_cases(
    judge: Judge, cases: tuple[AnsweredCase, ...], advance: Callable[[int], None]
) -> Judgements:
    """Return judgements of both answers to every case, as far as the endpoint gave any; `advance`
    is told how many more there are.
    """
    assert judge.url is not None
    if why := _explain_unreachable(judge.url):
        return Judgements((), (), why)
    ask = _make_judge(judge)
    pairs: list[tuple[Judgement, Judgement]] = []
    try:
        for case in cases:
            base = _judge_answer(ask, case, case.base.text)
            pairs.append((base, _judge_answer(ask, case, case.tuned.text)))
            advance(1)
    # A server may answer anything, and MLflow raises what it likes: the run goes on without.
    except Exception as error:
        why = f"the judge at {judge.url} failed after {len(pairs)} cases: {first_line(error)[:300]}"
    return Judgements(tuple(base for base, _ in pairs), tuple(tuned for _, tuned in pairs), why)


def _explain_unreachable(url: str) -> str:
    """Return why nothing can be had from `url`; "" where it answers."""
    address = urlsplit(url)
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname or "", port), PATIENCE_S).close()
    except OSError as error:
        return f"the judge at {url} does not answer ({error.strerror or error})"
    return ""


def _make_judge(judge: Judge) -> Any:
    from mlflow.genai.judges import make_judge

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    # MLflow wants a key, a server of one's own does not.
    os.environ.setdefault("OPENAI_API_KEY", "none")
    return make_judge(
        name="clinical_agreement",
        instructions=judge.instructions or "",
        model=f"openai:/{judge.model}",
        feedback_value_type=int,
        inference_params={"temperature": 0},
        base_url=judge.url,
    )


def _judge_answer(ask: Any, case: AnsweredCase, text: str) -> Judgement:
    from mlflow.tracing.constant import AssessmentMetadataKey as Key

    feedback = ask(
        inputs={"case": case.question},
        outputs=extract_answer(text),
        expectations={"reference": case.reference},
    )
    metadata, value = feedback.metadata or {}, feedback.value
    counts = (Key.JUDGE_INPUT_TOKENS, Key.JUDGE_OUTPUT_TOKENS)
    is_mark = isinstance(value, int) and LOWEST <= value <= HIGHEST
    return Judgement(
        mark=float(value) if is_mark else None,
        rationale=str(feedback.rationale or ""),
        tokens=sum(int(metadata.get(name) or 0) for name in counts),
        dollars=float(metadata.get(Key.JUDGE_COST) or 0),
    )
