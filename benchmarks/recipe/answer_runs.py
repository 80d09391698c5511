"""Answers of many runs on one card, and their scores: for recipes whose runs were trained without
answering.

    python benchmarks/recipe/on_card.py ... --set evaluation.answers=0 hardware.engine=transformers
    python benchmarks/recipe/answer_runs.py ask --model FOLDER --trained results/ --work recipes
    # scoring needs no card
    python benchmarks/recipe/answer_runs.py score --out answers/

A run answers through Unsloth, question by question in batches whose every token launches all
kernels anew: 100 s and more for 163 questions. Here the base is loaded once by plain Transformers,
adapters are put on it one after another, and a token of every question is one launch
(graph_decoding.py). All questions of the validation and of the test part are asked, so that a
recipe can be chosen by the one and shown by the other. Greedy, as in a run; rounding differs, so a
text may turn elsewhere. With --draws each is also answered so many times at --temperature.

`ask` writes OUT/answers/NAME.json after every run. `score` reads them, with the scores of
medexp.evaluation, and writes scores.json (every metric), and a record and a report a run and part.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

# Also as a script, from any folder.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import medexp
from benchmarks.recipe.graph_decoding import decode
from benchmarks.recipe.on_card import name_folder
from medexp.data.cases import Case
from medexp.data.encoding import encode_prompt, make_vocabulary
from medexp.data.loading import load_cases
from medexp.data.mixture import split_mixture
from medexp.data.prompts import opens_reasoning, render_question
from medexp.data.split import name_groups
from medexp.evaluation.base_prompt import make_best_prompts
from medexp.evaluation.measures import lexicon
from medexp.evaluation.record import Answer, build_record
from medexp.evaluation.scorecard import build_scorecard
from medexp.reports.run_report import ReportHeader, render_report

PARTS = ("validation", "test")
VALIDATION_CASES = 38
# The first answer of every arm is greedy; further ones are drawn.
GREEDY, DRAWN = "greedy", "drawn"


def main() -> None:
    """Ask, or score what was answered."""
    options = _parse_options()
    options.command(options)


def ask(options: argparse.Namespace) -> None:
    """Answer with the base in every prompt, and with the adapter of every run; write each."""
    folder = options.out / "answers"
    folder.mkdir(parents=True, exist_ok=True)
    runs = json.loads((options.trained / "results.json").read_text("utf-8"))["runs"]
    model = _Model(options)
    base: dict[str, dict[str, list[list[Answer]]]] = {}
    for run in [run for run in runs if run["returncode"] == 0]:
        began = time.monotonic()
        config = medexp.compose(*run["overrides"]).config
        cases = [case for part in read_parts(run["overrides"], options.limit) for case in part]
        vocabulary = make_vocabulary(model.tokenizer, config.prompt)
        prompts = [
            encode_prompt(render_question(config.prompt, case.question), vocabulary)
            for case in cases
        ]
        # The base is asked once in every prompt.
        if config.prompt.name not in base:
            model.take_adapter(None)
            base[config.prompt.name] = model.answer(prompts)
        if "best" not in base:
            best = make_best_prompts(model.tokenizer, [case.question for case in cases])
            base["best"] = model.answer(best.prompts)
        name = name_folder(run["recipe"], run["seed"])
        model.take_adapter(options.work / "outputs" / name / "adapter")
        arms = {
            "base": base[config.prompt.name],
            "base_best": base["best"],
            "tuned": model.answer(prompts),
        }
        told = {key: run[key] for key in ("recipe", "seed", "overrides")}
        told |= {"limit": options.limit, "arms": _as_plain(arms)}
        (folder / f"{name}.json").write_text(json.dumps(told, ensure_ascii=False), "utf-8")
        print(f"{run['recipe']}, seed {run['seed']}: {time.monotonic() - began:.0f} s", flush=True)


def score(options: argparse.Namespace) -> None:
    """Score every run's answers to the questions of both parts; write metrics, records, reports."""
    files = sorted((options.out / "answers").glob("*.json"))
    found = []
    with ProcessPoolExecutor(options.jobs) as pool:
        for scores in pool.map(_score_run, files):
            found.extend(scores)
            (options.out / "scores.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")


def read_parts(overrides: Sequence[str], limit: int | None = None) -> tuple[list[Case], list[Case]]:
    """Return the validation and the test cases of a run, of each the first `limit`."""
    # All of the validation side, which a run leaves alone unless it is asked for.
    config = medexp.compose(*overrides, f"dataset.validation={VALIDATION_CASES}").config
    split = split_mixture(load_cases(config.dataset).by_source, config.dataset)
    return list(split.validation)[:limit], list(split.held_out)[:limit]


def _score_run(file: Path) -> list[dict[str, Any]]:
    """Return the metrics of both parts, by greedy answers and by drawn ones."""
    told, known = json.loads(file.read_text("utf-8")), lexicon.load()
    # Here the model lies elsewhere, and scoring does not need it.
    overrides = [word for word in told["overrides"] if not word.startswith("model")]
    config = medexp.compose(*overrides).config
    parts = read_parts(overrides, told["limit"])
    found, start = [], 0
    for part, cases in zip(PARTS, parts, strict=True):
        places = slice(start, start + len(cases))
        start += len(cases)
        for way in told["arms"]["base"]:
            record = build_record(
                opens_reasoning(config.prompt),
                cases,
                (_first(told, "base", way, places), _first(told, "tuned", way, places)),
                ((), ()),
                cases,
                name_groups(cases, ["group"]),
                config.evaluation.primary,
                base_best=_first(told, "base_best", way, places),
                further={
                    arm: [_read_draw(draw, places) for draw in ways[way][1:]]
                    for arm, ways in told["arms"].items()
                },
            )
            scorecard = build_scorecard(record, known)
            record_file = file.parents[1] / f"{file.stem}-{part}-{way}.json"
            record_file.write_text(json.dumps(record.as_json(), ensure_ascii=False), "utf-8")
            facts = [("cases", f"{part} part, {way} answers"), ("seed", str(told["seed"]))]
            page = render_report(record, scorecard, ReportHeader(told["recipe"], facts))
            record_file.with_suffix(".html").write_text(page, "utf-8")
            found.append(
                {
                    "recipe": told["recipe"],
                    "seed": told["seed"],
                    "part": part,
                    "answers": way,
                    "metrics": scorecard.metrics(),
                }
            )
            print(f"{file.stem}, {part}, {way}", flush=True)
    return found


def _first(told: Mapping[str, Any], arm: str, way: str, places: slice) -> list[Answer]:
    return _read_draw(told["arms"][arm][way][0], places)


def _read_draw(stored: Sequence[Mapping[str, Any]], places: slice) -> list[Answer]:
    """Return those of a draw, counted from 0."""
    return [Answer(**{**answer, "case": case}) for case, answer in enumerate(list(stored)[places])]


def _as_plain(arms: Mapping[str, Mapping[str, Sequence[Sequence[Answer]]]]) -> dict[str, Any]:
    return {
        arm: {
            way: [[asdict(answer) for answer in draw] for draw in draws] for way, draws in w.items()
        }
        for arm, w in arms.items()
    }


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    asking = commands.add_parser("ask", help="answer with every run's adapter")
    asking.set_defaults(command=ask)
    asking.add_argument("--model", type=Path, required=True, help="a Transformers checkpoint")
    asking.add_argument("--trained", type=Path, required=True, help="the --out of on_card.py")
    asking.add_argument("--work", type=Path, default=Path("recipes"), help="its --work")
    asking.add_argument("--max-new-tokens", type=int, default=800, help="(%(default)s)")
    asking.add_argument("--draws", type=int, default=0, help="besides the greedy answer")
    asking.add_argument("--temperature", type=float, default=0.7, help="of draws (%(default)s)")
    asking.add_argument("--limit", type=int, help="only the first so many questions of each part")
    scoring = commands.add_parser("score", help="score what was answered")
    scoring.set_defaults(command=score)
    scoring.add_argument("--jobs", type=int, default=2, help="runs at once (%(default)s)")
    for command in (asking, scoring):
        command.add_argument("--out", type=Path, default=Path("answers"), help="(%(default)s)")
    return parser.parse_args()


class _Model:
    """The base and one adapter at a time, on the card, or on the CPU where there is none."""

    def __init__(self, options: argparse.Namespace):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.options = options
        self.tokenizer = AutoTokenizer.from_pretrained(options.model)
        base = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.bfloat16)
        self._base = base.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        self._tuned: Any = None

    def take_adapter(self, folder: Path | None) -> None:
        """Put the adapter of `folder` in the place of the one before; None takes it off."""
        from peft import PeftModel

        if self._tuned is not None:
            self._base, self._tuned = self._tuned.unload(), None
        if folder is not None:
            self._tuned = PeftModel.from_pretrained(self._base, folder).eval()

    def answer(self, prompts: Sequence[list[int]]) -> dict[str, list[list[Answer]]]:
        """Return the draws of the answers to `prompts`, by how they were taken."""
        options = self.options
        found = {GREEDY: [self._decode(prompts, 0.0)]}
        if options.draws:
            drawn = self._decode([*prompts] * options.draws, options.temperature)
            count = len(prompts)
            found[DRAWN] = [drawn[start : start + count] for start in range(0, len(drawn), count)]
        return found

    def _decode(self, prompts: Sequence[list[int]], temperature: float) -> list[Answer]:
        import torch

        torch.manual_seed(0)
        made_for = self._base.generation_config.eos_token_id
        others = made_for if isinstance(made_for, list) else [made_for]
        ends = [id_ for id_ in (self.tokenizer.eos_token_id, *others) if id_ is not None]
        pad = self.tokenizer.pad_token_id or ends[0]
        limit = self.options.max_new_tokens
        rows = decode(self._base, prompts, limit, ends, pad, temperature=temperature)
        answers = []
        for case, tokens in enumerate(rows):
            has_ended = tokens[-1] in ends
            kept = tokens[:-1] if has_ended else tokens
            text = self.tokenizer.decode(kept, skip_special_tokens=True).strip()
            answers.append(Answer(case, text, len(kept), has_ended))
        return answers


if __name__ == "__main__":
    main()
