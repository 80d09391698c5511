"""A finished run that answers: a question becomes the tokens it was trained on, and the answer is
heard token by token.

Refuses, before the model is loaded, a question that is empty, holds a mark of the prompt, or leaves
no room for an answer. Other control tokens in it are plain text.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from medexp.chat.reply import Reply, make_json_object
from medexp.config.schema import Prompt, RunConfig
from medexp.data import prompts
from medexp.data.encoding import encode_prompt, make_vocabulary
from medexp.data.think_marks import THINK_END, THINK_START
from medexp.errors import ConfigError
from medexp.evaluation import generation
from medexp.evaluation.generation import Sampling
from medexp.evaluation.record import Answer
from medexp.models import loading as model
from medexp.models import memory_guard as guard
from medexp.models.adapter_model import AdapterModel
from medexp.models.memory_guard import memory_phase
from medexp.models.session import Session, load_model_under_ceiling
from medexp.models.tokenizer import read_context_tokens
from medexp.planning.memory_terms import Phase
from medexp.system.console import Console

TokenCallback = Callable[[Reply], bool]


@dataclass
class QuestionEncoder:
    """Questions as token ids, in the words of the prompt that the run was trained with."""

    tokenizer: Any
    prompt: Prompt
    sampling: Sampling
    context_tokens: int

    def encode(
        self, question: str, prompt: Prompt | None = None, sampling: Sampling | None = None
    ) -> list[int]:
        """The tokens that `question` is asked with, those of an evaluation.

        Raises: ConfigError if it is empty, holds a mark that the prompt writes, or leaves too
            little of the context for the answer.
        """
        prompt, sampling = prompt or self.prompt, sampling or self.sampling
        words = make_vocabulary(self.tokenizer, prompt)
        if not question.strip():
            raise ConfigError('the question is empty; give question="...", or type one')
        for mark in sorted(words.written | {THINK_START, THINK_END}):
            if mark in question:
                raise ConfigError(
                    f"the question holds {mark!r}, which the model reads as a control token; take"
                    " it out"
                )
        ids = encode_prompt(prompts.render_question(prompt, question.strip()), words)
        if words.holds_stray_control(
            ids, encode_prompt(prompts.render_question(prompt, ""), words)
        ):
            raise ConfigError(
                "the question holds text that the tokenizer reads as a control token; take it out"
            )
        allowed = self.context_tokens - sampling.max_new_tokens
        if allowed < 1:
            raise ConfigError(
                f"ask.max_new_tokens={sampling.max_new_tokens} leaves nothing of the model's"
                f" context of {self.context_tokens} tokens for the question; lower it"
            )
        if len(ids) > allowed:
            raise ConfigError(
                f"the question has {len(ids)} tokens with prompt={prompt.name} and {allowed} are"
                f" allowed: the context of {self.context_tokens} less"
                f" ask.max_new_tokens={sampling.max_new_tokens}; shorten the question or lower that"
            )
        return ids


@dataclass
class Responder:
    """The model of a run, base and tuned, that answers one question at a time under the run's VRAM
    ceiling.
    """

    name: str
    run_id: str
    run: RunConfig
    tuned: AdapterModel
    encoder: QuestionEncoder
    meter: guard.Meter

    @property
    def sampling(self) -> Sampling:
        """How the command line wants answers to be drawn."""
        return self.encoder.sampling

    def as_json(self, reply: Reply) -> dict[str, object]:
        """`reply` as plain values, with the run and the model that it comes from."""
        return make_json_object(reply, self.run_id, self.run.model.name)

    def reply(
        self,
        question: str,
        heard: TokenCallback,
        base: bool = False,
        prompt: Prompt | None = None,
        sampling: Sampling | None = None,
    ) -> Reply:
        """The whole reply to `question`; `heard` is given it after every token, and ends it there
        by returning True.

        Raises: ConfigError as `Questions.ids` does; VramCeilingError.
        """
        prompt, sampling = prompt or self.run.prompt, sampling or self.sampling
        ids, began = self.encoder.encode(question, prompt, sampling), time.perf_counter()
        empty = Reply(
            question.strip(), base, "", 0, 0.0, expects_reasoning=prompts.closes_reasoning(prompt)
        )
        stopped = False

        def listening(answer: Answer) -> bool:
            nonlocal stopped
            stopped = not answer.ended and heard(_update_reply(empty, answer, began))
            return stopped

        try:
            with memory_phase(Phase.answering, "answering", self.meter):
                answer = generation.generate_answer(self.tuned, ids, sampling, base, listening)
        except BaseException:
            # ended in the middle of a token: the next question finds the model in order
            model.recover_from_failed_step(self.tuned)
            raise
        return replace(
            _update_reply(empty, answer, began),
            is_complete=True,
            ended_by_model=answer.ended,
            was_stopped=stopped,
        )


def _update_reply(empty: Reply, answer: Answer, began: float) -> Reply:
    return replace(
        empty, text=answer.text, tokens=answer.tokens, seconds=time.perf_counter() - began
    )


def make_question_encoder(run: RunConfig, base: Session, sampling: Sampling) -> QuestionEncoder:
    """What turns questions into tokens for the model in `base`, which need not be loaded yet."""
    return QuestionEncoder(
        base.tokenizer, run.prompt, sampling, read_context_tokens(base.weights, base.modules)
    )


def load_responder(
    name: str, run_id: str, run: RunConfig, base: Session, asked: QuestionEncoder, console: Console
) -> Responder:
    """The model of `run` with its adapter, loaded and ready to answer."""
    return Responder(
        name, run_id, run, load_model_under_ceiling(run, base, console), asked, base.meter
    )
