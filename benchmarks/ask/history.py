"""What a follow-up question is best asked with: what the tuned model of a finished run says to it
in each way.

    python benchmarks/ask/history.py run=ID [--cases 4] [--new-tokens 260] [hydra overrides]

Held-out vignettes are answered, then a follow-up to each is asked alone; joined to the vignette as
one question; and after a transcript of question, answer and EOS. Printed: the score for the four
sections, the share of the vignette's longer words (more than five letters) that come up in the
answer, how many answers ended, their tokens, and those of the prompt.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import hydra

from medexp.cli.composition import extract_options
from medexp.config.registration import register_with_hydra
from medexp.config.resolve import resolve
from medexp.config.schema import RunConfig
from medexp.config.shipped import find_conf_dir
from medexp.data import loading as data_loading
from medexp.data import mixture
from medexp.data.cases import Case
from medexp.data.encoding import encode_prompt, make_vocabulary
from medexp.data.prompts import render_question
from medexp.data.words import split_words
from medexp.evaluation import generation
from medexp.evaluation.measures.sections import score_structure
from medexp.evaluation.measures.words import extract_answer
from medexp.evaluation.record import Answer
from medexp.models.adapter_model import AdapterModel
from medexp.models.session import load_model_under_ceiling, open_session, prepare_finished_run
from medexp.models.weights import Weights
from medexp.system import machine
from medexp.system.console import Console
from medexp.tracking import finished_run

FOLLOW_UPS = (
    "What would change if she were pregnant?",
    "Which tests should be done first?",
    "When should they go to hospital at once?",
    "Could it be something infectious, and what then?",
)


def main() -> None:
    """Ask in each way and print what comes of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=4)
    parser.add_argument("--new-tokens", type=int, default=260)
    options, overrides = parser.parse_known_args()
    run, found = _compose(overrides)
    console = Console()
    tuned = load_model_under_ceiling(run, open_session(run, found, console), console)
    cases = mixture.split_mixture(
        data_loading.load_cases(run.dataset).by_source, run.dataset
    ).held_out[: options.cases]
    further = [FOLLOW_UPS[place % len(FOLLOW_UPS)] for place in range(len(cases))]
    vocabulary = make_vocabulary(tuned.tokenizer, run.prompt)

    def ids(question: str) -> list[int]:
        return encode_prompt(render_question(run.prompt, question), vocabulary)

    def answered(label: str, prompts: list[list[int]]) -> list[Answer]:
        found = _answers(tuned, prompts, options.new_tokens)
        _print(label, cases, prompts, found)
        return found

    first = answered("the vignette alone", [ids(case.question) for case in cases])
    answered("the follow-up alone", [ids(more) for more in further])
    answered(
        "joined",
        [ids(f"{case.question}\n\n{more}") for case, more in zip(cases, further, strict=True)],
    )
    said = [[*vocabulary.encode(answer.text), vocabulary.eos_id] for answer in first]
    transcripts = [
        [*ids(case.question), *reply, *vocabulary.encode(render_question(run.prompt, more))]
        for case, reply, more in zip(cases, said, further, strict=True)
    ]
    answered("a transcript", transcripts)


def _compose(overrides: list[str]) -> tuple[RunConfig, Weights]:
    register_with_hydra()
    with hydra.initialize_config_dir(str(find_conf_dir()), version_base="1.3"):
        cfg = hydra.compose("ask", overrides)
        asked = cfg.run
        extract_options(cfg, "ask")
        subject = finished_run.find_run_from_config(cfg, asked)
        run = resolve(
            finished_run.recompose_from_run(cfg, subject, overrides), machine.read(), Path.cwd(), {}
        )
    return prepare_finished_run(run, subject, Console())


def _answers(tuned: AdapterModel, prompts: list[list[int]], new_tokens: int) -> list[Answer]:
    with tempfile.TemporaryDirectory() as folder:
        kept_in = Path(folder) / "answers"
        return generation.generate_answers(
            tuned,
            prompts,
            new_tokens,
            generation.limit_batch_size(len(prompts)),
            kept_in,
            base=False,
            advance=lambda _: None,
        )


def _print(
    label: str, cases: Sequence[Case], prompts: Sequence[list[int]], found: Sequence[Answer]
) -> None:
    count = len(cases)
    score = sum(score_structure(answer.text).score for answer in found) / count
    taken = (
        sum(
            _share_of_long_words(case.question, answer.text)
            for case, answer in zip(cases, found, strict=True)
        )
        / count
    )
    ended, tokens = (
        sum(answer.ended for answer in found),
        sum(answer.tokens for answer in found) / count,
    )
    asked = sum(map(len, prompts)) / count
    print(
        f"{label:20}  sections {score:.2f}  taken up {taken:.2f}  ended {ended}/{count} "
        f" {tokens:.0f} tokens, {asked:.0f} asked",
        flush=True,
    )


def _share_of_long_words(question: str, answer: str) -> float:
    long = {word for word in split_words(question) if len(word) > 5}
    return len(long & set(split_words(extract_answer(answer)))) / len(long)


if __name__ == "__main__":
    main()
