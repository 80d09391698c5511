"""Answers of many runs on one card, scored: for recipes whose runs were trained without answering.

    python benchmarks/recipe/on_card.py ... --set evaluation.answers=0 hardware.engine=transformers
    python benchmarks/recipe/answer_runs.py --model FOLDER --trained results/ --work recipes

A run answers through Unsloth, question by question in batches whose every token launches all
kernels anew: 100 s and more for 163 questions. Here the base is loaded once by plain Transformers,
adapters are put on it one after another, and questions are answered by its continuous batching
(`generate_batch`: paged attention, CUDA graphs, an answer that has ended makes room for the next).
Greedy, as in a run; rounding differs, so a text may turn elsewhere. The scores are those of
medexp.evaluation. Writes, after every run, answers.json (every metric) and a record a run, which
`scorecard.build_scorecard` reads.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Also as a script, from any folder.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import medexp
from benchmarks.recipe.on_card import name_folder
from medexp.data.encoding import encode_prompt, make_vocabulary
from medexp.data.loading import load_cases
from medexp.data.mixture import split_mixture
from medexp.data.prompts import opens_reasoning, render_question
from medexp.data.split import name_groups
from medexp.evaluation.base_prompt import make_best_prompts
from medexp.evaluation.measures import lexicon
from medexp.evaluation.record import Answer, build_record
from medexp.evaluation.scorecard import build_scorecard


def main() -> None:
    """Answer with the base, and with the adapter of every run; score and write each."""
    options = _parse_options()
    options.out.mkdir(parents=True, exist_ok=True)
    runs = json.loads((options.trained / "results.json").read_text("utf-8"))["runs"]
    model = _Model(options.model, options.max_new_tokens)
    known = lexicon.load()
    base: dict[str, list[Answer]] = {}
    found: list[dict[str, Any]] = []
    for run in [run for run in runs if run["returncode"] == 0]:
        config = medexp.compose(*run["overrides"]).config
        cases = load_cases(config.dataset)
        test = split_mixture(cases.by_source, config.dataset).held_out[: options.limit]
        vocabulary = make_vocabulary(model.tokenizer, config.prompt)
        prompts = [
            encode_prompt(render_question(config.prompt, case.question), vocabulary)
            for case in test
        ]
        best = make_best_prompts(model.tokenizer, [case.question for case in test])
        model.take_adapter(None)
        # The base is asked once in every prompt.
        for way, asked in ((config.prompt.name, prompts), ("best", best.prompts)):
            base[way] = base.get(way) or model.answer(asked)
        folder = options.work / "outputs" / name_folder(run["recipe"], run["seed"])
        model.take_adapter(folder / "adapter")
        began = time.monotonic()
        tuned = model.answer(prompts)
        record = build_record(
            opens_reasoning(config.prompt),
            test,
            (base[config.prompt.name], tuned),
            ((), ()),
            test,
            name_groups(test, ["group"]),
            base_best=base["best"],
        )
        metrics = build_scorecard(record, known).metrics()
        print(f"{run['recipe']}, seed {run['seed']}: {time.monotonic() - began:.0f} s", flush=True)
        file = options.out / f"{folder.name}.json"
        file.write_text(json.dumps(record.as_json(), ensure_ascii=False), encoding="utf-8")
        found.append({"recipe": run["recipe"], "seed": run["seed"], "metrics": metrics})
        (options.out / "answers.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="a Transformers checkpoint")
    parser.add_argument("--trained", type=Path, required=True, help="the --out of on_card.py")
    parser.add_argument("--work", type=Path, default=Path("recipes"), help="its --work")
    parser.add_argument("--out", type=Path, default=Path("answers"))
    parser.add_argument("--max-new-tokens", type=int, default=800, help="(%(default)s)")
    parser.add_argument("--limit", type=int, help="only the first so many questions")
    return parser.parse_args()


class _Model:
    """The base and one adapter at a time, on the card, or on the CPU where there is none."""

    def __init__(self, folder: Path, max_new_tokens: int):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.folder, self.max_new_tokens = folder, max_new_tokens
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
        self._base = base.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        self._tuned: Any = None

    def take_adapter(self, folder: Path | None) -> None:
        """Put the adapter of `folder` in the place of the one before; None takes it off."""
        from peft import PeftModel

        if self._tuned is not None:
            self._base, self._tuned = self._tuned.unload(), None
        if folder is not None:
            self._tuned = PeftModel.from_pretrained(self._base, folder).eval()

    def answer(self, prompts: Sequence[list[int]]) -> list[Answer]:
        """Return greedy answers to `prompts`, in order."""
        from transformers import GenerationConfig

        end = self.tokenizer.eos_token_id
        options = GenerationConfig(
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            eos_token_id=end,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        outputs = self._base.generate_batch(list(prompts), generation_config=options)
        answers = []
        # Requests are named req_0, req_1, ... in the order of their prompts.
        for case in range(len(prompts)):
            output = outputs[f"req_{case}"]
            if output.error:
                raise RuntimeError(f"question {case} was not answered: {output.error}")
            tokens = output.generated_tokens
            has_ended = end in tokens
            tokens = tokens[: tokens.index(end)] if has_ended else tokens
            text = self.tokenizer.decode(tokens, skip_special_tokens=True).strip()
            answers.append(Answer(case, text, len(tokens), has_ended))
        return answers


if __name__ == "__main__":
    main()
