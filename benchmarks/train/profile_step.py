"""Where a training step's time goes on a CUDA card: what the card computes, and how long it waits.

    python benchmarks/train/profile_step.py --out results/profile.json -- \
        hardware=rtx4050_6gb model.path=/tmp/llama8b ...        # words of medexp.train

Two steps of the run are profiled, the first by its kernels alone, which costs the processor little,
the second with the operators that launch them. The card is busy while a kernel of any stream runs;
copies are counted apart.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

NS_A_MS = 1e6
LISTED = 30


def measure_union(spans: Iterable[tuple[int, int]]) -> int:
    """Return how long at least one of the `spans` (first, last) lasts."""
    total, last = 0, 0
    for begin, end in sorted(spans):
        total += max(0, end - max(begin, last))
        last = max(last, end)
    return total


def sum_by_name(events: Iterable[Any]) -> list[tuple[str, float, int]]:
    """Return the milliseconds and the number of events by name, the longest first."""
    found: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
    for event in events:
        entry = found[event.name()[:110]]
        entry[0] += event.duration_ns() / NS_A_MS
        entry[1] += 1
    rows = [(name, round(ms, 3), int(count)) for name, (ms, count) in found.items()]
    return sorted(rows, key=lambda row: -row[1])[:LISTED]


def describe(events: list[Any]) -> dict[str, Any]:
    """Return what the card did in a step, and the calls of the processor that took longest."""
    import torch

    card = [event for event in events if event.device_type() == torch.autograd.DeviceType.CUDA]
    calls = [event for event in events if event.device_type() == torch.autograd.DeviceType.CPU]
    copies = [event for event in card if event.name().startswith("Mem")]
    kernels = [event for event in card if not event.name().startswith("Mem")]
    spans = [(event.start_ns(), event.start_ns() + event.duration_ns()) for event in kernels]
    return {
        "kernels": len(kernels),
        "wall_ms": (max(end for _, end in spans) - min(begin for begin, _ in spans)) / NS_A_MS,
        "busy_ms": measure_union(spans) / NS_A_MS,
        "copies_ms": sum(event.duration_ns() for event in copies) / NS_A_MS,
        "longest_kernels": sum_by_name(kernels),
        "longest_calls": sum_by_name(calls),
    }


def profile(words: list[str], first: int) -> list[dict[str, Any]]:
    """Train as `words` say and return what two steps did, the first of them after `first` steps."""
    from medexp import train
    from medexp.training import callbacks

    found: list[dict[str, Any]] = []
    running: list[Any] = []
    seconds: list[float] = []
    record = callbacks.StepRecorder.on_step_end

    def on_step_end(self: Any, step: int, metrics: dict[str, float]) -> bool:
        import torch
        from torch.profiler import ProfilerActivity

        stops = record(self, step, metrics)
        seconds.append(metrics.get("speed/step_s", 0.0))
        torch.cuda.synchronize()
        if running:
            profiler = running.pop()
            profiler.stop()
            events = list(profiler.profiler.kineto_results.events())
            found.append(describe(events) | {"step_s": seconds[-1], "steps_s": list(seconds)})
        if step in (first, first + 2):
            activities = [ProfilerActivity.CUDA]
            activities += [ProfilerActivity.CPU] if found else []
            running.append(torch.profiler.profile(activities=activities))
            running[0].start()
        return stops

    callbacks.StepRecorder.on_step_end = on_step_end  # type: ignore[method-assign]
    sys.argv = ["medexp.train", *words]
    try:
        train.main()
    except SystemExit as end:
        if end.code:
            raise
    return found


def main() -> None:
    """Write the file, and print what says most."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--first", type=int, default=4, help="steps before the first that is seen")
    parser.add_argument("words", nargs="+")
    args = parser.parse_args()
    found = profile(args.words, args.first)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(found, indent=1))
    for step in found:
        print({key: step[key] for key in ("step_s", "wall_ms", "busy_ms", "copies_ms", "kernels")})


if __name__ == "__main__":
    main()
