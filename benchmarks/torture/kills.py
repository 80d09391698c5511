"""kill -9 at random moments: of training, of a sweep, of evaluate and of export; and whether the
same command then gives the same.

A rig is a folder in which one command is killed several times, each time started again with the
same words, and at last left to end. Half of the kills come after a random time, half right after a
random file operation: there a half-written file would lie.
"""

import hashlib
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.torture.rig import (
    STEPS,
    TRAIN,
    Command,
    Parts,
    Reference,
    Rig,
    adapter_of,
    differences,
    steady,
)

A_RIG = 5  # kills of one run
GRID = (
    "lora.r=choice(4,8)",
    "hydra/sweeper/sampler=grid",
    "sweep.n_trials=2",
    "sweep.configured_first=false",
    "hydra.sweeper.study_name=s",
    "hydra.sweeper.max_failure_rate=1",
    "evaluation.answers=0",
    "training.max_steps=6",
    "training.save_steps=2",
)
OTHER = "training.seed=7"  # makes it another run
MERGED = ("to=merged", "export.folder=merged", "overwrite=true")


class AttackResult:
    """What a rig has to tell: how many kills there were, and what was untrue after one of them."""

    def __init__(self, number: int):
        self.number, self.tried = number, 0
        self.faults: list[str] = []
        self.commands: list[str] = []
        self.exit_codes: list[int] = []

    def claim(self, holds: bool, fault: str, command: Command | None = None) -> None:
        """Keep `fault` unless it holds; with the command after which it was seen."""
        if not holds and fault not in self.faults:
            self.faults.append(fault)
            if command is not None:
                self.commands.append(command.typed)

    def ended_well(self, command: Command, allowed: Sequence[int] = (0,)) -> bool:
        """Did it end in words and with an allowed exit code?"""
        status, output = command.process.returncode, command.output
        self.exit_codes.append(status)
        self.claim(
            "Traceback (most recent call last)" not in output,
            f"traceback: {command.last_line}",
            command,
        )
        self.claim(status in allowed, f"exit code {status}: {command.last_line}", command)
        return status in allowed


def reference(scratch: Path, parts: Parts) -> Reference:
    """The unbroken run, made twice.

    Raises: RuntimeError if two of them differ, or one fails: nothing could be told by it.
    """
    made = []
    for name in ("first", "second"):
        rig = Rig(scratch / f"reference-{name}", parts)
        began = time.monotonic()
        command = rig.run(
            "train", *rig.words(*TRAIN), environment={"TORTURE_COUNT": str(rig.root / "operations")}
        )
        if command.process.returncode:
            raise RuntimeError(
                f"the unbroken run ends with {command.process.returncode}: {command.output[-2000:]}"
            )
        (run,) = rig.runs()
        made.append(
            (
                steady(rig.figures(run["id"])),
                adapter_of(rig),
                time.monotonic() - began,
                int((rig.root / "operations").read_text()),
            )
        )
    if made[0][:2] != made[1][:2]:
        differ = [place for place in made[0][0] if made[0][0][place] != made[1][0].get(place)]
        raise RuntimeError(f"two unbroken runs differ: {differ[:5]}")
    return Reference(
        made[0][0], made[0][1], min(item[2] for item in made), min(item[3] for item in made)
    )


def _kill_after(
    rig: Rig,
    rng: random.Random,
    module: str,
    words: Sequence[str],
    took_s: float,
    operations: int,
    begun: Callable[[], bool],
) -> Command:
    """The command, killed at a random moment, most often after its work has `begun`; it may have
    ended before.
    """
    if rng.random() < 0.5 and operations:
        at = rng.randint(1, operations)
        return rig.run(
            module, *words, environment={"TORTURE_DIE": f"{at}:{rng.choice((0, 0, 0.002, 0.02))}"}
        )
    command = rig.start(module, *words)
    if rng.random() < 0.7:
        while command.process.poll() is None and not begun():
            time.sleep(0.02)
        time.sleep(rng.uniform(0, took_s * 0.4))
    else:
        time.sleep(rng.uniform(0, took_s))
    command.kill()
    return command


def wait_for_moment(rng: random.Random, took_s: float, command: Command) -> None:
    """Wait until a random moment of a command that takes so long, or until it has ended."""
    deadline = time.monotonic() + rng.uniform(0.1, 0.9) * took_s
    while time.monotonic() < deadline and command.process.poll() is None:
        time.sleep(0.02)


def of_training(
    scratch: Path, parts: Parts, unbroken: Reference, number: int, seed: int, kills: int
) -> AttackResult:
    """Kill a training run `kills` times and let it end; now and then another run comes between."""
    rng, rig, found = (
        random.Random(f"{seed}-train-{number}"),
        Rig(scratch / f"train-{number}", parts),
        AttackResult(number),
    )
    words = rig.words(*TRAIN)
    unfinished = rig.root / "mlruns" / "unfinished"
    for _ in range(kills):
        command = _kill_after(
            rig,
            rng,
            "train",
            words,
            unbroken.took_s,
            unbroken.operations,
            lambda: any(unfinished.glob("*/run.json")),
        )
        found.tried += 1
        if command.process.returncode == 0:  # it was done before its turn came
            _is_unbroken(rig, found, unbroken, command)
            break
        found.claim(
            command.process.returncode == -9,
            f"exit code {command.process.returncode}: {command.last_line}",
            command,
        )
        for path in rig.half_files():
            found.claim(False, f"half-written after a kill: {path}", command)
    if rng.random() < 0.4:
        other = rig.run("train", *rig.words("debug=fast", OTHER, "evaluation.answers=0"))
        found.ended_well(other)
        found.claim(
            "RUNNING" not in rig.statuses(),
            f"still RUNNING after another command: {rig.statuses()}",
            other,
        )
    command = rig.run("train", *words)
    if found.ended_well(command):
        _is_unbroken(rig, found, unbroken, command)
    return found


def _is_unbroken(rig: Rig, found: AttackResult, unbroken: Reference, command: Command) -> None:
    """The run that was continued: figures, adapter, statuses and files of the unbroken one."""
    runs = [
        run
        for run in rig.runs()
        if len([key for key in rig.figures(run["id"]) if key[0] == "train/loss"]) == STEPS
    ]
    found.claim(bool(runs), "no run in MLflow has every step", command)
    for run in runs[-1:]:
        for difference in list(differences(rig.figures(run["id"]), unbroken.figures))[:3]:
            found.claim(False, difference, command)
    found.claim(
        adapter_of(rig) == unbroken.adapter,
        "the adapter has other bytes than that of the unbroken run",
        command,
    )
    found.claim(
        set(rig.statuses()) <= {"FINISHED", "KILLED"},
        f"statuses after the next command: {rig.statuses()}",
        command,
    )
    found.claim(
        rig.runs()[-1:] != [] and "FINISHED" in rig.statuses(),
        f"no run is FINISHED: {rig.statuses()}",
        command,
    )
    found.claim(not rig.left_over(), f"left in unfinished: {rig.left_over()}", command)
    for path in rig.half_files():
        found.claim(False, f"half-written at the end: {path}", command)


# A sweep.


def sweep_words(rig: Rig) -> list[str]:
    """A sweep of two trials."""
    return ["-m", *rig.words(*GRID)]


def sweep_reference(scratch: Path, parts: Parts) -> tuple[dict[str, float], float]:
    """The value of every point in an unbroken sweep, and how long that takes."""
    rig = Rig(scratch / "sweep-reference", parts)
    began = time.monotonic()
    command = rig.run("train", *sweep_words(rig))
    if command.process.returncode:
        raise RuntimeError(
            f"the unbroken sweep ends with {command.process.returncode}: {command.output[-2000:]}"
        )
    return {
        str(trial.params): trial.values[0] for trial in trials(rig) if trial.values
    }, time.monotonic() - began


def trials(rig: Rig) -> list:
    """Optuna's trials of the rig's study."""
    import optuna

    from medexp.sweep.study import storage

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    kept_in = storage.connect(storage.default_url(rig.root / "multirun" / "s"))
    try:
        return list(optuna.load_study(study_name="s", storage=kept_in).get_trials())
    except KeyError:  # it was killed before there was one
        return []
    finally:
        kept_in.remove_session()
        kept_in.engine.dispose()


def of_a_sweep(
    scratch: Path,
    parts: Parts,
    unbroken: tuple[dict[str, float], float],
    number: int,
    seed: int,
    kills: int,
) -> AttackResult:
    """Kill the sweeper, its trial or both, `kills` times, and let the sweep end."""
    rng, rig, found = (
        random.Random(f"{seed}-sweep-{number}"),
        Rig(scratch / f"sweep-{number}", parts),
        AttackResult(number),
    )
    values, took_s = unbroken
    for _ in range(kills):
        victim = rng.choice(("sweeper", "trial", "both"))
        command = rig.start("train", *sweep_words(rig))
        wait_for_moment(rng, took_s, command)
        found.tried += 1
        if victim != "trial":
            command.process.kill()
        if victim != "sweeper":
            for pid in trial_processes(rig):
                kill_process(pid)
        if victim == "trial":
            command.wait()
            found.ended_well(command)
            break
        command.process.wait()
        for path in rig.half_files():
            found.claim(False, f"half-written after a kill of {victim}: {path}", command)
    command = rig.run("train", *sweep_words(rig))
    if found.ended_well(command):
        _counts_every_trial(rig, found, values, command)
    return found


def _counts_every_trial(
    rig: Rig, found: AttackResult, values: dict[str, float], command: Command
) -> None:
    """A sweep that was continued: every trial counts, with the value of the unbroken sweep, in the
    study and in MLflow.
    """
    ended = trials(rig)
    states = [ending.state.name for ending in ended]
    endings = [ending.user_attrs.get("ending") for ending in ended]
    found.claim(not {"RUNNING", "WAITING"} & set(states), f"trials left {states}", command)
    counted = [ending for ending in endings if ending in ("done", "crashed")]
    found.claim(len(counted) == 2, f"{len(counted)} of 2 trials count: {endings}", command)
    for ending in ended:
        if ending.user_attrs.get("ending") == "done":
            found.claim(
                ending.values[0] == values.get(str(ending.params)),
                f"trial {ending.params} has {ending.values}, unbroken {values}",
                command,
            )
    runs = {run["id"]: run for run in rig.runs()}
    parents = [run["status"] for run in runs.values() if run["name"] == "s"]
    found.claim(parents == ["FINISHED"], f"the sweep's own runs in MLflow are {parents}", command)
    for ending in ended:
        if (run := runs.get(ending.user_attrs.get("mlflow_run_id", ""))) and ending.user_attrs.get(
            "ending"
        ) == "done":
            found.claim(
                run["status"] == "FINISHED",
                f"trial {ending.number} is done and {run['status']} in MLflow",
                command,
            )
    found.claim(
        "RUNNING" not in rig.statuses(),
        f"statuses after the next command: {rig.statuses()}",
        command,
    )
    for path in rig.half_files():
        found.claim(False, f"half-written at the end: {path}", command)


def trial_processes(rig: Rig) -> Iterator[int]:
    """The processes of this rig's trials, by what they were started with."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            cwd = (folder / "cwd").resolve()
        except OSError:
            continue
        if (
            cwd == rig.root
            and any(word.startswith(b"hydra.run.dir=") or b"medexp.train" in word for word in words)
            and b"-m" not in words[3:]
        ):
            yield int(folder.name)


def kill_process(pid: int) -> None:
    """kill -9, where it is still there."""
    import os
    import signal
    from contextlib import suppress

    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


# Evaluate and export, of a run that is finished.


def make_finished_rig(scratch: Path, parts: Parts, name: str) -> tuple[Rig, str]:
    """A rig with a finished run, and that run's id."""
    rig = Rig(scratch / name, parts)
    command = rig.run("train", *rig.words(*TRAIN, "training.max_steps=2"))
    if command.process.returncode:
        raise RuntimeError(
            f"the run to go on from ends with {command.process.returncode}:"
            f" {command.output[-2000:]}"
        )
    return rig, rig.runs()[0]["id"]


def of_evaluate(scratch: Path, parts: Parts, number: int, seed: int, kills: int) -> AttackResult:
    """Kill an evaluation `kills` times; then its figures are those of one that nobody killed."""
    rng, found = random.Random(f"{seed}-evaluate-{number}"), AttackResult(number)
    rig, run_id = make_finished_rig(scratch, parts, f"evaluate-{number}")
    words = [
        f"run={run_id}",
        "tracking.root=mlruns",
        "evaluation.answers=2",
        "evaluation.reuse_base=false",
    ]
    began = time.monotonic()
    plain = rig.run("evaluate", *words, environment={"TORTURE_COUNT": str(rig.root / "operations")})
    if not found.ended_well(plain):
        return found
    took_s, operations = time.monotonic() - began, int((rig.root / "operations").read_text())
    wanted = steady(rig.figures(rig.runs()[-1]["id"]))
    unfinished = rig.root / "mlruns" / "unfinished"
    for _ in range(kills):
        command = _kill_after(
            rig,
            rng,
            "evaluate",
            words,
            took_s,
            operations,
            lambda: any(unfinished.glob("evaluate-*")),
        )
        found.tried += 1
        found.claim(
            command.process.returncode in (0, -9),
            f"exit code {command.process.returncode}: {command.last_line}",
            command,
        )
        for path in rig.half_files():
            found.claim(False, f"half-written after a kill: {path}", command)
    command = rig.run("evaluate", *words)
    if found.ended_well(command):
        for run in list(differences(rig.figures(rig.runs()[-1]["id"]), wanted))[:3]:
            found.claim(False, run, command)
        found.claim(
            "RUNNING" not in rig.statuses(),
            f"statuses after the next command: {rig.statuses()}",
            command,
        )
        found.claim(not rig.left_over(), f"left in unfinished: {rig.left_over()}", command)
        for path in rig.half_files():
            found.claim(False, f"half-written at the end: {path}", command)
    return found


def of_export(scratch: Path, parts: Parts, number: int, seed: int, kills: int) -> AttackResult:
    """Kill an export `kills` times: its folder is not there, or holds what an export that nobody
    killed holds.
    """
    rng, found = random.Random(f"{seed}-export-{number}"), AttackResult(number)
    rig, run_id = make_finished_rig(scratch, parts, f"export-{number}")
    words = [f"run={run_id}", "tracking.root=mlruns", *MERGED]
    began = time.monotonic()
    plain = rig.run("export", *words, environment={"TORTURE_COUNT": str(rig.root / "operations")})
    if not found.ended_well(plain):
        return found
    took_s, operations, folder = (
        time.monotonic() - began,
        int((rig.root / "operations").read_text()),
        rig.root / "merged",
    )
    wanted = _contents(folder)
    for _ in range(kills):
        command = _kill_after(
            rig, rng, "export", words, took_s, operations, lambda: any(rig.root.glob(".merged-*"))
        )
        found.tried += 1
        found.claim(
            command.process.returncode in (0, -9),
            f"exit code {command.process.returncode}: {command.last_line}",
            command,
        )
        found.claim(
            not folder.exists() or _contents(folder) == wanted,
            "the export's folder is not whole after a kill",
            command,
        )
        # moved there for an instant
        aside = [path for path in rig.root.glob(".merged-*") if _contents(path) == wanted]
        found.claim(
            folder.exists() or bool(aside),
            "the export that was there before is lost after a kill",
            command,
        )
    command = rig.run("export", *words)
    if found.ended_well(command):
        found.claim(
            _contents(folder) == wanted, "the export differs from one that nobody killed", command
        )
        found.claim(
            set(rig.statuses()) == {"FINISHED"},
            f"statuses after the next command: {rig.statuses()}",
            command,
        )
    hidden = sorted(path.name for path in rig.root.glob(".merged-*"))
    found.claim(not hidden, f"{len(hidden)} half exports left beside it", command)
    return found


def _contents(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if (file.is_file() and file.suffix == ".safetensors")
        or file.name in ("config.json", "tokenizer.json")
    }
