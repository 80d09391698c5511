"""What befalls a run from outside: a full disk, permission taken away, a locked store, a clock set
back, the same command twice.

Each ends in words and the exit code that `medexp.errors` names. The same command, once the trouble
is over, gives the unbroken run.
"""

import os
import random
import shutil
import sqlite3
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from benchmarks.torture.kills import (
    MERGED,
    AttackResult,
    _contents,
    _is_unbroken,
    make_finished_rig,
    sweep_words,
    trials,
)
from benchmarks.torture.rig import STEPS, TRAIN, Command, Parts, Reference, Rig, differences

DISK_MIB = 64
REFUSED = (0, 2)  # it may have ended before the trouble came
NOBODY = 65534


class CannotBeTried(Exception):
    """This machine does not let the attack be made; says why."""


# The disk.


def disk(scratch: Path, parts: Parts, unbroken: Reference, number: int, seed: int) -> AttackResult:
    """Fill the disk at a random moment: a small tmpfs where one can be mounted, else files may not
    grow over a random size. Of two rigs one has what it prints on the full disk, too.
    """
    rng, found = random.Random(f"{seed}-disk-{number}"), AttackResult(number)
    found.tried = 1
    place = scratch / f"disk-{number}"
    place.mkdir()
    with _small_disk(place) as is_mounted:
        is_log_elsewhere = number % 2 == 0
        rig = Rig(place / "rig", parts, _folder(scratch, f"{place.name}-logs", is_log_elsewhere))
        words = rig.words(*TRAIN)
        if is_mounted:
            command = rig.start("train", *words)
            _after(command, rng.uniform(0, unbroken.took_s))
            _fill(place / "filler", command)
        else:
            command = rig.start(
                "train", *words, before=["prlimit", f"--fsize={rng.randint(1, 3_000_000)}"]
            )
        command.wait()
        found.ended_well(command, REFUSED)
        (place / "filler").unlink(missing_ok=True)
        if command.process.returncode == 2 and is_mounted and is_log_elsewhere:
            found.claim(
                "full" in command.output,
                f"the disk was full, and it says: {command.last_line}",
                command,
            )
        command = rig.run("train", *words)
        if found.ended_well(command):
            _is_unbroken(rig, found, unbroken, command)
        if found.faults:  # the disk goes; what it printed stays
            _keep_logs(place, scratch)
    return found


def _folder(parent: Path, name: str, is_wanted: bool) -> Path | None:
    """Return a new folder `name` in `parent`, None where none is wanted."""
    if not is_wanted:
        return None
    folder = parent / name
    folder.mkdir()
    return folder


@contextmanager
def _small_disk(place: Path) -> Iterator[bool]:
    mounted = (
        os.getuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(place)],
            check=False,
            capture_output=True,
        ).returncode
    )
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(place)], check=False)


def _fill(file: Path, command: Command) -> None:
    """Take what room there is until the command ends, also what is given back meanwhile."""
    with suppress(OSError):
        file.touch()
    while command.process.poll() is None:
        with suppress(OSError), file.open("ab", buffering=0) as filler:
            while True:
                filler.write(b"0" * 65536)
        with suppress(OSError), file.open("ab", buffering=0) as filler:
            while True:
                filler.write(b"0" * 512)
        time.sleep(0.02)


def _keep_logs(place: Path, scratch: Path) -> None:
    for log in place.glob("*.log"):
        shutil.copy(log, scratch / f"{place.name}-{log.name}")


def _after(command: Command, seconds: float) -> None:
    with suppress(subprocess.TimeoutExpired):
        command.process.wait(seconds)


# Permission.


def permission(
    scratch: Path, parts: Parts, unbroken: Reference, number: int, seed: int
) -> AttackResult:
    """Take the right to write in the folder away at a random moment. Root may write all the same:
    it runs the command as nobody.
    """
    rng, found = random.Random(f"{seed}-permission-{number}"), AttackResult(number)
    found.tried = 1
    rig = Rig(scratch / f"permission-{number}", parts)
    words, as_nobody, home = rig.words(*TRAIN), [], {"HOME": str(rig.root)}
    if os.getuid() == 0:
        if shutil.which("setpriv") is None:
            raise CannotBeTried("root may write anywhere, and there is no setpriv")
        as_nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        for path in (rig.root, *rig.root.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
    command = rig.start("train", *words, before=as_nobody, environment=home)
    _after(command, rng.uniform(0, unbroken.took_s))
    before = _may_write(rig.root, {})
    command.wait()
    _give_back(before)
    found.ended_well(command, REFUSED)
    if command.process.returncode == 2:
        found.claim(
            "is full" not in command.output, f"called a full disk: {command.last_line}", command
        )
    command = rig.start("train", *words, before=as_nobody, environment=home)
    command.wait()
    if found.ended_well(command):
        _is_unbroken(rig, found, unbroken, command)
    return found


def _may_write(root: Path, before: dict[Path, int]) -> dict[Path, int]:
    """Take the right to write away; returns how it was."""
    for path in (*root.rglob("*"), root):
        with suppress(FileNotFoundError):  # a file of the run's that came and went
            before[path] = stat.S_IMODE(path.stat().st_mode)
            path.chmod(before[path] & ~0o222)
    return before


def _give_back(before: dict[Path, int]) -> None:
    for path, mode in before.items():
        with suppress(FileNotFoundError):
            path.chmod(mode)


# A locked store, and the clock.


def attack_with_lock(
    scratch: Path, parts: Parts, unbroken: Reference, number: int, seed: int, seconds: float
) -> AttackResult:
    """Hold mlflow.db locked for `seconds` from a random moment on, as a backup does: the run waits
    and ends as ever.
    """
    rng, found = random.Random(f"{seed}-locked-{number}"), AttackResult(number)
    found.tried = 1
    rig = Rig(scratch / f"locked-{number}", parts)
    command = rig.start("train", *rig.words(*TRAIN))
    _after(command, rng.uniform(0, unbroken.took_s))
    with closing(sqlite3.connect(rig.database, timeout=60, isolation_level=None)) as opened:
        opened.execute("BEGIN EXCLUSIVE")
        _after(command, seconds)
        opened.execute("ROLLBACK")
    command.wait()
    if found.ended_well(command):
        _is_unbroken(rig, found, unbroken, command)
    return found


def clock(scratch: Path, parts: Parts, unbroken: Reference, number: int, seed: int) -> AttackResult:
    """Set the clock back by a day at a random moment, kill the run later, and go on while the clock
    is still behind.
    """
    rng, found = random.Random(f"{seed}-clock-{number}"), AttackResult(number)
    found.tried = 1
    rig = Rig(scratch / f"clock-{number}", parts)
    words = rig.words(*TRAIN)
    command = rig.start(
        "train", *words, environment={"TORTURE_CLOCK": f"{rng.uniform(0, unbroken.took_s)}:-86400"}
    )
    _after(command, rng.uniform(0.5, 1.2) * unbroken.took_s)
    if command.process.poll() is None:
        command.kill()
        command = rig.run("train", *words, environment={"TORTURE_CLOCK": "0:-86400"})
    if found.ended_well(command):
        _is_unbroken(rig, found, unbroken, command)
    return found


# Two of everything.


def twins(scratch: Path, parts: Parts, unbroken: Reference, number: int, seed: int) -> AttackResult:
    """The same command twice at once: train, sweep, evaluate, export, in turn."""
    rng, found = random.Random(f"{seed}-twins-{number}"), AttackResult(number)
    found.tried = 1
    kind = (_two_trainings, _two_sweeps, _two_evaluations, _two_exports)[number % 4]
    kind(scratch, parts, unbroken, number, rng.uniform(0, 3) * (rng.random() < 0.5), found)
    return found


def _both(rig: Rig, apart_s: float, module: str, *words: str) -> list[Command]:
    first = rig.start(module, *words)
    time.sleep(apart_s)
    second = rig.start(module, *words)
    return [figures for figures in (first, second) if figures.wait() is not None]


def _two_trainings(
    scratch: Path,
    parts: Parts,
    unbroken: Reference,
    number: int,
    apart_s: float,
    found: AttackResult,
) -> None:
    rig = Rig(scratch / f"twins-{number}", parts)
    for command in _both(rig, apart_s, "train", *rig.words(*TRAIN)):
        if found.ended_well(command):
            _is_unbroken(rig, found, unbroken, command)
    runs = [run["id"] for run in rig.runs()]
    found.claim(
        len(runs) == 2 and rig.statuses() == ["FINISHED"] * 2,
        f"two trainings are {rig.statuses()} in MLflow",
    )
    for run_id in runs:
        figures = rig.figures(run_id)
        found.claim(
            len([key for key in figures if key[0] == "train/loss"]) == STEPS,
            "one of two trainings lacks steps in MLflow",
        )
        for difference in list(differences(figures, unbroken.figures))[:3]:
            found.claim(False, f"one of two: {difference}")


def _two_sweeps(
    scratch: Path, parts: Parts, _: Reference, number: int, apart_s: float, found: AttackResult
) -> None:
    rig = Rig(scratch / f"twins-{number}", parts)
    commands = _both(rig, apart_s, "train", *sweep_words(rig))
    for command in commands:
        found.ended_well(command)
    endings = [trial.user_attrs.get("ending") for trial in trials(rig)]
    found.claim(endings.count("done") == 2, f"two sweeps of one study: {endings}", commands[0])
    found.claim(
        set(rig.statuses()) <= {"FINISHED"},
        f"two sweeps are {rig.statuses()} in MLflow",
        commands[0],
    )


def _two_evaluations(
    scratch: Path, parts: Parts, _: Reference, number: int, apart_s: float, found: AttackResult
) -> None:
    rig, run_id = make_finished_rig(scratch, parts, f"twins-{number}")
    for command in _both(
        rig, apart_s, "evaluate", f"run={run_id}", "tracking.root=mlruns", "evaluation.answers=2"
    ):
        found.ended_well(command)
    found.claim(
        rig.statuses() == ["FINISHED"] * 3, f"two evaluations are {rig.statuses()} in MLflow"
    )
    found.claim(not rig.left_over(), f"left in unfinished: {rig.left_over()}")
    figures = [rig.figures(run["id"]) for run in rig.runs()[1:]]
    found.claim(
        len(figures) == 2 and figures[0].keys() == figures[1].keys(),
        "two evaluations have other figures",
    )


def _two_exports(
    scratch: Path, parts: Parts, _: Reference, number: int, apart_s: float, found: AttackResult
) -> None:
    rig, run_id = make_finished_rig(scratch, parts, f"twins-{number}")
    commands = _both(rig, apart_s, "export", f"run={run_id}", "tracking.root=mlruns", *MERGED)
    for command in commands:
        found.ended_well(command, REFUSED)
    found.claim(
        any(command.process.returncode == 0 for command in commands),
        "neither of two exports ends with 0",
        commands[0],
    )
    there = _contents(rig.root / "merged") if (rig.root / "merged").exists() else {}
    again = rig.run("export", f"run={run_id}", "tracking.root=mlruns", *MERGED)
    found.ended_well(again)
    found.claim(
        there == _contents(rig.root / "merged"),
        "two exports at once leave another folder than one",
        commands[0],
    )
