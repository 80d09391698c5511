"""What train and evaluate do alike with a model that has an adapter: have it answer, measure its
losses, and score both.

One way from answers to figures: the record is written to MLflow, and everything else that is
written there is computed from that record.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from medexp.config import dataset_sources
from medexp.config.schema import Benchmark, Evaluation, RunConfig
from medexp.data import answer_offsets
from medexp.data.cases import Case
from medexp.data.encoding import make_vocabulary
from medexp.data.preparation import Prepared
from medexp.data.prompts import opens_reasoning
from medexp.data.split import name_groups
from medexp.errors import ConfigError, listing, nearest
from medexp.evaluation import embedding, generation, judge, scorecard, verification
from medexp.evaluation.base_prompt import BestPrompts, make_best_prompts
from medexp.evaluation.baseline_cache import BaselineCache
from medexp.evaluation.benchmark_questions import ChoiceQuestion
from medexp.evaluation.benchmark_reasoning import answer_questions
from medexp.evaluation.diagnosis import score_diagnoses
from medexp.evaluation.knowledge import score_knowledge
from medexp.evaluation.likelihood import fits_tokens
from medexp.evaluation.losses import measure_case_losses
from medexp.evaluation.measure_table import BENCHMARKS, BY_KEY, REASONED
from medexp.evaluation.measures import lexicon
from medexp.evaluation.measures.forced_choice import Likelihoods
from medexp.evaluation.question_forms import make_best_form, make_training_form
from medexp.evaluation.record import Answer, BenchmarkGrades, CaseLoss, Record, build_record
from medexp.evaluation.scorecard import Scorecard
from medexp.models.adapter_model import AdapterModel
from medexp.models.backend import Backend
from medexp.models.memory_guard import Meter, memory_phase
from medexp.planning import budget, planner
from medexp.planning.memory_terms import Phase
from medexp.system.console import DONE, NOTE, Console

# More primary measures than these, and Holm's correction leaves none of them a chance.
MOST_PRIMARY = 4
# Draws are made as R1's authors make theirs, from a seed that every run shares.
DRAW_TOP_P, DRAW_SEED = 0.95, 3407
_ARM_NAMES = {
    "base": "base model",
    "base_best": "base model asked its best way",
    "tuned": "tuned model",
}


@dataclass
class Evaluator:
    """A model under measurement, and the held-out cases it is measured on.

    `answers_file` says in which file the answers of an arm ("base", "base_best", "tuned") are kept
    as they come.
    """

    config: RunConfig
    console: Console
    answers_file: Callable[[str], Path]
    prepared: Prepared
    model: AdapterModel
    meter: Meter
    baseline: BaselineCache | None

    def generate_base_answers(self) -> dict[str, list[list[Answer]]]:
        """Return the answers of the base, by the ways it is asked and by the draws of each."""
        ways = [arm for arm in self.config.evaluation.arms if arm != "tuned"]
        return {arm: self.generate_answers(arm) for arm in ways}

    def generate_answers(self, arm: str) -> list[list[Answer]]:
        """Return the answers of `arm` (base, base_best or tuned), a list a draw; those in their
        files are not made again.
        """
        evaluation = self.config.evaluation
        if not evaluation.temperature:
            return [self._generate_draw(arm, "", None)]
        draws = []
        for draw in range(evaluation.draws):
            seed = DRAW_SEED + 1000 * draw
            sampling = generation.Sampling(
                evaluation.max_new_tokens, evaluation.temperature, DRAW_TOP_P, seed
            )
            of_several = f", draw {draw + 1} of {evaluation.draws}" if evaluation.draws > 1 else ""
            draws.append(self._generate_draw(arm, of_several, sampling))
        return draws

    def _generate_draw(
        self, arm: str, of_several: str, sampling: generation.Sampling | None
    ) -> list[Answer]:
        is_base = arm != "tuned"
        prompts = self.best_prompts.prompts if arm == "base_best" else self.prepared.prompts
        count, whose = len(prompts), _ARM_NAMES[arm]
        name = arm if sampling is None else f"{arm}-{sampling.temperature:g}-{sampling.seed}"
        file = self.answers_file(name)
        if is_base and self.baseline:
            file = self.baseline.answers_file(prompts, sampling)
        answered = generation.read_answers(file)
        if len(answered) == count:
            if count:
                self.console.info(
                    f"the {whose}'s {count} answers{of_several} were made before", DONE
                )
            return [answered[case] for case in range(count)]
        questions = f"{count} held-out question{'s' if count > 1 else ''}"
        label = f"answering {questions} with the {whose}{of_several}"
        with (
            memory_phase(Phase.answering, label, self.meter),
            self.console.progress(label, count) as advance,
        ):
            return generation.generate_answers(
                self.model,
                prompts,
                self.config.evaluation.max_new_tokens,
                self._batch_rule(),
                answers_file=file,
                base=is_base,
                advance=advance,
                sampling=sampling,
            )

    def repeat_in_other_batches(self) -> tuple[list[Answer], list[CaseLoss]]:
        """Return the tuned model's answers and losses once more, in batches of another size.

        Greedy, as draws differ by their nature. Half the usual batch always fits.
        """
        half = max(1, self.config.evaluation.batch_size // 2)
        size = half if half < self.config.evaluation.batch_size else 2
        if planner.is_planned(self.config):
            size = 1
        count = len(self.prepared.prompts)
        label = f"answering {count} questions once more, {size} at a time"
        with (
            memory_phase(Phase.answering, label, self.meter),
            self.console.progress(label, count) as advance,
        ):
            answers = generation.generate_answers(
                self.model,
                self.prepared.prompts,
                self.config.evaluation.max_new_tokens,
                generation.limit_batch_size(size),
                answers_file=self.answers_file(f"tuned-again-{size}"),
                base=False,
                advance=advance,
            )
        with memory_phase(Phase.evaluation, "measuring the held-out loss once more", self.meter):
            held_out = self.prepared.held_out.encoded
            losses = measure_case_losses(self.model, held_out, size, self._answer_starts)
        return answers, losses

    @cached_property
    def best_prompts(self) -> BestPrompts:
        """The questions as the base is asked them its best way."""
        questions = [case.question for case in self.prepared.asked]
        return make_best_prompts(self.model.tokenizer, questions)

    def measure_base_losses(self) -> list[CaseLoss]:
        """Return the base's loss of every held-out case, measured where no earlier run has done
        it.
        """
        if self.baseline and (stored := self.baseline.load_losses()) is not None:
            self.console.info("the base's held-out losses were measured before", DONE)
            return stored
        with (
            self.console.status("measuring the base's held-out loss"),
            self.model.adapter_disabled(),
        ):
            losses = self.measure_losses()
        if self.baseline:
            self.baseline.store_losses(losses)
        return losses

    def measure_losses(self) -> list[CaseLoss]:
        """Return the loss of every held-out case with the adapter, its answer told apart."""
        with memory_phase(Phase.evaluation, "measuring the held-out loss", self.meter):
            return measure_case_losses(
                self.model,
                self.prepared.held_out.encoded,
                self.config.evaluation.batch_size,
                self._answer_starts,
            )

    @property
    def has_own_validation(self) -> bool:
        """Whether validation cases are there, and are not the ones that are measured at the end."""
        validation = self.prepared.validation
        return bool(validation.cases) and validation.cases != self.prepared.held_out.cases

    def measure_validation_losses(self) -> list[CaseLoss]:
        """Return the loss of every validation case, without any of every held-out one."""
        if not self.has_own_validation:
            return self.measure_losses()
        with memory_phase(Phase.evaluation, "measuring the validation loss", self.meter):
            return measure_case_losses(
                self.model, self.prepared.validation.encoded, self.config.evaluation.batch_size
            )

    def build_record(
        self,
        answers: Mapping[str, Sequence[Sequence[Answer]]],
        losses: tuple[list[CaseLoss], list[CaseLoss]],
    ) -> Record:
        """Return all that was measured, judged where a judge is asked for.

        `answers` holds the draws of every arm; losses are (before, after).
        """
        best = answers.get("base_best")
        record = build_record(
            opens_reasoning(self.config.prompt),
            self.prepared.asked,
            (answers["base"][0], answers["tuned"][0]),
            losses,
            self.prepared.held_out.cases,
            name_held_out_groups(self.config, self.prepared.held_out.cases),
            self.config.evaluation.primary,
            base_best=best[0] if best else None,
            further={arm: draws[1:] for arm, draws in answers.items()},
        )
        record = replace(
            record,
            likelihoods=self.measure_likelihoods(),
            base_best_reasons=bool(best) and self.best_prompts.reasons,
        )
        record = replace(record, verified=self._verify(record))
        return add_judgements(record, self.config.evaluation, self.console)

    def _verify(self, record: Record) -> Mapping[str, tuple[float, ...]]:
        """Return what the verifier of the config says of every arm's answers."""
        evaluation, arms = self.config.evaluation, self.config.evaluation.arms
        if evaluation.verifier is None or not record.cases:
            return {}
        label, count = f"asking the verifier {evaluation.verifier}", len(record.cases) * len(arms)
        with (
            memory_phase(Phase.evaluation, label, self.meter),
            self.console.progress(label, count) as advance,
        ):
            fits = fits_tokens(evaluation.batch_size, evaluation.max_seq_tokens)
            verifier = verification.make_verifier(self.config, self.model, fits)
            found = verification.verify_answers(verifier, record.cases, arms, advance)
        if not found:
            self.console.info(f"{label} failed: no usable reply; the run goes on without", NOTE)
        return found

    def answer_benchmarks(
        self, questions: Mapping[Benchmark, Sequence[ChoiceQuestion]]
    ) -> dict[str, BenchmarkGrades]:
        """Return for each benchmark which of `questions` base and tuned model answered right in the
        run's own prompt; answers that are in their file are not made again.
        """
        limit, graded = self.config.evaluation.benchmark_limit, {}
        for benchmark, asked in questions.items():
            base = self._answer_benchmark(benchmark, asked[:limit], base=True)
            tuned = self._answer_benchmark(benchmark, asked[:limit], base=False)
            graded[f"{benchmark.value}{REASONED}"] = BenchmarkGrades(base, tuned)
        return graded

    def _answer_benchmark(
        self, benchmark: Benchmark, questions: Sequence[ChoiceQuestion], base: bool
    ) -> tuple[bool, ...]:
        side, prompt = "base" if base else "tuned", self.config.prompt
        title = BENCHMARKS[benchmark.value]
        label = f"answering {len(questions)} questions of {title} with the {side} model"
        with (
            memory_phase(Phase.answering, label, self.meter),
            self.console.progress(label, len(questions)) as advance,
        ):
            grades = answer_questions(
                self.model,
                prompt,
                questions,
                make_vocabulary(self.model.tokenizer, prompt),
                self.config.evaluation.max_new_tokens,
                self._batch_rule(),
                self.answers_file(f"{benchmark.value}-{side}"),
                base,
                advance,
            )
        if grades.without_option:
            self.console.info(
                f"{grades.without_option} of {len(questions)} answers of the {side} model to"
                f" {title} name no option and count as wrong; a larger"
                " evaluation.max_new_tokens lets it end",
                NOTE,
            )
        return grades.right

    def measure_likelihoods(self) -> dict[str, Likelihoods]:
        """Return what every arm finds likely of every held-out case; nothing with
        `evaluation.likelihoods=false`.
        """
        if not self.config.evaluation.likelihoods or not self.prepared.held_out.cases:
            return {}
        return {arm: self._measure_arm(arm) for arm in self.config.evaluation.arms}

    def _measure_arm(self, arm: str) -> Likelihoods:
        """Return what `arm` finds likely, from the cache where that has it."""
        if arm == "tuned":
            return self._weigh(arm)
        stored = self.baseline.load_likelihoods(arm) if self.baseline else None
        if stored is None:
            with self.model.adapter_disabled():
                stored = self._weigh(arm)
            if self.baseline:
                self.baseline.store_likelihoods(arm, stored)
        return stored

    def _weigh(self, arm: str) -> Likelihoods:
        config, cases = self.config, self.prepared.held_out.cases
        evaluation, prompt = config.evaluation, config.prompt
        vocabulary = make_vocabulary(self.model.tokenizer, prompt)
        form = make_training_form(prompt, vocabulary)
        if arm == "base_best":
            form = make_best_form(self.model.tokenizer, vocabulary)
        # A plan counts on whole rows without a cache; on a CPU a shared prefix saves most of them.
        fits = fits_tokens(evaluation.batch_size, evaluation.max_seq_tokens)
        how = (fits, not planner.is_planned(config))
        label = f"weighing diagnoses and facts of {len(cases)} cases, {_ARM_NAMES[arm]}"
        with (
            memory_phase(Phase.evaluation, label, self.meter),
            self.console.progress(label, 2 * len(cases)) as advance,
        ):
            seed = config.dataset.split_seed
            diagnoses = score_diagnoses(self.model, form, cases, *how, seed, advance)
            advance(len(cases) - len(diagnoses))
            knowledge = score_knowledge(self.model, form, cases, *how, advance)
        return Likelihoods(tuple(diagnoses), tuple(knowledge))

    def _batch_rule(self) -> Callable[[int, int], bool]:
        """Return whether so many questions, of so many tokens at most, go together."""
        # A plan knows what its memory holds: short questions then go together in greater numbers.
        if planner.is_planned(self.config):
            return partial(budget.fits_answering_plan, self.config)
        return generation.limit_batch_size(self.config.evaluation.batch_size)

    @cached_property
    def _answer_starts(self) -> list[int]:
        held_out, prompt = self.prepared.held_out, self.config.prompt
        return answer_offsets.find_answer_starts(
            prompt, held_out.cases, held_out.encoded, make_vocabulary(self.model.tokenizer, prompt)
        )


def name_held_out_groups(config: RunConfig, cases: Sequence[Case]) -> list[str]:
    """Return the group of every held-out case, by the column that its source is grouped by."""
    columns = [source.group_by for source in dataset_sources.list_sources(config.dataset)]
    return name_groups(cases, [column for column in columns if column])


def check_primary(evaluation: Evaluation) -> None:
    """Refuse a primary measure that is none, before anything heavy loads.

    Raises: ConfigError.
    """
    known = [*BY_KEY, "judge", *(f"benchmark_{name}" for name in BENCHMARKS)]
    problems = [
        f"evaluation.primary has {name}, which is no measure{nearest(name, known)}; there are"
        f" {listing(known)}"
        for name in evaluation.primary
        if name not in known
    ]
    if len(evaluation.primary) > MOST_PRIMARY:
        problems.append(
            f"evaluation.primary names {len(evaluation.primary)} measures and may name"
            f" {MOST_PRIMARY}: each is paid for with what the others could have found; name those"
            " that the run is made for"
        )
    if problems:
        raise ConfigError(problems)


def score_record(record: Record, evaluation: Evaluation, stack: Backend | None) -> Scorecard:
    """Return the scorecard of `record`, with what is recalled by meaning where
    `evaluation.embedding` asks for it.
    """
    has_embedder = stack is not None and evaluation.embedding and record.cases
    cosines = embedding.load_embedder(stack) if has_embedder and stack is not None else None
    return scorecard.build_scorecard(record, lexicon.load(), cosines)


def add_judgements(record: Record, evaluation: Evaluation, console: Console) -> Record:
    """Return `record` with the judgements of `evaluation.judge`, where one is asked for.

    A run never fails because of its judge: what goes wrong there is said, and no more.
    """
    if evaluation.judge.model is None or not record.cases:
        return record
    label, count = f"asking the judge {evaluation.judge.model}", len(record.cases)
    with console.progress(label, count) as advance:
        judgements = judge.judge_cases(evaluation.judge, record.cases, advance)
    if judgements.failure:
        console.info(f"{judgements.failure}; the run goes on without", NOTE)
    return replace(record, judged=judgements)
