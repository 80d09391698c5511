"""A folder in which medexp is tortured: its store, its commands, and what must be true of it.

A command is a process of its own, as a user starts it. What is true is read from the files
themselves (sqlite, JSON, safetensors), not through medexp.
"""

import json
import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
LIMIT_S = 900  # after this a command hangs
CLOCKED = ("speed/", "host/", "system/", "vram/")  # of the machine's pace, not of the run
STEPS = 12
TRAIN = (f"training.max_steps={STEPS}", "training.save_steps=2", "evaluation.every_steps=3")


@dataclass(frozen=True)
class Parts:
    """What all rigs share, made once: the words that choose the model, an empty store, and the uid
    commands run as.
    """

    model: tuple[str, ...]
    store: Path


@dataclass
class Command:
    """A command under way, or ended."""

    words: list[str]
    process: subprocess.Popen[bytes]
    log: Path
    began: float = field(default_factory=time.monotonic)

    def wait(self, limit_s: float = LIMIT_S) -> int:
        """Its exit status; killed where it takes too long."""
        try:
            return self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise TimeoutError(f"hangs: {self.typed}") from None

    def kill(self) -> None:
        """kill -9, this process alone."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    @property
    def output(self) -> str:
        """What it printed until now."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    @property
    def last_line(self) -> str:
        """The last error that it printed, else the last line."""
        lines = self.output.strip().splitlines() or ["nothing"]
        errors = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b", line)]
        return (errors or lines)[-1][:300]

    @property
    def typed(self) -> str:
        """As a shell reads it."""
        return shlex.join(["python", *self.words])


class Rig:
    """One folder with a store of its own."""

    def __init__(self, root: Path, parts: Parts, logs: Path | None = None):
        self.root, self.parts, self.logs = root, parts, logs or root.parent
        (root / "mlruns").mkdir(parents=True)
        shutil.copy(parts.store, root / "mlruns" / "mlflow.db")
        self._logs = 0

    def words(self, *more: str) -> list[str]:
        """The command line of a quick training run."""
        return [*self.parts.model, "tracking.root=mlruns", *more]

    def start(
        self,
        module: str,
        *words: str,
        environment: Mapping[str, str] | None = None,
        before: Sequence[str] = (),
    ) -> Command:
        """`python -m medexp.MODULE words...` under way; `before` stands before python (setpriv,
        prlimit).
        """
        self._logs += 1
        log = self.logs / f"{self.root.name}-{self._logs}.log"
        typed = ["-m", f"medexp.{module}", *words]
        # What the caller's path adds stays: libraries may lie in a folder of their own.
        path = os.pathsep.join(
            [str(HERE / "inject"), str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
        env = os.environ | {
            "PYTHONPATH": path,
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
            "CUDA_VISIBLE_DEVICES": "",
        }
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*before, sys.executable, *typed], cwd=self.root, env=env | (environment or {}),
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        return Command(typed, process, log)

    def run(
        self, module: str, *words: str, environment: Mapping[str, str] | None = None
    ) -> Command:
        """The same, ended."""
        command = self.start(module, *words, environment=environment)
        command.wait()
        return command

    @property
    def database(self) -> Path:
        """MLflow's."""
        return self.root / "mlruns" / "mlflow.db"

    def runs(self) -> list[dict[str, Any]]:
        """Every MLflow run: id, name, status, tags."""
        with closing(sqlite3.connect(self.database, timeout=60)) as opened:
            rows = opened.execute(
                "SELECT run_uuid, name, status FROM runs WHERE lifecycle_stage='active' ORDER BY"
                " start_time"
            ).fetchall()
            tags = opened.execute("SELECT run_uuid, key, value FROM tags").fetchall()
        return [
            {
                "id": run_id,
                "name": name,
                "status": status,
                "tags": {key: value for of, key, value in tags if of == run_id},
            }
            for run_id, name, status in rows
        ]

    def figures(self, run_id: str) -> dict[tuple[str, int], set[float]]:
        """Every metric of a run by name and step: each value that was logged for it."""
        with closing(sqlite3.connect(self.database, timeout=60)) as opened:
            rows = opened.execute(
                "SELECT key, step, value FROM metrics WHERE run_uuid=?", (run_id,)
            ).fetchall()
        found: dict[tuple[str, int], set[float]] = {}
        for key, step, value in rows:
            found.setdefault((key, step), set()).add(value)
        return found

    def statuses(self) -> list[str]:
        """The status of every run."""
        return [run["status"] for run in self.runs()]

    def half_files(self) -> list[str]:
        """Files and folders under their final names that are not whole. Checkpoints are left out:
        which of them is whole is for the run that continues to know, and its losses tell."""
        return half_files(self.root)

    def left_over(self) -> list[str]:
        """Workspaces of runs that are not finished."""
        return [
            path.name for path in (self.root / "mlruns" / "unfinished").glob("*") if path.is_dir()
        ]


def half_files(root: Path) -> list[str]:
    """What is half-written below `root`, and why it seems so."""
    return [
        f"{file.relative_to(root)}: {why}"
        for file in sorted(root.rglob("*"))
        if (why := _why_half(root, file))
    ]


def _why_half(root: Path, file: Path) -> str | None:
    inside = file.relative_to(root).parts
    if any(path.startswith(".") or path.startswith("checkpoint-") for path in inside):
        return None
    if file.is_dir():
        lacks = [
            name
            for name in ("adapter_model.safetensors", "adapter_config.json")
            if not (file / name).is_file()
        ]
        return f"lacks {lacks[0]}" if file.name == "adapter" and lacks else None
    try:
        return _CHECKS.get(file.suffix, lambda _: None)(file)
    except (OSError, ValueError, KeyError, TypeError, sqlite3.Error) as error:
        return f"{type(error).__name__}: {error}"


def _json(file: Path) -> None:
    json.loads(file.read_text(encoding="utf-8"))


def _jsonl(file: Path) -> str | None:
    """A log: its last line may be cut off where a process died."""
    lines = file.read_text(encoding="utf-8").split("\n")
    for line in filter(None, lines[:-1]):
        json.loads(line)
    return None


def _html(file: Path) -> str | None:
    return None if file.read_text(encoding="utf-8").rstrip().endswith("</html>") else "has no end"


def _png(file: Path) -> str | None:
    return None if file.read_bytes().rstrip(b"\0").endswith(b"IEND\xaeB`\x82") else "has no end"


def _yaml(file: Path) -> str | None:
    import yaml

    return None if yaml.safe_load(file.read_text(encoding="utf-8")) is not None else "is empty"


def _safetensors(file: Path) -> str | None:
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        head = json.loads(opened.read(length))
    ends = [value["data_offsets"][1] for name, value in head.items() if name != "__metadata__"]
    return None if ends and 8 + length + max(ends) == file.stat().st_size else "is cut off"


def _database(file: Path) -> str | None:
    with closing(sqlite3.connect(file, timeout=60)) as opened:
        said = opened.execute("PRAGMA integrity_check").fetchone()[0]
    return None if said == "ok" else str(said)


_CHECKS = {
    ".json": _json,
    ".jsonl": _jsonl,
    ".html": _html,
    ".png": _png,
    ".yaml": _yaml,
    ".safetensors": _safetensors,
    ".db": _database,
}


@dataclass(frozen=True)
class Reference:
    """The unbroken run: figures that two of them share to the digit, the adapter's bytes, how long
    it takes, and how many file operations it is."""

    figures: Mapping[tuple[str, int], float]
    adapter: bytes
    took_s: float
    operations: int


def adapter_of(rig: Rig) -> bytes:
    """The newest adapter that training wrote."""
    files = sorted(
        (rig.root / "outputs").glob("*/*/adapter/adapter_model.safetensors"),
        key=lambda file: file.stat().st_mtime,
    )
    return files[-1].read_bytes() if files else b""


def steady(figures: Mapping[tuple[str, int], set[float]]) -> dict[tuple[str, int], float]:
    """The figures that do not follow the machine's pace."""
    return {
        place: min(values)
        for place, values in figures.items()
        if not place[0].startswith(CLOCKED) and not place[0].endswith("_s")
    }


def differences(
    found: Mapping[tuple[str, int], set[float]], wanted: Mapping[tuple[str, int], float]
) -> Iterator[str]:
    """Where a run differs from the unbroken one, as claims."""
    for place, value in wanted.items():
        there = found.get(place, set())
        if there != {value}:
            yield (
                f"{place[0]} at step {place[1]} is {sorted(there) or 'missing'}, unbroken {value!r}"
            )
