"""kill -9 at random moments of a sweep whose trials pause and go on; and whether it then ends with
the very losses of one that nobody killed.

The points are those of a grid, so that they come in the same order after any ending.
"""

import random
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.torture.kills import (
    AttackResult,
    kill_process,
    trial_processes,
    trials,
    wait_for_moment,
)
from benchmarks.torture.rig import Parts, Rig

HALVED = (
    "lora.r=choice(2,4,8)",
    "hydra/sweeper/sampler=grid",
    "hydra/sweeper/pruner=halving",
    "hydra.sweeper.pruner.reduction_factor=2",
    "sweep.n_trials=3",
    "hydra.sweeper.study_name=s",
    "hydra.sweeper.max_failure_rate=1",
    "evaluation.answers=0",
    "evaluation.every_steps=2",
    "training.max_steps=6",
    "training.save_steps=3",
)


@dataclass(frozen=True)
class Halved:
    """By point what a sweep has come to: the losses on the way by step, the values at the end."""

    reports: dict[str, dict[int, float]]
    values: dict[str, float]


def read_halved(rig: Rig) -> Halved:
    """What the rig's study says of each point, of all trials of it together."""
    reports: dict[str, dict[int, float]] = {}
    values: dict[str, float] = {}
    for trial in trials(rig):
        if trial.intermediate_values:
            reports.setdefault(str(trial.params), {}).update(trial.intermediate_values)
        if trial.values:
            values[str(trial.params)] = trial.values[0]
    return Halved(reports, values)


def halving_reference(scratch: Path, parts: Parts) -> tuple[Halved, float]:
    """What an unbroken sweep comes to, and how long that takes.

    Raises: RuntimeError if it fails: nothing could be told by it.
    """
    rig = Rig(scratch / "halving-reference", parts)
    began = time.monotonic()
    command = rig.run("train", "-m", *rig.words(*HALVED))
    if command.process.returncode:
        raise RuntimeError(
            f"the unbroken sweep ends with {command.process.returncode}: {command.output[-2000:]}"
        )
    return read_halved(rig), time.monotonic() - began


def of_a_halving(
    scratch: Path,
    parts: Parts,
    unbroken: tuple[Halved, float],
    number: int,
    seed: int,
    kills: int,
) -> AttackResult:
    """Kill the sweeper, or it and its trial, `kills` times, and let the sweep end."""
    rng, rig, found = (
        random.Random(f"{seed}-halving-{number}"),
        Rig(scratch / f"halving-{number}", parts),
        AttackResult(number),
    )
    wanted, took_s = unbroken
    words = ["-m", *rig.words(*HALVED)]
    for _ in range(kills):
        command = rig.start("train", *words)
        wait_for_moment(rng, took_s, command)
        # A kill that comes after the end is none.
        if command.process.poll() is not None:
            break
        found.tried += 1
        command.process.kill()
        if rng.random() < 0.5:
            for pid in trial_processes(rig):
                kill_process(pid)
        command.process.wait()
        for path in rig.half_files():
            found.claim(False, f"half-written after a kill: {path}", command)
    command = rig.run("train", *words)
    if not found.ended_well(command):
        return found
    came_to = read_halved(rig)
    found.claim(came_to == wanted, f"it came to {came_to}, unbroken to {wanted}", command)
    states = {trial.state.name for trial in trials(rig)}
    found.claim(not {"RUNNING", "WAITING"} & states, f"trials left {states}", command)
    statuses = rig.statuses()
    found.claim("RUNNING" not in statuses, f"statuses at the end: {statuses}", command)
    return found
