"""The part of the Hugging Face Hub's API that an upload without Xet uses (HF_HUB_DISABLE_XET=1), on
a free port of this machine. What came in is kept."""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


@dataclass
class Hub:
    """What was uploaded: repos by name with what they were created with, files by path, the tokens
    that came along.
    """

    address: str = ""
    repos: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    # large files by SHA-256, not yet committed
    stored: dict[str, bytes] = field(default_factory=dict)


@contextmanager
def serving() -> Iterator[Hub]:
    """A Hub that takes uploads with the token "good" and refuses any other."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path.removeprefix("/api/models/").partition("?")[0] in hub.repos
            self._answer(
                (
                    {"siblings": [], "id": "me/tuned", "sha": "0" * 40}
                    if known
                    else {"error": "Not found"}
                ),
                200 if known else 404,
            )

        def do_PUT(self) -> None:
            content = self._body()
            hub.stored[hashlib.sha256(content).hexdigest()] = content
            self._answer({})

        def do_POST(self) -> None:
            body, token = (
                self._body(),
                (self.headers.get("Authorization") or "").removeprefix("Bearer "),
            )
            hub.tokens.add(token)
            if token != "good":
                self._answer({"error": "Invalid username or password."}, 401)
            elif self.path == "/api/repos/create":
                asked = json.loads(body)
                hub.repos[f"{asked.get('organization')}/{asked['name']}"] = asked
                self._answer({"url": f"{hub.address}/me/tuned"})
            elif "/preupload/" in self.path:
                self._answer({"files": [_mode(each) for each in json.loads(body)["files"]]})
            elif self.path.endswith("/info/lfs/objects/batch"):
                self._answer(
                    {
                        "transfer": "basic",
                        "objects": [_action(hub, each) for each in json.loads(body)["objects"]],
                    }
                )
            elif "/commit/" in self.path:
                _commit(hub, [json.loads(line) for line in body.splitlines()])
                self._answer(
                    {
                        "commitUrl": f"{hub.address}/me/tuned/commit/1",
                        "commitOid": "1" * 40,
                        "pullRequestUrl": None,
                    }
                )
            else:
                self._answer({})

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def _answer(self, content: dict[str, Any], status: int = 200) -> None:
            text = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def _mode(file: dict[str, Any]) -> dict[str, Any]:
    large = file["path"].endswith((".safetensors", ".gguf"))
    return {
        "path": file["path"],
        "uploadMode": "lfs" if large else "regular",
        "shouldIgnore": False,
        "oid": None,
    }


def _action(hub: Hub, asked: dict[str, Any]) -> dict[str, Any]:
    return {
        **asked,
        "actions": {"upload": {"href": f"{hub.address}/lfs/{asked['oid']}", "header": {}}},
    }


def _commit(hub: Hub, lines: list[dict[str, Any]]) -> None:
    for line in lines:
        value = line["value"]
        if line["key"] == "header":
            hub.messages.append(value["summary"])
        elif line["key"] == "file":
            hub.files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            hub.files[value["path"]] = hub.stored[value["oid"]]
