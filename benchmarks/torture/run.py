"""Faults found by attack. One command; README.md beside this file says what is done and how truth
is checked.

    # everything, with the counts of the table
    python -m benchmarks.torture --jobs 16 --out results.json
    # one attack
    python -m benchmarks.torture --only fuzz --lines 200 --seed 7
    # one rig again: attack, seed and number are in the findings
    python -m benchmarks.torture --only train --kills 5 --number 3
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import Any

# also as python benchmarks/torture/run.py
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.torture import attacks, halving, kills, setup
from benchmarks.torture.attacks import CannotBeTried
from benchmarks.torture.fuzz import fuzz
from benchmarks.torture.kills import A_RIG, AttackResult
from benchmarks.torture.rig import REPOSITORY, Parts

ATTACKS = (
    "fuzz",
    "train",
    "sweep",
    "halving",
    "evaluate",
    "export",
    "disk",
    "permission",
    "locked",
    "clock",
    "twins",
)
OF_A_RUN = {
    "disk": attacks.disk,
    "permission": attacks.permission,
    "clock": attacks.clock,
    "twins": attacks.twins,
}
Task = tuple[str, int, Callable[[], AttackResult]]


def main(words: Sequence[str] | None = None) -> int:
    """Attack, show the table, keep the results; 1 where something did not hold."""
    asked = _parse_arguments(words)
    rows = [_run_fuzz(asked)] if "fuzz" in asked.only else []
    if rigs := [name for name in asked.only if name != "fuzz"]:
        rows += _run_rigs(asked, rigs)
    _show(rows)
    if asked.out:
        _keep(asked, rows)
    return int(any(row["held"] < row["tried"] or row["findings"] for row in rows))


def _parse_arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.torture",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--all", action="store_true", help="every attack (also where --only is not given)"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=ATTACKS,
        default=None,
        metavar="NAME",
        help=f"of {', '.join(ATTACKS)}",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=max(1, (os.cpu_count() or 2) // 2),
        help="commands at once (%(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=1,
        help="the same seed draws the same kills and lines (%(default)s)",
    )
    parser.add_argument(
        "--number", type=int, nargs="+", default=[], help="of one attack: these rigs or lines alone"
    )
    parser.add_argument("--kills", type=int, default=50, help="of a training run (%(default)s)")
    parser.add_argument("--sweep-kills", type=int, default=20, help="(%(default)s)")
    parser.add_argument("--halving-kills", type=int, default=10, help="(%(default)s)")
    parser.add_argument("--evaluate-kills", type=int, default=10, help="(%(default)s)")
    parser.add_argument("--export-kills", type=int, default=10, help="(%(default)s)")
    parser.add_argument("--lines", type=int, default=2000, help="of the fuzzer (%(default)s)")
    parser.add_argument(
        "--corpus", type=Path, help="a folder of case files that the fuzzer mutates, too"
    )
    parser.add_argument(
        "--times",
        type=int,
        default=4,
        help="of each attack from outside: disk, permission, locked, clock, twins (%(default)s)",
    )
    parser.add_argument(
        "--locked-s", type=float, default=60, help="how long mlflow.db is held (%(default)s)"
    )
    parser.add_argument(
        "--embedded",
        action="store_true",
        help="the embedded model instead of the tiny one of the tests (minutes a run)",
    )
    parser.add_argument(
        "--stop-after",
        type=float,
        default=float("inf"),
        metavar="S",
        help="no rig or line is begun later than this",
    )
    parser.add_argument(
        "--scratch",
        type=Path,
        help="where rigs lie; those with a finding stay (default: a temporary folder)",
    )
    parser.add_argument(
        "--out", type=Path, help="results as JSON; rows of other attacks that are there stay"
    )
    asked = parser.parse_args(words)
    asked.only = list(ATTACKS) if asked.all or asked.only is None else asked.only
    if asked.number and len(asked.only) != 1:
        parser.error("--number needs --only with one attack")
    return asked


def _run_fuzz(asked: argparse.Namespace) -> dict[str, Any]:
    began, told = time.monotonic(), [0.0]

    def tell(done: int, of: int, news: str) -> None:
        if time.monotonic() - told[0] > 5 or done == of or "the last" in news:
            told[0] = time.monotonic()
            _progress("fuzz", done, of, began, news)

    row = fuzz(
        asked.lines,
        asked.seed,
        asked.jobs,
        asked.corpus,
        asked.number,
        tell,
        began + asked.stop_after,
    )
    return row | {"took_s": round(time.monotonic() - began, 1)}


def _run_rigs(asked: argparse.Namespace, names: Sequence[str]) -> list[dict[str, Any]]:
    scratch = (
        Path(tempfile.mkdtemp(prefix="torture-"))
        if asked.scratch is None
        else asked.scratch.absolute()
    )
    scratch.mkdir(parents=True, exist_ok=True)
    scratch.chmod(0o755)  # nobody reads the model there
    began = time.monotonic()
    print(f"rigs in {scratch}", file=sys.stderr)
    parts = setup.parts_in(scratch, asked.embedded)
    with ThreadPoolExecutor(asked.jobs) as pool:
        tasks = _tasks(asked, names, scratch, parts, pool)
        found = _run_tasks(asked, pool, tasks, scratch, began)
    return [
        _row(asked, name, [result for other, result in found if other == name]) for name in names
    ]


def _tasks(
    asked: argparse.Namespace,
    names: Sequence[str],
    scratch: Path,
    parts: Parts,
    pool: ThreadPoolExecutor,
) -> list[Task]:
    needs_run = set(names) & {"train", "locked", *OF_A_RUN}
    run = pool.submit(kills.reference, scratch, parts) if needs_run else None
    sweep = pool.submit(kills.sweep_reference, scratch, parts) if "sweep" in names else None
    unbroken, swept = (run.result() if run else None), (sweep.result() if sweep else None)
    tasks: list[Task] = []
    for name in names:
        match name:
            case "train":
                new = [
                    (
                        number,
                        partial(
                            kills.of_training, scratch, parts, unbroken, number, asked.seed, size
                        ),
                    )
                    for number, size in _rigs(asked.kills)
                ]
            case "sweep":
                new = [
                    (
                        number,
                        partial(kills.of_a_sweep, scratch, parts, swept, number, asked.seed, size),
                    )
                    for number, size in _rigs(asked.sweep_kills, 2)
                ]
            case "halving":
                swept_in_parts = halving.halving_reference(scratch, parts)
                new = [
                    (
                        number,
                        partial(
                            halving.of_a_halving,
                            scratch,
                            parts,
                            swept_in_parts,
                            number,
                            asked.seed,
                            size,
                        ),
                    )
                    for number, size in _rigs(asked.halving_kills, 2)
                ]
            case "evaluate":
                new = [
                    (number, partial(kills.of_evaluate, scratch, parts, number, asked.seed, size))
                    for number, size in _rigs(asked.evaluate_kills)
                ]
            case "export":
                new = [
                    (number, partial(kills.of_export, scratch, parts, number, asked.seed, size))
                    for number, size in _rigs(asked.export_kills)
                ]
            case "locked":
                new = [
                    (
                        number,
                        partial(
                            attacks.attack_with_lock,
                            scratch,
                            parts,
                            unbroken,
                            number,
                            asked.seed,
                            asked.locked_s,
                        ),
                    )
                    for number in range(asked.times)
                ]
            case _:
                new = [
                    (number, partial(OF_A_RUN[name], scratch, parts, unbroken, number, asked.seed))
                    for number in range(asked.times)
                ]
        tasks += [
            (name, number, call)
            for number, call in new
            if not asked.number or number in asked.number
        ]
    return tasks


def _rigs(kills_in_all: int, a_rig: int = A_RIG) -> list[tuple[int, int]]:
    """(number, kills) of each rig."""
    return [
        (start // a_rig, min(a_rig, kills_in_all - start))
        for start in range(0, kills_in_all, a_rig)
    ]


def _run_tasks(
    asked: argparse.Namespace,
    pool: ThreadPoolExecutor,
    tasks: Sequence[Task],
    scratch: Path,
    began: float,
) -> list[tuple[str, AttackResult]]:
    attacking, found = time.monotonic(), []

    def attempt(name: str, number: int, call: Callable[[], AttackResult]) -> AttackResult | None:
        if time.monotonic() - began > asked.stop_after:
            return None
        try:
            return call()
        except CannotBeTried as error:
            print(f"{name} {number} cannot be tried: {error}", file=sys.stderr)
            return None
        except Exception as error:  # the others go on
            broken = AttackResult(number)
            broken.tried, broken.faults = 1, [f"{type(error).__name__}: {error}"[:2000]]
            return broken

    futures = {pool.submit(attempt, *task): task for task in tasks}
    for done, future in enumerate(as_completed(futures), 1):
        name, number, _ = futures[future]
        result = future.result()
        news = f"{name} {number}: " + (
            "not tried" if result is None else "; ".join(result.faults)[:300] or "held"
        )
        if result is not None:
            found.append((name, result))
            if not result.faults:
                for place in scratch.glob(f"{name}-{number}*"):
                    rmtree(place, ignore_errors=True) if place.is_dir() else place.unlink()
        _progress("rigs", done, len(tasks), attacking, news)
    return found


def _row(asked: argparse.Namespace, name: str, found: Sequence[AttackResult]) -> dict[str, Any]:
    again = f"python -m benchmarks.torture --only {name} --seed {asked.seed} --number"
    findings = [
        {
            "fault": fault,
            "command": (result.commands or [""])[-1],
            "again": f"{again} {result.number}",
        }
        for result in found
        for fault in result.faults
    ]
    held = sum(result.tried for result in found if not result.faults)
    codes = Counter(code for result in found for code in result.exit_codes)
    return {
        "attack": name,
        "tried": sum(result.tried for result in found),
        "held": held,
        "exit_codes": dict(codes),
        "findings": findings,
    }


def _progress(what: str, done: int, of: int, began: float, news: str) -> None:
    passed = time.monotonic() - began
    left = passed / done * (of - done)
    print(
        f"{what} {done}/{of}, {passed:.0f} s, about {left:.0f} s left: {news}",
        file=sys.stderr,
        flush=True,
    )


def _show(rows: Sequence[dict[str, Any]]) -> None:
    print(f"\n{'attack':12}{'tried':>8}{'held':>8}   found")
    for row in rows:
        print(f"{row['attack']:12}{row['tried']:>8}{row['held']:>8}   {len(row['findings'])}")
    for row in rows:
        for finding in row["findings"]:
            print(f"\n{row['attack']}: {finding['fault']}\n    {finding['command']}")
            print(
                f"    {finding['again']}"
                if "again" in finding
                else f"    {finding['last_line']}\n"
                f"    lines {finding['numbers']}, {finding['times']} in all"
            )


def _keep(asked: argparse.Namespace, rows: Sequence[dict[str, Any]]) -> None:
    """Write the results; a row is dated, as each may come from another command."""
    about = {
        "date": time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime()),
        "machine": (
            f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}"
        ),
        "commit": (
            subprocess.run(
                ["git", "describe", "--always", "--dirty"],
                cwd=REPOSITORY,
                capture_output=True,
                text=True,
                check=False,
            ).stdout.strip()
        ),
        "seed": asked.seed,
        "jobs": asked.jobs,
        "model": "embedded" if asked.embedded else "tiny",
    }
    try:
        before = json.loads(asked.out.read_text(encoding="utf-8"))["rows"]
    except (OSError, ValueError, KeyError):
        before = []
    kept = [row for row in before if row["attack"] not in asked.only]
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(
        json.dumps({"rows": [*kept, *(about | row for row in rows)]}, indent=2) + "\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    sys.exit(main())
