"""A finished run that answers: a question becomes tokens as in training, and the answer comes token
by token. With prompt=chat it is asked as the last turn of a conversation.

A question that is empty, holds a mark of the prompt or leaves no room for an answer is refused
before the model is loaded. Other control tokens in it are plain text.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from medexp.chat.reply import Reply, make_json_object
from medexp.config.schema import Prompt, RunConfig
from medexp.data import prompts
from medexp.data.cases import Turn
from medexp.data.encoding import encode_prompt, make_vocabulary
from medexp.data.think_marks import THINK_END, THINK_START
from medexp.errors import ConfigError
from medexp.evaluation import generation
from medexp.evaluation.generation import Sampling
from medexp.evaluation.record import Answer
from medexp.models import loading as model_loading
from medexp.models.adapter_model import AdapterModel
from medexp.models.memory_guard import Meter, memory_phase
from medexp.models.session import Session, load_model_under_ceiling
from medexp.models.tokenizer import read_context_tokens
from medexp.planning.memory_terms import Phase
from medexp.system.console import Console

# Called with the reply after every token. Where it returns True the reply ends there.
TokenCallback = Callable[[Reply], bool]


@dataclass
class QuestionEncoder:
    """Encodes questions as token ids, in the prompt that the run was trained with."""

    tokenizer: Any
    prompt: Prompt
    sampling: Sampling
    context_tokens: int

    def encode(
        self,
        question: str,
        prompt: Prompt | None = None,
        sampling: Sampling | None = None,
        before: Sequence[Turn] = (),
    ) -> list[int]:
        """Return the token ids that the model is given for `question`, with prompt=chat after what
        was said `before`; an evaluation gives the same.

        Raises: ConfigError if it is empty, holds a mark that the prompt writes, or leaves too
            little of the context for the answer.
        """
        prompt, sampling = prompt or self.prompt, sampling or self.sampling
        words = make_vocabulary(self.tokenizer, prompt)
        if not question.strip():
            raise ConfigError('the question is empty; give question="...", or type one')
        turns = (*before, Turn("user", question.strip()))
        for mark in sorted(words.written | {THINK_START, THINK_END}):
            if held := next((turn for turn in reversed(turns) if mark in turn.text), None):
                where, remedy = "question", "take it out"
                if held is not turns[-1]:
                    where, remedy = "conversation so far", "begin another one"
                raise ConfigError(
                    f"the {where} holds {mark!r}, which the model reads as a control token;"
                    f" {remedy}"
                )
        ids = encode_prompt(prompts.render_question(prompt, question.strip(), turns), words)
        bare = [Turn(turn.role, "x") for turn in turns]
        if words.holds_stray_control(
            ids, encode_prompt(prompts.render_question(prompt, "x", bare), words)
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
            what = "conversation" if before else "question"
            remedy = "begin another one" if before else "shorten the question"
            raise ConfigError(
                f"the {what} has {len(ids)} tokens with prompt={prompt.name} and {allowed} are"
                f" allowed: the context of {self.context_tokens} less"
                f" ask.max_new_tokens={sampling.max_new_tokens}; {remedy} or lower that"
            )
        return ids


@dataclass
class Responder:
    """The model of a run, base and tuned, that answers one question at a time under the run's VRAM
    ceiling.
    """

    name: str
    run_id: str
    config: RunConfig
    model: AdapterModel
    encoder: QuestionEncoder
    meter: Meter

    @property
    def sampling(self) -> Sampling:
        """How the command line wants tokens to be sampled."""
        return self.encoder.sampling

    @property
    def converses(self) -> bool:
        """Was the run trained with a prompt that writes conversations?"""
        return isinstance(self.config.prompt, prompts.ChatPrompt)

    def as_json(self, reply: Reply) -> dict[str, object]:
        """Return `reply` as JSON values, with the run and the model that it comes from."""
        return make_json_object(reply, self.run_id, self.config.model.name)

    def reply(
        self,
        question: str,
        on_token: TokenCallback,
        base: bool = False,
        prompt: Prompt | None = None,
        sampling: Sampling | None = None,
        before: Sequence[Turn] = (),
    ) -> Reply:
        """Return the complete reply to `question`; `on_token` gets it after every token. What was
        said `before` is part of what is asked with prompt=chat, and of no other.

        Raises: ConfigError as `QuestionEncoder.encode` does; VramCeilingError.
        """
        prompt = prompt or self.config.prompt
        sampling = sampling or self.sampling
        before = tuple(before) if isinstance(prompt, prompts.ChatPrompt) else ()
        token_ids = self.encoder.encode(question, prompt, sampling, before)
        started_at = time.perf_counter()
        expects_reasoning = prompts.opens_reasoning(prompt)
        empty = Reply(question.strip(), base, "", 0, 0.0, expects_reasoning, before=before)
        was_stopped = False

        def handle_token(answer: Answer) -> bool:
            nonlocal was_stopped
            # After the model's own end there is nothing left to stop.
            was_stopped = not answer.ended and on_token(_update_reply(empty, answer, started_at))
            return was_stopped

        try:
            with memory_phase(Phase.answering, "answering", self.meter):
                answer = generation.generate_answer(
                    self.model, token_ids, sampling, base, handle_token
                )
        except BaseException:
            # An error in the middle of a token must not be in the way of the next question.
            model_loading.recover_from_failed_step(self.model)
            raise
        return replace(
            _update_reply(empty, answer, started_at),
            is_complete=True,
            ended_by_model=answer.ended,
            was_stopped=was_stopped,
        )


def _update_reply(reply: Reply, answer: Answer, started_at: float) -> Reply:
    seconds = time.perf_counter() - started_at
    return replace(reply, text=answer.text, tokens=answer.tokens, seconds=seconds)


def bind_presets(presets: Mapping[str, Prompt], tokenizer: Any) -> dict[str, Prompt]:
    """Return `presets` as they are written for `tokenizer`. One whose chat template it has not, or
    that ends an answer by another token than this run does, is left out.
    """
    bound = {}
    for name, preset in presets.items():
        with suppress(ConfigError):
            prompt = prompts.bind_prompt(preset, tokenizer)
            template = prompt.template if isinstance(prompt, prompts.ChatPrompt) else None
            if template is None or template.end == tokenizer.eos_token:
                bound[name] = prompt
    return bound


def make_question_encoder(
    config: RunConfig, session: Session, sampling: Sampling
) -> QuestionEncoder:
    """Return the encoder of questions for the model of `session`, which need not be loaded yet."""
    context_tokens = read_context_tokens(session.weights, session.modules)
    return QuestionEncoder(session.tokenizer, config.prompt, sampling, context_tokens)


def load_responder(
    name: str,
    run_id: str,
    config: RunConfig,
    session: Session,
    encoder: QuestionEncoder,
    console: Console,
) -> Responder:
    """Load the model of a run with its adapter; returns it ready to answer."""
    model = load_model_under_ceiling(config, session, console)
    return Responder(name, run_id, config, model, encoder, session.meter)
