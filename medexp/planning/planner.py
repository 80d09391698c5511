"""The fastest way to run that fits under the ceiling: every combination of levers, its bytes
(`budget`) and its predicted time.

Exact search over micro-batch, streamed layers, embedding, kept layers (on the card, or their
activations on the host) and compiled layers; a tenth of a second. What costs more than it brings, a
tiled MLP and a paged optimizer, is only looked at when nothing fits without, or only layers that
are not compiled do. Levers that the config sets stay as they are.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial

from medexp.config.changes import change_values
from medexp.config.flatten import flatten
from medexp.config.levers import ALL_PASSES, MEMORY_LEVERS
from medexp.config.schema import Device, Engine, Planning, RunConfig
from medexp.planning.candidates import list_candidates
from medexp.planning.feasibility import make_refusal, resize_run, spell_layers
from medexp.planning.limits import fits, host_excess_bytes
from medexp.planning.memory_terms import Levers, Phase, Place, Term
from medexp.planning.step_time import Plan, Predictions
from medexp.system.units import GIB

# What predicted times may be off against each other.
TOO_CLOSE_TO_TELL = 1.05
# A plan after one that did not fit must be smaller by this.
SAFER = 1.03


@dataclass(frozen=True)
class Cell:
    """One place of the frontier: the plan of this rank and length, or None where nothing fits."""

    rank: int
    seq: int
    plan: Plan | None


def choose_plan(config: RunConfig) -> tuple[Plan, tuple[Plan, ...]]:
    """Return the plan that `training.plan` asks for, and up to four runners-up.

    Raises: VramPlanError naming the largest term and what would fit, if nothing does.
    """
    plans, fitting = search_plans(config, partial(fits, config))
    if not fitting:
        raise make_refusal(config, plans)
    chosen = pick_preferred(config, fitting)
    return chosen, tuple(_pick_distinct([chosen, *fitting]))[1:5]


def search_plans(config: RunConfig, may: Callable[[Plan], bool]) -> tuple[list[Plan], list[Plan]]:
    """Return the plans of `config`, best first, and those of them that `may` be taken; with last
    resorts where no compiled layers fit."""
    plans = rank_plans(config)
    fitting = [*filter(may, plans)]
    if not any(plan.levers.compiled for plan in fitting):
        plans = rank_plans(config, last_resorts=True)
        fitting = [*filter(may, plans)]
    return plans, fitting


def pick_preferred(config: RunConfig, fitting: list[Plan]) -> Plan:
    """Return the one that takes least with `training.plan=frugal`, else the simplest of those whose
    predicted times are too close to tell apart. `fitting` are plans that may be taken, best first.
    """
    if config.training.plan is Planning.frugal:
        return fitting[0]
    close = [plan for plan in fitting if plan.step_s <= fitting[0].step_s * TOO_CLOSE_TO_TELL]
    return min(close, key=_preference_key)


def _preference_key(plan: Plan) -> tuple[bool, bool, int, float, int]:
    """Return what plans too close to tell apart are ordered by. An optimizer is paged, and
    activations are moved, only where that clearly brings something. Then the larger micro-batch:
    whatever the cost model leaves out (launches, gaps, a slow host) is paid a micro-batch."""
    levers = plan.levers
    return (
        levers.paged,
        levers.kept_on_host,
        -levers.micro_batch,
        plan.step_s,
        plan.budget.peak_bytes,
    )


def rank_plans(config: RunConfig, last_resorts: bool = False) -> list[Plan]:
    """Return every plan worth looking at, best first: by time, or by bytes with
    `training.plan=frugal`."""
    is_frugal = config.training.plan is Planning.frugal
    predictions = Predictions(config)
    plans = [
        predictions.of(levers)
        for levers in list_candidates(predictions.budgets, last_resorts or is_frugal)
    ]
    if is_frugal:
        return sorted(plans, key=lambda plan: (plan.budget.peak_bytes, plan.step_s))
    return sorted(plans, key=lambda plan: (plan.step_s, plan.budget.peak_bytes))


def next_safer_plan(asked: RunConfig, failed: Plan, phase: Phase) -> Plan | None:
    """Return the best plan of `asked` (its levers as the config has them) that takes clearly less
    in `phase` than `failed` did.

    One that needs no other weights on the card comes first; None if nothing takes less. The
    prediction of `failed` was too low by an unknown factor: what is `SAFER` times smaller is likely
    to fit under it.
    """
    takes_less = [
        plan
        for plan in rank_plans(asked, last_resorts=True)
        if plan.budget.bytes_in(phase) * SAFER <= failed.budget.bytes_in(phase)
        and plan.budget.peak_bytes <= failed.budget.peak_bytes
        and host_excess_bytes(asked, plan) <= 0
        # Tiling is decided when Unsloth is imported, once for the process.
        and plan.levers.tiled_mlp is failed.levers.tiled_mlp
    ]
    loaded = [plan for plan in takes_less if not needs_reload(failed, plan)]
    return next(iter(loaded or takes_less), None)


def needs_reload(before: Plan, after: Plan) -> bool:
    """Return whether the two differ in more than micro-batch, accumulation and paging."""

    def weights(plan: Plan) -> Levers:
        return replace(plan.levers, micro_batch=1, accumulation=1, paged=False)

    return weights(before) != weights(after)


# What `apply_plan` sets.
LEVER_KEYS = (
    "training.micro_batch",
    "training.accumulation",
    *(lever.key for lever in MEMORY_LEVERS),
)
# Their names in MLflow, beside those of what was asked.
LEVER_PARAMS = {name: f"vram.{name.rpartition('.')[2]}" for name in LEVER_KEYS}


def apply_plan(config: RunConfig, plan: Plan) -> RunConfig:
    """Return `config` with the levers of `plan`, still known by what was asked for."""
    leaves, levers = flatten(config), plan.levers
    values: dict[str, object] = {
        "training.micro_batch": levers.micro_batch,
        "training.accumulation": levers.accumulation,
        "asked": {name: leaves[name] for name in LEVER_KEYS} | config.asked,
    }
    with_unsloth = config.hardware.engine is Engine.unsloth
    for lever in MEMORY_LEVERS:
        if with_unsloth or not lever.needs_unsloth:
            values[lever.key] = getattr(levers, lever.planned_as)
    return change_values(config, values)


def find_cell(config: RunConfig, rank: int, seq: int) -> Cell:
    """Return the best plan of `config` at another rank and length."""
    there = resize_run(config, rank, seq)
    _, fitting = search_plans(there, partial(fits, there))
    return Cell(rank, seq, pick_preferred(there, fitting) if fitting else None)


def _pick_distinct(plans: list[Plan]) -> Iterator[Plan]:
    """Return the best plan of every micro-batch and number of layers kept on the card, or on the
    host: neighbours say nothing new."""
    seen = set()
    for plan in plans:
        levers = plan.levers
        kind = (levers.micro_batch, levers.kept_on_host or levers.kept_layers)
        if kind not in seen:
            seen.add(kind)
            yield plan


def is_planned(config: RunConfig) -> bool:
    """Return whether there is a card, and so something to plan."""
    return config.hardware.device is Device.cuda


def sort_terms(plan: Plan) -> list[Term]:
    """Return every term of the plan, the card's first, what is always there before what comes and
    goes, largest first."""
    return sorted(
        plan.budget.terms,
        key=lambda term: (
            term.place is Place.host,
            term.phase is not Phase.always,
            -term.num_bytes,
        ),
    )


def describe_plan(plan: Plan, ceiling_gib: float | None) -> str:
    """Return the plan in one line: batch, levers, bytes against the ceiling, predicted speed."""
    levers = plan.levers
    is_eager = not levers.compiled and levers.streamed_layers > 0
    parts = [f"{levers.micro_batch} x {levers.accumulation} cases a step"]
    parts += (
        [f"{spell_layers(levers.streamed_layers)} streamed from the host"]
        if levers.streamed_layers
        else []
    )
    parts += ["embedding on the host"] if levers.embedding_on_host else []
    where = ", their activations on the host" if levers.kept_on_host else ""
    parts += (
        [f"{spell_layers(levers.kept_layers)} not recomputed{where}"] if levers.kept_layers else []
    )
    parts += ["layers not compiled"] if is_eager else []
    parts += {False: [], True: ["gradients in FP8"], ALL_PASSES: ["all products in FP8"]}[
        levers.fp8
    ]
    parts += ["MLP in tiles"] if levers.tiled_mlp else []
    parts += ["optimizer state paged"] if levers.paged else []
    of = f" of {ceiling_gib:g}" if ceiling_gib else ""
    takes = plan.budget.peak_bytes or plan.budget.host_bytes
    speed = f", {plan.tokens_per_s:,.0f} tokens/s predicted" if plan.is_timed else ""
    return f"{', '.join(parts)}: {takes / GIB:.2f}{of} GiB{speed}"


def plan_as_dict(plan: Plan) -> dict[str, object]:
    """Return the plan as plain values with stable keys; bytes are ints."""
    levers = plan.levers
    return {
        "peak_bytes": plan.budget.peak_bytes,
        "host_bytes": plan.budget.host_bytes,
        "host_link_bytes_per_step": plan.budget.link_bytes,
        "step_s": round(plan.step_s, 4) if plan.is_timed else None,
        "tokens_per_s": round(plan.tokens_per_s, 1) if plan.is_timed else None,
        "levers": asdict(levers),
        "terms": [
            {
                "name": term.name,
                "bytes": term.num_bytes,
                "place": term.place.value,
                "phase": term.phase.value,
                "source": term.source,
            }
            for term in sort_terms(plan)
        ],
    }
