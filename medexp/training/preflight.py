"""A planned run is seen to fit before it is trained: the longest real batch goes through a step,
for real, and the adapter is put back as it was.

Where it does not fit, the next-safer plan is tried, with the weights that are loaded as long as
micro-batches alone can help. What is measured here, the caller logs.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

from medexp.config.changes import change_values
from medexp.config.measured_steps import MeasuredStep
from medexp.config.schema import RunConfig
from medexp.data.encoding import EncodedCase
from medexp.data.preparation import Prepared
from medexp.errors import HostMemoryError, VramCeilingError
from medexp.evaluation.losses import measure_case_losses
from medexp.models import loading as model_loading
from medexp.models.adapter_model import AdapterModel
from medexp.models.memory_guard import Meter, memory_phase
from medexp.planning import limits, planner
from medexp.planning.memory_terms import Phase
from medexp.planning.step_memory import count_attended_tokens
from medexp.planning.step_time import Plan, predict_plan
from medexp.system.units import gib
from medexp.training import trainer
from medexp.training.resume import ResumableRun
from medexp.training.step_measurement import TRIED_ALONE, describe_rehearsal

# What is going on in each phase, in words. Answers are not tried: they come with the longest
# questions first, and are kept as they come.
DOING = {
    Phase.always: "loading the model",
    Phase.evaluation: "measuring the held-out loss of the longest batch",
    Phase.training: "taking a training step on the longest batch",
}


@dataclass(frozen=True)
class PhaseBytes:
    """Planned and measured reserved bytes of one phase of a run."""

    phase: Phase
    planned: int
    measured: int

    def sentence(self) -> str:
        """Return both in GiB, in words."""
        return f"{self.phase.value} {gib(self.measured):.2f} GiB, {gib(self.planned):.2f} planned"


@dataclass(frozen=True)
class PreflightResult:
    """A loaded model, the config with the plan that it was seen to fit with, that plan, and what
    each phase took; `tried` are the plans that did not fit, `measured` is what the rehearsed step
    says of the formulas.
    """

    model: AdapterModel
    config: RunConfig
    plan: Plan
    phases: tuple[PhaseBytes, ...] = ()
    tried: tuple[Plan, ...] = ()
    measured: MeasuredStep | None = None

    def metrics(self) -> dict[str, float]:
        """Return planned and measured bytes of every phase."""
        metrics = {}
        for phase_bytes in self.phases:
            name = f"vram/probe/{phase_bytes.phase.name}"
            metrics[f"{name}/planned_bytes"] = float(phase_bytes.planned)
            metrics[f"{name}/measured_bytes"] = float(phase_bytes.measured)
        return metrics

    def as_dict(self) -> dict[str, object]:
        """Return the plans as plain values."""
        return {
            "chosen": planner.plan_as_dict(self.plan),
            "did_not_fit": [*map(planner.plan_as_dict, self.tried)],
        }


def run_preflight(
    requested: RunConfig,
    config: RunConfig,
    plan: Plan,
    load: Callable[[RunConfig], AdapterModel],
    prepared: Prepared,
    meter: Meter,
    work: ResumableRun,
    say: Callable[[str], None],
) -> PreflightResult:
    """Return the model of `config` with the first plan that a real step fits: `plan`, else up to
    `hardware.replan` safer ones of `requested`, which is `config` before a plan was applied.

    The config of the result has that plan's levers. Where activations cannot wait in host memory as
    was planned, the next plan leaves them on the card. A run that was seen to fit before is only
    loaded; one that ran out of memory later on begins with the next-safer plan.

    Raises: HostMemoryError if activations were asked to the host by hand; VramCeilingError with
        planned and measured bytes when no plan fits, or none is left.
    """
    if (fitting := find_fitting_plan(requested, plan, work)) is not None:
        config = planner.apply_plan(config, fitting)
        with memory_phase(Phase.always, DOING[Phase.always], meter):
            return PreflightResult(load(config), config, fitting)
    if (after_running_out := _plan_after_running_out(requested, work)) is not None:
        described = planner.describe_plan(after_running_out, None)
        say(f"the last attempt ran out of memory with this plan; next: {described}")
        plan = after_running_out
        config = planner.apply_plan(config, plan)
    tried: list[Plan] = []
    model: AdapterModel | None = None
    while True:
        try:
            with memory_phase(Phase.always, DOING[Phase.always], meter):
                model = model or load(config)
            phases = _run_longest_step(config, plan, model, prepared, meter)
            work.remember_fitting_levers(plan.levers)
            measured = _describe_step(config, plan, prepared, phases[-1], meter)
            return PreflightResult(model, config, plan, phases, tuple(tried), measured)
        except HostMemoryError as error:
            if requested.hardware.offload_activations is True:
                raise
            requested = _keep_activations_on_card(requested)
            safer, why = planner.choose_plan(requested)[0], error.why
        except VramCeilingError as error:
            phase, is_last = _phase_of(error.phase), len(tried) >= config.hardware.replan
            next_plan = None if is_last else planner.next_safer_plan(requested, plan, phase)
            if next_plan is None:
                raise _explain_nothing_fits(error, [*tried, plan], meter) from error
            safer, why = next_plan, f"{error.doing} did not fit"
        say(f"{why}; next: {planner.describe_plan(safer, None)}")
        tried.append(plan)
        # Outside the handler, because its traceback holds what the step had allocated.
        if model is not None:
            model_loading.recover_from_failed_step(model)
        model = None if planner.needs_reload(plan, safer) else model
        plan = safer
        config = planner.apply_plan(config, plan)
        meter.restart()


def find_fitting_plan(requested: RunConfig, plan: Plan, work: ResumableRun) -> Plan | None:
    """Return the plan that the run of `work` was seen to fit with, where this machine has the
    memory for it; None where `plan`, made for this machine, is to be tried in its place.
    """
    if (levers := work.load_fitting_levers()) is None:
        return None
    fitting = predict_plan(requested, levers)
    # Grouped by length, cases come in another order with another micro-batch. What is half trained
    # then goes on as it began; should it not fit any more, the memory guard ends it.
    is_same_size = levers.micro_batch == plan.levers.micro_batch
    has_one_order = is_same_size or not requested.training.group_by_length
    return None if has_one_order and not limits.fits(requested, fitting) else fitting


def _plan_after_running_out(requested: RunConfig, work: ResumableRun) -> Plan | None:
    """Return the next-safer plan than the one that seemed to fit and did not; None where nothing
    ran out of memory, nothing is safer, or cases would come in another order.
    """
    if (ran_out := work.load_levers_out_of_memory()) is None:
        return None
    levers, phase = ran_out
    return find_safer_plan(requested, predict_plan(requested, levers), phase)


def find_safer_plan(requested: RunConfig, plan: Plan, phase: str | None) -> Plan | None:
    """Return the plan with which a run of `requested` goes on that ran out of memory with `plan` in
    the phase of this value; None where nothing is safer, or cases would come in another order.
    """
    safer = planner.next_safer_plan(requested, plan, _phase_of(phase))
    is_another_order = (
        requested.training.group_by_length
        and safer is not None
        and safer.levers.micro_batch != plan.levers.micro_batch
    )
    return None if is_another_order else safer


def _keep_activations_on_card(requested: RunConfig) -> RunConfig:
    return replace(requested, hardware=replace(requested.hardware, offload_activations=False))


def _phase_of(value: str | None) -> Phase:
    """Return the phase of this value; where none is known, the one that runs are mostly in."""
    return Phase.training if value is None else Phase(value)


def _explain_nothing_fits(
    error: VramCeilingError, tried: Sequence[Plan], meter: Meter
) -> VramCeilingError:
    planned = ", then ".join(f"{gib(plan.budget.peak_bytes):.2f} GiB" for plan in tried)
    return VramCeilingError(
        f"{error}. Planned: {planned}; measured: {gib(meter.peak_bytes()):.2f} GiB and more was"
        " asked for. Nothing safer is left to try: raise hardware.replan, set levers to auto, or"
        " lower training.max_seq_tokens",
        error.doing,
        error.phase,
        nothing_safer=True,
    )


def _run_longest_step(
    config: RunConfig, plan: Plan, model: AdapterModel, prepared: Prepared, meter: Meter
) -> tuple[PhaseBytes, ...]:
    """Measure the held-out loss of the longest batch, take an optimizer step on the longest
    micro-batch, and put the adapter back; return what each phase took.
    """
    held_out = find_longest_batch(
        sorted(prepared.held_out.encoded, key=_count_tokens), config.evaluation.batch_size
    )
    work: dict[Phase, Callable[[], object]] = {
        Phase.evaluation: lambda: measure_case_losses(
            model, held_out, config.evaluation.batch_size
        ),
        Phase.training: lambda: take_longest_step(config, model, prepared),
    }
    phases = [PhaseBytes(Phase.always, plan.budget.bytes_in(Phase.always), meter.reserved_bytes())]
    with model.restoring_weights():
        for phase, run_phase in work.items():
            meter.restart()
            with memory_phase(phase, DOING[phase], meter):
                run_phase()
            phases.append(PhaseBytes(phase, plan.budget.bytes_in(phase), meter.phase_peak_bytes()))
    meter.restart()
    return tuple(phases)


def _describe_step(
    config: RunConfig, plan: Plan, prepared: Prepared, step: PhaseBytes, meter: Meter
) -> MeasuredStep | None:
    """Return what the rehearsed step says of the formulas; None where the allocator had to hand
    back what it cached, or cases differ in length."""
    if meter.retries():
        return None
    rows = find_largest_micro_batch(config, prepared.rows)
    return describe_rehearsal(config, plan.levers, rows, step.measured)


def take_longest_step(config: RunConfig, model: AdapterModel, prepared: Prepared) -> None:
    """Take an optimizer step on the longest micro-batch, twice where steps are accumulated. Model
    and adapter are not as before, but another card can still join them.
    """
    rows = find_largest_micro_batch(config, prepared.rows)
    twice = min(2, config.training.accumulation)
    once = change_values(
        config,
        {
            "training.micro_batch": len(rows),
            "training.accumulation": twice,
            **TRIED_ALONE,
        },
    )
    # Accelerate prepares nothing twice: without another card now, it would not share the model out
    # over all of them later.
    with model.restoring_attributes() if config.hardware.cards > 1 else nullcontext():
        trainer.fit(model, list(rows) * twice, once, None, None, [])


def find_longest_batch(rows: Sequence[EncodedCase], size: int) -> Sequence[EncodedCase]:
    """Return those of `rows`, taken `size` at a time, that are longest when padded to each
    other.
    """
    batches = (rows[start : start + size] for start in range(0, len(rows), size))
    return max(batches, key=_count_padded_tokens)


def find_largest_micro_batch(
    config: RunConfig, rows: Sequence[EncodedCase]
) -> Sequence[EncodedCase]:
    """Return, of all micro-batches that `rows` are trained in, one with the most tokens, padding
    counted, attention's too.
    """
    parts = (
        part
        for step in range(1, len(rows) // config.training.cases_a_step + 1)
        for part in trainer.split_over_cards(
            trainer.rows_of_step(config, rows, step), config.hardware.cards
        )
    )
    micro_batches = (
        [part[case] for case in cases]
        for part in parts
        for cases in trainer.split_into_micro_batches(config, [*map(_count_tokens, part)])
    )
    return max(micro_batches, key=_count_attended_tokens)


def _count_attended_tokens(batch: Sequence[EncodedCase]) -> int:
    return count_attended_tokens(len(batch), max(map(_count_tokens, batch)))


def _count_padded_tokens(batch: Sequence[EncodedCase]) -> int:
    return len(batch) * max(map(_count_tokens, batch))


def _count_tokens(row: EncodedCase) -> int:
    return len(row.input_ids)
