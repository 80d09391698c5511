"""A plan as tables on the console: its terms, its figures, and the runners-up."""

from medexp.config.schema import Device, RunConfig
from medexp.planning import planner
from medexp.planning.step_time import Plan
from medexp.system.console import Console
from medexp.system.units import GIB, format_duration


def print_plan(config: RunConfig, chosen: Plan, console: Console) -> None:
    """Print every term of the plan, and what the run takes with it."""
    rows = [
        (term.name, f"{term.num_bytes / GIB:.3f}", term.place.value, term.phase.value, term.source)
        for term in planner.sort_terms(chosen)
    ]
    title = (
        f"{config.model.name}, r={config.lora.r}, {config.training.max_seq_tokens} tokens,"
        f" hardware={config.hardware.name}"
    )
    console.table(title, ("what", "GiB", "where", "when", "known from"), rows)
    console.table("", ("", ""), _build_summary_rows(config, chosen))


def _build_summary_rows(config: RunConfig, chosen: Plan) -> list[tuple[str, str]]:
    levers, budget = chosen.levers, chosen.budget
    ceiling = None if config.hardware.device is Device.cpu else config.hardware.vram_ceiling_gib
    rows = [("plan", planner.describe_plan(chosen, ceiling))]
    if (cards := config.hardware.cards) > 1:
        rows.append(("cards", f"{cards}, which share out a step; bytes are of each of them"))
    if ceiling:
        rows.append(("ceiling", f"{ceiling:g} GiB, {ceiling - budget.peak_bytes / GIB:.2f} left"))
    if budget.peak_bytes:
        rows.append(
            ("peak on the card", f"{budget.peak_bytes / GIB:.2f} GiB, {budget.peak_bytes:,} bytes")
        )
        rows.append(("over the host link", f"{budget.link_bytes / GIB:.1f} GiB a step"))
    rows.append(("host memory", f"{budget.host_bytes / GIB:.2f} GiB"))
    if chosen.is_timed:
        cases = levers.micro_batch * levers.accumulation
        whole_run = _describe_whole_run(config, chosen)
        rows.append(("predicted", f"{chosen.step_s:.1f} s a step of {cases} cases, {whole_run}"))
    return rows


def _describe_whole_run(config: RunConfig, chosen: Plan) -> str:
    steps = config.training.max_steps
    if not steps:
        return "the run as long as its cases make it"
    return f"{format_duration(steps * chosen.step_s)} for {steps} steps"


def print_runners_up(runners_up: tuple[Plan, ...], console: Console) -> None:
    """Print the next best plans, a line each; nothing where there is none."""
    if runners_up:
        rows = [(planner.describe_plan(plan, None),) for plan in runners_up]
        console.table("Runners-up", ("",), rows)
