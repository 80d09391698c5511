"""The judge over HTTP, at a server of this test's own: marks and cost come back, and a server that
is down or odd stops nothing.
"""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from medexp.config.schema import Judge
from medexp.evaluation.judge import judge_cases
from medexp.evaluation.record import Answer, AnsweredCase, Judgement, Judgements, Record
from medexp.evaluation.scorecard import build_scorecard

CASES = tuple(
    AnsweredCase(
        f"Case {at}?",
        "Give fluids.",
        {},
        Answer(at, "Hm.</think>Rest.", 3, True),
        Answer(at, "So.</think>Fluids.", 3, True),
    )
    for at in range(6)
)


@contextmanager
def endpoint(reply: Any) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The address of a server that answers chat completions with `reply(request)`, and the requests
    it got.
    """
    got: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            status, content = reply(got[-1])
            message = {"role": "assistant", "content": content}
            usage = {"prompt_tokens": 90, "completion_tokens": 10, "total_tokens": 100}
            body = {
                "id": "1",
                "object": "chat.completion",
                "created": 1,
                "model": "m",
                "usage": usage,
            }
            whole = json.dumps(
                body | {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
            ).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(whole)))
            self.end_headers()
            self.wfile.write(whole)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/chat/completions", got
        server.shutdown()


def judge(url: str) -> Judge:
    return Judge(
        model="m",
        url=url,
        instructions="The case {{ inputs }}, the reference {{ expectations }}: mark {{ outputs }}.",
    )


def marks(request: dict[str, Any]) -> tuple[int, str]:
    said = json.dumps(request["messages"])
    assert "</think>" not in said
    assert "Give fluids." in said
    return 200, json.dumps({"result": 5 if "Fluids." in said else 2, "rationale": "because"})


def test_marks_reasons_and_cost_come_back_and_are_compared(lexicon) -> None:
    with endpoint(marks) as (url, got):
        found = judge_cases(judge(url), CASES, lambda _: None)
    assert (len(got), got[0]["model"], got[0]["temperature"]) == (12, "m", 0)
    assert found.tuned[0] == Judgement(5.0, "because", 100, 0.0)
    assert (found.base[0].mark, found.failure) == (2.0, "")
    line = build_scorecard(Record(True, CASES, (), (), judged=found), lexicon).find_result("judge")
    assert (line.before, line.after, line.verdict) == (2, 5, "higher")


def test_a_record_with_judgements_survives_storing() -> None:
    record = Record(
        True,
        CASES,
        (),
        (),
        judged=Judgements((Judgement(None, "?", 1, 0.5),), (Judgement(4.0, "ok", 2, 0.5),), "half"),
    )
    assert Record.from_json(json.dumps(record.as_json()), "here") == record


def test_a_judge_that_is_down_is_said_and_stops_nothing(lexicon) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1/chat/completions"
    found = judge_cases(judge(url), CASES, lambda _: None)
    assert found.base == ()
    assert f"the judge at {url} does not answer" in found.failure
    line = build_scorecard(Record(True, CASES, (), (), judged=found), lexicon).find_result("judge")
    assert (line.verdict, line.missing) == ("not measured", found.failure)


def test_a_judge_that_fails_on_the_way_keeps_what_it_gave() -> None:
    def reply(request: dict[str, Any]) -> tuple[int, str]:
        return marks(request) if "Case 0?" in json.dumps(request["messages"]) else (403, "no")

    with endpoint(reply) as (url, _):
        found = judge_cases(judge(url), CASES, lambda _: None)
    assert (len(found.base), len(found.tuned)) == (1, 1)
    assert "failed after 1 cases" in found.failure


@pytest.mark.parametrize("result", [0, 9, "good"])
def test_what_is_no_mark_is_none(result: object, lexicon) -> None:
    with endpoint(lambda _: (200, json.dumps({"result": result, "rationale": "odd"}))) as (url, _):
        found = judge_cases(judge(url), CASES[:1], lambda _: None)
    assert [each.mark for each in (*found.base, *found.tuned)] in ([None, None], [])
    assert (
        build_scorecard(Record(True, CASES, (), (), judged=found), lexicon)
        .find_result("judge")
        .comparison
        is None
    )
