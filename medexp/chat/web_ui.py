"""A page that asks the base and the tuned model side by side, made of Gradio's components and
served on 127.0.0.1 alone.

With prompt=chat it holds a conversation: both models are asked with what was said before, which are
the tuned model's answers. The run's held-out cases are there to be asked, each with its reference.

The page reaches nothing else: no analytics, fonts of the system, a content security policy that
lets the browser talk to this server only, and no answer to a request for another host name.
"""

import queue
import socket as sockets
import threading
import time
import webbrowser
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

from medexp.chat.held_out_cases import Example
from medexp.chat.interrupt import StopRequest
from medexp.chat.page_parts import (
    Asked,
    ConversationBox,
    add_answer_column,
    add_examples,
    add_option_inputs,
    add_reference_box,
    make_empty_column,
    update_reasoning_box,
)
from medexp.chat.reply import Reply, describe_end, format_markdown
from medexp.chat.responder import Responder
from medexp.config.schema import Prompt
from medexp.data.cases import Turn
from medexp.errors import MachineError, MedexpError
from medexp.evaluation.generation import Sampling
from medexp.reports.summary import NOT_FOR_CLINICAL_USE
from medexp.system.console import Console

HOST = "127.0.0.1"
MAX_UPDATES_PER_S = 8
POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; frame-ancestors 'none';"
    " form-action 'self'"
)
TEXT_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
MONOSPACE_FONTS = ("ui-monospace", "Menlo", "Consolas", "monospace")


def check_installed() -> None:
    """Check that Gradio is installed, without importing it.

    Raises: MachineError saying how to get it.
    """
    if find_spec("gradio") is None:
        raise MachineError("ui=true needs the package gradio: pip install 'medexp[ui]'")


def serve(
    responder: Responder,
    presets: Mapping[str, Prompt],
    examples: Sequence[Example],
    socket: sockets.socket,
    opens: bool,
    console: Console,
) -> None:
    """Serve the page until Ctrl-C."""
    with console.status("building the page"):
        app, stop = _build_app(responder, presets, examples)
    address = f"http://{HOST}:{socket.getsockname()[1]}"

    def announce() -> None:
        console.result(address)
        console.info("Ctrl-C ends it")
        if opens:
            webbrowser.open(address)

    with suppress(KeyboardInterrupt):
        _build_server(app, announce).run(sockets=[socket])
    # An answer that is being generated ends at its next token.
    stop.is_requested = True


def _build_server(app: Any, on_startup: Callable[[], None]) -> Any:
    """Return uvicorn's server of `app`, which calls `on_startup` once it answers."""
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[sockets.socket] | None = None) -> None:
            await super().startup(sockets)
            on_startup()

    return Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))


def _build_app(
    responder: Responder, presets: Mapping[str, Prompt], examples: Sequence[Example]
) -> tuple[Any, StopRequest]:
    import gradio
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    stop = StopRequest()
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(_ContentSecurityPolicy)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    theme = gradio.themes.Default(font=TEXT_FONTS, font_mono=MONOSPACE_FONTS)
    blocks = _build_page(responder, {**presets}, examples, stop)
    return (
        gradio.mount_gradio_app(
            app,
            blocks,
            "/",
            footer_links=[],
            theme=theme,
            css=_CSS,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
        ),
        stop,
    )


class _ContentSecurityPolicy:
    """Adds the content security policy to every response."""

    def __init__(self, app: Any):
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    (b"content-security-policy", POLICY.encode()),
                ]
            await send(message)

        await self._app(scope, receive, send_with_policy)


_CSS = """
.gradio-container {max-width: 1200px !important; width: 100% !important; margin: 0 auto !important}
@media (max-width: 700px) {.tuned-column {order: -1}}
.prose.notice {font-style: italic}
.prose.status {opacity: .75; font-size: .9em}
.prose.answer h2 {font-size: 1.05em; margin: .9em 0 .2em}
.prose.reasoning {opacity: .75}
"""


def _build_page(
    responder: Responder,
    presets: Mapping[str, Prompt],
    examples: Sequence[Example],
    stop: StopRequest,
) -> Any:
    """The page: a question, how it is answered, and both answers below."""
    import gradio

    own = f"the run's own ({responder.config.prompt.name})"
    prompts = {own: responder.config.prompt, **presets}
    with gradio.Blocks(title=f"medexp: ask {responder.name}", analytics_enabled=False) as blocks:
        gradio.Markdown(
            f"# Ask {responder.name}\n{responder.config.model.name}, before and after fine-tuning"
        )
        gradio.Markdown(NOT_FOR_CLINICAL_USE, elem_classes="notice")
        conversation = ConversationBox(gradio, responder)
        question = gradio.Textbox(
            label="Question (Shift-Enter asks)",
            lines=4,
            max_lines=16,
            placeholder="A vignette and what you want to know",
        )
        with gradio.Row():
            ask = gradio.Button("Ask both", variant="primary")
            stop_button = gradio.Button("Stop")
            anew = gradio.Button("New conversation", visible=conversation.is_held)
        with gradio.Accordion("Prompt and sampling", open=False):
            options = add_option_inputs(gradio, responder.sampling, list(prompts))
        with gradio.Row(equal_height=False):
            outputs = [
                component
                for title in ("Base", "Tuned")
                for component in add_answer_column(gradio, title)
            ]
        reference = add_reference_box(gradio)
        if examples:
            add_examples(gradio, examples, question, conversation, reference, outputs)

        def ask_both(
            question: str,
            before: list[Turn],
            prompt: str,
            temperature: float,
            top_p: float,
            max_new_tokens: float,
            seed: float,
        ) -> Iterator[list[Any]]:
            sampling = Sampling(int(max_new_tokens), temperature, top_p, int(seed))
            asked = Asked(question, tuple(before), prompts[prompt], sampling)
            for columns, tuned in _stream_both(responder, asked, stop):
                yield [*columns, *conversation.go_on(asked, tuned)]

        gradio.on(
            [ask.click, question.submit],
            ask_both,
            [question, conversation.before, *options],
            [*outputs, *conversation.outputs],
            concurrency_limit=1,
            api_visibility="private",
        )
        anew.click(
            lambda: [*conversation.show(()), ""],
            None,
            [*conversation.outputs, question],
            api_visibility="private",
        )
        stop_button.click(
            lambda: setattr(stop, "is_requested", True), queue=False, api_visibility="private"
        )
    return blocks


def _stream_both(
    responder: Responder, asked: Asked, stop: StopRequest
) -> Iterator[tuple[list[Any], Reply | None]]:
    """Yield what both columns show, after every update, and the tuned model's reply once all has
    come: the tuned model answers first, then the base.
    """
    import gradio

    stop.is_requested = False
    tuned: Reply | None = None
    columns = {
        True: make_empty_column("waits for the tuned model"),
        False: make_empty_column("reads the question"),
    }
    yield [*columns[True], *columns[False]], None
    for base in (False, True):
        if stop.is_requested:
            columns[base] = make_empty_column("not asked: stopped")
            break
        try:
            for reply in _stream_reply(responder, asked, base, stop):
                columns[base] = [
                    update_reasoning_box(reply.reasoning),
                    reply.reasoning,
                    format_markdown(reply),
                    _format_status(reply, asked.sampling),
                ]
                tuned = tuned if base else reply
                yield [*columns[True], *columns[False]], None
        except MedexpError as error:
            raise gradio.Error(str(error), title="medexp", print_exception=False) from error
    yield [*columns[True], *columns[False]], tuned


def _format_status(reply: Reply, sampling: Sampling) -> str:
    if reply.is_complete:
        return describe_end(reply, sampling.max_new_tokens)
    return f"{'reasoning' if reply.is_reasoning else 'answering'}, {reply.tokens} tokens"


def _stream_reply(
    responder: Responder, asked: Asked, base: bool, stop: StopRequest
) -> Iterator[Reply]:
    """Yield the reply as it grows, at most MAX_UPDATES_PER_S times a second, and then complete.

    With more updates a browser falls behind a fast model and learns of Stop too late. A generator
    that is closed early ends the reply at the next token.
    """
    updates: queue.Queue[Reply | BaseException] = queue.Queue()
    is_closed = threading.Event()

    def on_token(reply: Reply) -> bool:
        updates.put(reply)
        return stop.is_requested or is_closed.is_set()

    def work() -> None:
        try:
            updates.put(
                responder.reply(
                    asked.question, on_token, base, asked.prompt, asked.sampling, asked.before
                )
            )
        # Raised again below, in the thread that Gradio calls.
        except BaseException as error:
            updates.put(error)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    try:
        while True:
            update = updates.get()
            while not updates.empty():
                update = updates.get()
            if isinstance(update, BaseException):
                raise update
            yield update
            if update.is_complete:
                return
            time.sleep(1 / MAX_UPDATES_PER_S)
    finally:
        is_closed.set()
        worker.join()
