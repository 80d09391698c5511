"""What train and evaluate do alike with a model that has an adapter: answer, measure losses, score,
and keep what was found.

One way from answers to figures: the record is written to MLflow, and everything else that is
written there is computed from that record. `answers_file` says where answers are kept as they come.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from medexp.config.schema import Evaluation, RunConfig
from medexp.data import answer_offsets as parts
from medexp.data.encoding import vocabulary
from medexp.data.preparation import Prepared
from medexp.data.prompts import closes_reasoning
from medexp.evaluation import embedding, generation, judge, scorecard
from medexp.evaluation.baseline_cache import BaselineCache
from medexp.evaluation.losses import measure_case_losses
from medexp.evaluation.measures import lexicon
from medexp.evaluation.record import Answer, CaseLoss, Record, build_record
from medexp.evaluation.scorecard import Scorecard
from medexp.models.adapter_model import Tuned
from medexp.models.backend import Stack
from medexp.models.memory_guard import Meter, memory_phase
from medexp.planning import budget, planner
from medexp.planning.memory_terms import Phase
from medexp.system.console import DONE, NOTE, Screen


@dataclass
class Evaluator:
    """A model under measurement: what is asked of it, and where its answers are kept until all have
    come.
    """

    run: RunConfig
    show: Screen
    answers_file: Callable[[str], Path]
    ready: Prepared
    tuned: Tuned
    meter: Meter
    known: BaselineCache | None

    def answers(self, base: bool) -> list[Answer]:
        """The answers of the base, or with the adapter; those already kept are not made again."""
        whose, count = "base" if base else "tuned", len(self.ready.prompts)
        kept_in = self.known.answers if base and self.known else self.answers_file(whose)
        kept = generation.read_answers(kept_in)
        if len(kept) == count:
            if count:
                self.show.say(f"the {whose} model's {count} answers were made before", DONE)
            return [kept[case] for case in range(count)]
        # short questions in greater numbers, in the planned memory
        if planner.is_planned(self.run):
            may: Callable[[int, int], bool] = partial(budget.may_answer, self.run)
        else:
            may = generation.limit_batch_size(self.run.evaluation.batch_size)
        label = (
            f"answering {count} held-out question{'s' if count > 1 else ''} with the {whose} model"
        )
        with (
            memory_phase(Phase.answering, label, self.meter),
            self.show.counting(label, count) as advance,
        ):
            return generation.generate_answers(
                self.tuned,
                self.ready.prompts,
                self.run.evaluation.max_new_tokens,
                may,
                kept_in=kept_in,
                base=base,
                advance=advance,
            )

    def base_losses(self) -> list[CaseLoss]:
        """The base's loss of every held-out case, measured where no earlier run has done it."""
        if self.known and (found := self.known.losses()) is not None:
            self.show.say("the base's held-out losses were measured before", DONE)
            return found
        with self.show.stage("measuring the base's held-out loss"), self.tuned.as_base():
            found = self.losses()
        if self.known:
            self.known.keep(found)
        return found

    def losses(self) -> list[CaseLoss]:
        """The loss of every held-out case with the adapter, its answer told apart."""
        with memory_phase(Phase.evaluation, "measuring the held-out loss", self.meter):
            return measure_case_losses(
                self.tuned,
                self.ready.held_out.encoded,
                self.run.evaluation.batch_size,
                self._answer_starts,
            )

    def record(
        self,
        answers: tuple[list[Answer], list[Answer]],
        losses: tuple[list[CaseLoss], list[CaseLoss]],
    ) -> Record:
        """All that was measured, before and after, and judged where a judge is asked for."""
        record = build_record(
            closes_reasoning(self.run.prompt),
            self.ready.asked,
            answers,
            losses,
            self.ready.held_out.cases,
        )
        return add_judgements(record, self.run.evaluation, self.show)

    @cached_property
    def _answer_starts(self) -> list[int]:
        held_out = self.ready.held_out
        return parts.answer_starts(
            self.run.prompt,
            held_out.cases,
            held_out.encoded,
            vocabulary(self.tuned.tokenizer, self.run.prompt),
        )


def score_record(record: Record, evaluation: Evaluation, stack: Stack | None) -> Scorecard:
    """The scorecard of `record`, with what is recalled by meaning where `evaluation.embedding` asks
    for it.
    """
    cosines = (
        embedding.load_embedder(stack)
        if stack is not None and evaluation.embedding and record.cases
        else None
    )
    return scorecard.build_scorecard(record, lexicon.load(), cosines)


def add_judgements(record: Record, evaluation: Evaluation, show: Screen) -> Record:
    """`record` with the judgements of `evaluation.judge`, where one is asked for; what goes wrong
    with it is said, and no more.
    """
    if evaluation.judge.model is None or not record.cases:
        return record
    with show.counting(f"asking the judge {evaluation.judge.model}", len(record.cases)) as advance:
        found = judge.judge_cases(evaluation.judge, record.cases, advance)
    if found.failure:
        show.say(f"{found.failure}; the run goes on without", NOTE)
    return replace(record, judged=found)
