"""`model=hub model.hub_id=NAME` reads the shape from the Hub's config.json, and nothing else."""

import json
import os
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from helpers.commands import command

COMMIT = "c" * 40
QWEN3 = {
    "model_type": "qwen3", "num_hidden_layers": 36, "hidden_size": 2560, "head_dim": 128,
    "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 9728,
    "vocab_size": 151936, "tie_word_embeddings": True,
}  # fmt: skip
PLAN = ("-m", "medexp.plan", "hardware=rtx4050_6gb", "model=hub", "plan.format=json")


class _Hub(BaseHTTPRequestHandler):
    """Answers as huggingface.co does: me/qwen is there, me/closed is gated, all else is missing."""

    asked: list[str]

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        self.asked.append(f"{self.command} {path}")
        config = json.dumps(QWEN3).encode()
        if path.startswith(("/api/models/me/qwen", "/api/models/me/closed")):
            self._send(200, json.dumps({"id": "me/x", "sha": COMMIT, "siblings": []}).encode())
        elif path == f"/me/qwen/resolve/{COMMIT}/config.json":
            self._send(200, config, {"ETag": '"e1"', "X-Repo-Commit": COMMIT})
        elif path.startswith("/me/closed/"):
            self._send(401, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "gated"})
        else:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What commands of this test ask of a Hub on this machine; their cache is empty."""
    _Hub.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    yield _Hub.asked
    server.shutdown()
    server.server_close()


def plan(cwd: Path, *words: str) -> tuple[int, str]:
    return command(*PLAN, *words, cwd=cwd, **{name: os.environ[name] for name in os.environ})


def test_only_config_json_is_fetched_at_the_commit_and_known_offline_afterwards(
    asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, output = plan(tmp_path, "model.hub_id=me/qwen")
    assert status == 0, output
    by_hub = json.loads(output)["chosen"]
    files = {line.partition(" ")[2] for line in asked if "/resolve/" in line}
    assert files == {f"/me/qwen/resolve/{COMMIT}/config.json"}
    # The cache that huggingface_hub left is enough without the Hub.
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    asked.clear()
    status, output = plan(tmp_path, "model.hub_id=me/qwen")
    assert status == 0, output
    assert not asked
    assert json.loads(output)["chosen"] == by_hub
    status, output = command(
        "-m", "medexp.plan", "hardware=rtx4050_6gb", "model=qwen3_4b", "plan.format=json",
        cwd=tmp_path,
    )  # fmt: skip
    assert json.loads(output)["chosen"] == by_hub


@pytest.mark.parametrize(
    ("words", "offline", "said"),
    [
        ([], "0", r"model=hub has no shape: set model\.hub_id=OWNER/NAME"),
        (["model.hub_id=me/gone"], "0", r"model\.hub_id=me/gone \(revision main\): config\.json"),
        (["model.hub_id=me/qwen"], "1", "HF_HUB_OFFLINE is set, and it is not in the local cache"),
        (
            ["model.hub_id=me/closed"],
            "0",
            r"access is gated: accept the terms on \S*/me/closed and set HF_TOKEN in \.env",
        ),
        (["model.hub_id=no_owner/a/b"], "0", r"model\.hub_id=no_owner/a/b"),
    ],
)
def test_what_the_hub_does_not_give_is_one_sentence(
    asked: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    offline: str,
    said: str,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    status, output = plan(tmp_path, *words)
    lines = [line for line in output.splitlines() if line.startswith("medexp:")]
    assert status == 2, output
    assert len(lines) == 1
    assert re.search(said, " ".join(output.split())), output
    assert "Traceback" not in output
