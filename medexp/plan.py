"""python -m medexp.plan: what a training run would take, term by term, and whether it fits; nothing
is loaded.

    python -m medexp.plan hardware=rtx4050_6gb
    python -m medexp.plan hardware=rtx4050_6gb training.max_seq_tokens=4096 lora.r=64 \
        plan.format=json
    python -m medexp.plan hardware=rtx4050_6gb plan.frontier=true

Takes the overrides of medexp.train. Ends with 0 if a plan fits, with 2 and the nearest things that
would fit if none does.
"""

import json
from pathlib import Path

from rich.progress import track

from medexp.cli.app import run_command
from medexp.cli.composition import CommandSpec
from medexp.config.command_options import Format, PlanOptions
from medexp.config.invocation import Invocation
from medexp.config.model_shape import check_shape, read_model_config
from medexp.config.remarks import remark_on_kernels
from medexp.config.schema import RunConfig
from medexp.errors import ConfigError, VramPlanError
from medexp.planning import feasibility, limits, planner
from medexp.planning.step_time import Plan
from medexp.reports import frontier_chart
from medexp.reports.plan_tables import print_plan, print_runners_up
from medexp.system.console import NOTE, Console

FRONTIER_RANKS = (4, 8, 16, 32, 64, 128)
FRONTIER_LENGTHS = (512, 1024, 2048, 3072, 4096, 6144, 8192, 12288, 16384)


def plan(config: RunConfig, options: PlanOptions, console: Console) -> Plan:
    """Show the plan of `config`.

    Raises: VramPlanError if nothing fits, naming the largest term and what would fit; ConfigError
        for a frontier without a ceiling.
    """
    if options.frontier and config.hardware.vram_ceiling_gib is None:
        raise ConfigError(
            f"plan.frontier=true needs a ceiling and hardware={config.hardware.name} has none; set"
            " hardware.vram_ceiling_gib"
        )
    if config.model.path is not None:
        check_shape(config.model, read_model_config(Path(config.model.path)))
    cells = _compute_frontier(config, console) if options.frontier else []
    try:
        chosen, runners_up = planner.choose_plan(config)
    except VramPlanError as error:
        if options.format is Format.json:
            _print_json(
                {"fits": False, "why": str(error), "would_fit": error.would_fit},
                config,
                cells,
                console,
            )
        elif cells:
            _print_frontier(config, cells, console)
        raise
    if options.format is Format.json:
        found = {
            "fits": True,
            "chosen": planner.plan_as_dict(chosen),
            "runners_up": [planner.plan_as_dict(plan) for plan in runners_up],
        }
        _print_json(found, config, cells, console)
        return chosen
    print_plan(config, chosen, console)
    for remark in (*remark_on_kernels(config), *limits.remark_on_margin(config)):
        console.info(remark, NOTE)
    print_runners_up(runners_up, console)
    if cells:
        _print_frontier(config, cells, console)
    return chosen


def _print_json(
    found: dict[str, object], config: RunConfig, cells: list[planner.Cell], console: Console
) -> None:
    frontier = {"frontier": [_cell_as_dict(cell) for cell in cells]} if cells else {}
    console.raw(
        json.dumps(found | {"ceiling_gib": config.hardware.vram_ceiling_gib} | frontier, indent=2)
    )


def _cell_as_dict(cell: planner.Cell) -> dict[str, object]:
    """A place of the frontier as plain values; `plan` is null where nothing fits."""
    plan = planner.plan_as_dict(cell.plan) if cell.plan else None
    return {
        "r": cell.rank,
        "max_seq_tokens": cell.seq,
        "plan": plan and {name: plan[name] for name in plan if name != "terms"},
    }


def _compute_frontier(config: RunConfig, console: Console) -> list[planner.Cell]:
    """What fits over rank x sequence length."""
    places = [(rank, seq) for rank in FRONTIER_RANKS for seq in FRONTIER_LENGTHS]
    bar = track(
        places, "frontier", console=console.log, transient=True, disable=not console.log.is_terminal
    )
    return [planner.find_cell(config, rank, seq) for rank, seq in bar]


def _print_frontier(config: RunConfig, cells: list[planner.Cell], console: Console) -> None:
    """`cells` drawn, and in words the longest sequence at each rank."""
    rows = [(str(rank), *_find_longest(config, rank)) for rank in FRONTIER_RANKS]
    console.table("What fits: the longest sequence at each rank", ("rank", "longest", "plan"), rows)
    hardware = config.hardware
    title = f"{config.model.name}, hardware={hardware.name}, {hardware.vram_ceiling_gib:g} GiB"
    files = frontier_chart.draw_frontier(
        cells, title, Path("outputs") / f"frontier-{config.model.name}-{hardware.name}"
    )
    console.result(f"Drawn: {files[0]} and {files[1]}")


def _find_longest(config: RunConfig, rank: int) -> tuple[str, str]:
    longest = feasibility.find_longest_that_fits(feasibility.resize_run(config, rank=rank))
    best = planner.find_cell(config, rank, longest).plan if longest is not None else None
    if best is None:
        return "nothing fits", ""
    return f"{longest:,} tokens", planner.describe_plan(best, config.hardware.vram_ceiling_gib)


def _run(config: RunConfig, invocation: Invocation[PlanOptions, None]) -> float:
    return float(plan(config, invocation.options, Console()).budget.peak_bytes)


COMMAND: CommandSpec[PlanOptions, None] = CommandSpec("plan", PlanOptions, needs_card=False)


def main() -> None:
    """Run the command that the command line describes; ends the process."""
    run_command(_run, COMMAND)


if __name__ == "__main__":
    main()
