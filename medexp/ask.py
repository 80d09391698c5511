"""python -m medexp.ask: ask a finished run, and read its answer as it comes.

    python -m medexp.ask run=last question="A 54-year-old man has crushing chest pain. What now?"
    # a conversation: follow-ups, /compare with the base, /save, /help
    python -m medexp.ask run=last
    # all of standard input is one question; plain text in a pipe
    cat vignette.txt | python -m medexp.ask run=last
    # a {"question": ...} a line, or an array of them
    python -m medexp.ask run=last ask.format=json < questions.jsonl
    # a page on 127.0.0.1 with base and tuned side by side
    python -m medexp.ask run=last ui=true

Model and prompt are those of the run, and where nothing is drawn (ask.temperature=0) so is the
answer: token by token the one of an evaluation that answers one by one (evaluation.batch_size=1).
In bfloat16 a batch of several rounds otherwise, and what it stored may differ from where two tokens
were nearly as likely.
"""

import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from medexp.chat import held_out_cases, question_input, responder, web_ui
from medexp.chat.conversation import Conversation, make_terminal_reader
from medexp.chat.interrupt import intercept_ctrl_c
from medexp.chat.rendering import LiveRenderer, PlainRenderer, render_reply
from medexp.chat.responder import QuestionEncoder, Responder, bind_presets
from medexp.cli.app import run_command
from medexp.cli.composition import CommandSpec
from medexp.config.command_options import AskFormat, AskOptions, Reasoning
from medexp.config.invocation import Invocation
from medexp.config.prompt_presets import load_prompt_presets
from medexp.config.schema import RunConfig
from medexp.errors import BadInput, ConfigError, RunInterrupted
from medexp.evaluation.generation import Sampling
from medexp.models.session import open_session, prepare_finished_run
from medexp.models.weights import Weights
from medexp.system.console import Console
from medexp.system.ports import listen_on_port
from medexp.tracking import finished_run
from medexp.tracking.finished_run import FinishedRun


def _recompose(
    cfg: DictConfig, options: AskOptions, overrides: Sequence[str]
) -> tuple[DictConfig, FinishedRun]:
    """Return the config of the run that is asked, and that run, once there is something to ask."""
    _refuse_options(options)
    return finished_run.recompose_from_options(cfg, options, overrides)


def ask(config: RunConfig, options: AskOptions, run: FinishedRun, console: Console) -> None:
    """Have `run` answer what is asked on the command line or on standard input; without either,
    hold a conversation or serve a page.

    Raises: any error of `medexp.errors`.
    """
    questions = _read_questions(options)
    config, weights = prepare_finished_run(config, run, console)
    if options.ui:
        with listen_on_port(options.port, "ask.port") as socket:
            answering = open_responder(config, options, run, weights, (), console)
            presets = bind_presets(load_prompt_presets(), answering.encoder.tokenizer)
            examples = held_out_cases.read_examples(run)
            web_ui.serve(answering, presets, examples, socket, options.open, console)
        return
    responder = open_responder(config, options, run, weights, questions, console)
    with_reasoning = options.reasoning is Reasoning.show
    if not questions:
        Conversation(responder, console, with_reasoning, Path.cwd()).run(make_terminal_reader())
    for question in questions:
        if len(questions) > 1 and options.format is AskFormat.text:
            console.raw(f"> {question}\n")
        _answer(responder, question, options.format, with_reasoning, console)


def _refuse_options(options: AskOptions) -> None:
    """Raises ConfigError where options do not go together or there is nothing to ask; MachineError
    where Gradio is missing.
    """
    if options.ui:
        if options.format is AskFormat.json or options.question is not None:
            raise ConfigError(
                "ui=true opens a page; it goes with neither question=... nor ask.format=json: leave"
                " those out"
            )
        web_ui.check_installed()
    elif options.question is not None:
        _refuse_empty(options.question)
    elif sys.stdin.isatty() and (options.format is AskFormat.json or not sys.stdout.isatty()):
        raise ConfigError(
            'question has no value; give question="...", or pipe one in: a conversation needs a'
            " terminal"
        )


def _read_questions(options: AskOptions) -> list[str]:
    """Return the questions of the command line or of standard input; none where a conversation or a
    page is wanted.

    Raises: ConfigError where one is empty; DataError as `question_input.decode_input` and
        `question_input.parse_questions` do.
    """
    if options.question is not None:
        return [options.question]
    if options.ui or sys.stdin.isatty():
        return []
    questions = question_input.parse_questions(question_input.decode_input(sys.stdin.buffer.read()))
    for question in questions:
        _refuse_empty(question)
    return questions


def _refuse_empty(question: str) -> None:
    """Raises ConfigError for a question of nothing but white space."""
    if not question.strip():
        raise ConfigError(
            'the question is empty; give question="...", pipe one in, or leave it out on a terminal'
            " for a conversation"
        )


def open_responder(
    config: RunConfig,
    options: AskOptions,
    run: FinishedRun,
    weights: Weights,
    questions: Sequence[str],
    console: Console,
) -> Responder:
    """Return `run` loaded to answer.

    `weights` are those of its base.
    Raises: ConfigError for any of `questions` that it cannot be asked, before it is loaded.
    """
    base = open_session(config, weights, console)
    config = base.config
    max_new_tokens = options.max_new_tokens or config.evaluation.max_new_tokens
    encoder = responder.make_question_encoder(
        config, base, Sampling(max_new_tokens, options.temperature, options.top_p, options.seed)
    )
    # Encoding needs the tokenizer alone: a question that does not fit is refused before the model
    # is loaded.
    _refuse_unencodable(encoder, questions)
    run_id = run.kept.run_id if run.kept is not None else run.asked
    return responder.load_responder(run.name, run_id, config, base, encoder, console)


def _refuse_unencodable(encoder: QuestionEncoder, questions: Sequence[str]) -> None:
    """Raises ConfigError with what is wrong with any of `questions`."""
    problems: list[str] = []
    for number, question in enumerate(questions, 1):
        try:
            encoder.encode(question)
        except BadInput as error:
            place = f"question {number}: " if len(questions) > 1 else ""
            problems += [f"{place}{problem}" for problem in error.problems]
    if problems:
        raise ConfigError(problems)


def _answer(
    responder: Responder, question: str, form: AskFormat, with_reasoning: bool, console: Console
) -> None:
    """Print the answer to `question` as it comes.

    Raises: RunInterrupted where Ctrl-C has ended it; what came until then is on the screen.
    """
    with intercept_ctrl_c() as stop:
        if form is AskFormat.json:
            reply = responder.reply(question, lambda _: stop.is_requested)
            console.raw(json.dumps(responder.as_json(reply), ensure_ascii=False))
            sys.stdout.flush()
        elif console.results.is_terminal:
            with LiveRenderer(console.results, with_reasoning) as live:
                reply = render_reply(responder, question, live, stop)
        else:
            reply = render_reply(
                responder, question, PlainRenderer(sys.stdout, with_reasoning), stop
            )
    if reply.was_stopped:
        raise RunInterrupted("stopped by Ctrl-C", signal.SIGINT)


def _run(config: RunConfig, invocation: Invocation[AskOptions, FinishedRun]) -> float:
    ask(config, invocation.options, invocation.run, Console())
    return 0.0


COMMAND = CommandSpec("ask", AskOptions, recompose=_recompose)


def main() -> None:
    """Run the command that the command line describes; ends the process."""
    sys.argv[1:] = question_input.quote_question(sys.argv[1:])
    run_command(_run, COMMAND)


if __name__ == "__main__":
    main()
