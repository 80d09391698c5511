"""Recipes beside each other on one CUDA card: what improves the form, and what that does to the
medicine.

    python benchmarks/recipe/on_card.py --model /tmp/q/hf --o1 medical_o1_sample.json --out results/

Every recipe is a run of medexp.train for every seed, one after another, as processes share a card
badly (README.md); all are measured on the held-out conditions of the shipped cases, and share one
store, so that the base is asked once. With --jobs above 1 give each its part of the card, as in
--set hardware.vram_ceiling_gib=24, which leaves a 1.5B nothing to stream. Layers are not compiled:
runs that compile at once stood still. Writes results.json (every metric of every run), results.md,
and the report of each run, after every run that ends. What was not begun before --stop-after is
left out, and said.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Also as a script, from any folder.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.answers.acceptance import Case, read_cases

ROOT = Path(__file__).resolve().parents[2]
COMMON = (
    "model=local",
    "model.quantisation=none",
    "prompt=clinical_sections",
    "hardware.compile_layers=false",
    "training.max_seq_tokens=1024",
    "evaluation.batch_size=96",
    "evaluation.max_new_tokens=800",
    "tracking.system_metrics=false",
    "tracking.root=mlruns",
)
SHIPPED = ("dataset=clinical_cases",)
# The parts of a mixture, by their weights; both are measured on the shipped cases' held-out part.
MIXTURE = ("dataset=medical_o1_structured",)
NO_REASONING = ("prompt=direct", "dataset.columns.reasoning=null", "dataset.overlong=drop")
RECIPES: dict[str, Sequence[str]] = {
    "shipped cases": SHIPPED,
    "shipped, learning rate / 4": (*SHIPPED, "training.learning_rate=5e-5"),
    "shipped, rank 4": (*SHIPPED, "lora.r=4", "lora.alpha=4"),
    "shipped, 20 steps": (*SHIPPED, "training.max_steps=20"),
    "shipped, 180 steps": (*SHIPPED, "training.max_steps=180"),
    "shipped, best step by validation": (
        *SHIPPED,
        "training.max_steps=180",
        "training.keep_best=true",
        "training.early_stopping_patience=3",
        "evaluation.every_steps=15",
        "training.save_steps=15",
    ),
    "shipped, loss on the answer": (*SHIPPED, "training.loss_on=answer"),
    "shipped, without reasoning": (*SHIPPED, *NO_REASONING),
    "shipped, learning rate / 4, 180 steps": (
        *SHIPPED,
        "training.learning_rate=5e-5",
        "training.max_steps=180",
    ),
    # The paths of their cases are filled in.
    "shipped, items the base finds likely": (),
    "shipped, no denial without a reason": (),
    "own answers of the base": (),
    "own answers of the base, hinted": (),
    "medical-o1 alone": (
        *MIXTURE,
        "dataset.mixture.0.weight=0.99",
        "dataset.mixture.1.weight=0.01",
    ),
    "nine medical-o1 to one shipped": MIXTURE,
    "one to one": (*MIXTURE, "dataset.mixture.0.weight=0.5", "dataset.mixture.1.weight=0.5"),
}
KNOWN = "shipped, items the base finds likely"
EXPLAINED = "shipped, no denial without a reason"
# Made by own_words.py, in the folder of --words; they have no reasoning.
OWN_WORDS = {"own answers of the base": "own", "own answers of the base, hinted": "hinted"}
DENIES = re.compile(r"(?:no|not|never|nor|neither|do not|don't|avoid|withhold|without)\b", re.I)
GIVES_REASON = re.compile(
    r"\b(?:because|since|as|which|for|so|risk|lest|can|may|would|until|unless|if)\b|:", re.I
)
MEASURED = ("result/", "eval/", "test/", "data/cases")


@dataclass(frozen=True)
class Trial:
    """One run: its recipe, seed, overrides, how it ended, and its metrics."""

    recipe: str
    seed: int
    overrides: Sequence[str]
    returncode: int
    took_s: float
    metrics: dict[str, float]


def main() -> int:
    """Run the recipes and write the tables; 1 where a run failed."""
    options = _parse_options()
    options.out.mkdir(parents=True, exist_ok=True)
    work = options.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    recipes = {name: RECIPES[name] for name in options.only or RECIPES}
    if KNOWN in recipes:
        recipes[KNOWN] = _find_known_cases(options, work)
    if EXPLAINED in recipes:
        recipes[EXPLAINED] = _drop_bare_denials(work)
    for name in recipes.keys() & OWN_WORDS.keys():
        if options.words is None:
            raise SystemExit(f"{name} needs --words FOLDER, made by own_words.py")
        recipes[name] = [*_train_on(options.words / f"{OWN_WORDS[name]}.jsonl"), *NO_REASONING]
    tasks = [(name, seed) for seed in options.seeds for name in recipes]
    began = time.monotonic()
    # The first run asks the base; the others find its answers in the store.
    ahead = 0 if options.base_is_known else 1
    trials = [_train(options, work, *task, recipes[task[0]]) for task in tasks[:ahead]]
    with ThreadPoolExecutor(options.jobs) as pool:
        waiting = [
            pool.submit(_train_in_time, options, work, name, seed, recipes[name], began)
            for name, seed in tasks[ahead:]
        ]
        for task in as_completed(waiting):
            if (trial := task.result()) is not None:
                trials.append(trial)
                # What is there when the machine's time is up is not lost.
                _write(options, trials, len(tasks))
    _write(options, trials, len(tasks))
    return int(any(trial.returncode for trial in trials))


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="a Transformers checkpoint")
    parser.add_argument("--o1", type=Path, help="records of medical-o1, for the mixtures")
    parser.add_argument("--words", type=Path, help="what own_words.py wrote")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("recipes"), help="where runs lie")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--jobs", type=int, default=1, help="runs at once (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=RECIPES, metavar="RECIPE")
    parser.add_argument("--hardware", default="h200_141gb", help="(%(default)s)")
    parser.add_argument("--held-out", type=int, default=64, help="(%(default)s)")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="for every run")
    parser.add_argument(
        "--base-is-known", action="store_true", help="an earlier call asked it: all at once"
    )
    parser.add_argument("--stop-after", type=float, default=float("inf"), metavar="S")
    return parser.parse_args()


def _words(
    options: argparse.Namespace, name: str, seed: int, overrides: Sequence[str]
) -> list[str]:
    words = [
        f"hardware={options.hardware}",
        *COMMON,
        f"model.path={options.model.absolute()}",
        *overrides,
    ]
    if MIXTURE[0] in words:
        if options.o1 is None:
            raise SystemExit(f"{name} needs --o1 FILE")
        words.append(f"dataset.mixture.0.path={options.o1.absolute()}")
    return [
        *words,
        f"dataset.held_out={options.held_out}",
        f"evaluation.answers={options.held_out}",
        f"training.seed={seed}",
        f"tracking.tags={{recipe: '{name}'}}",
        f"hydra.run.dir=outputs/{name_folder(name, seed)}",
        *options.set,
    ]


def name_folder(name: str, seed: int) -> str:
    """Return the recipe's name with no character that a path or Hydra gives a meaning to."""
    return f"{'_'.join(re.findall(r'[a-z0-9]+', name.lower()))}-{seed}"


def _train_in_time(
    options: argparse.Namespace,
    work: Path,
    name: str,
    seed: int,
    overrides: Sequence[str],
    began: float,
) -> Trial | None:
    """Return the run, None where it was not begun in time."""
    if time.monotonic() - began > options.stop_after:
        return None
    return _train(options, work, name, seed, overrides)


def _train(
    options: argparse.Namespace, work: Path, name: str, seed: int, overrides: Sequence[str]
) -> Trial:
    words, began = _words(options, name, seed, overrides), time.monotonic()
    folder = work / "outputs" / name_folder(name, seed)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    }
    done = subprocess.run(
        [sys.executable, "-m", "medexp.train", *words],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    log = options.out / f"{folder.name}.log"
    log.write_text(done.stdout + done.stderr, encoding="utf-8")
    took_s = time.monotonic() - began
    print(f"{name}, seed {seed}: exit code {done.returncode}, {took_s:.0f} s", flush=True)
    report = folder / "report.html"
    if report.is_file():
        (options.out / f"{folder.name}.html").write_bytes(report.read_bytes())
    return Trial(name, seed, words, done.returncode, took_s, _metrics_of(work, name, seed))


def _metrics_of(work: Path, name: str, seed: int) -> dict[str, float]:
    """Return the last value of every metric of that run, from MLflow."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{work / 'mlruns' / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    for run in client.search_runs(experiments, f"params.`training.seed` = '{seed}'"):
        if run.data.tags.get("recipe") == name and run.info.status == "FINISHED":
            return {
                key: value for key, value in run.data.metrics.items() if key.startswith(MEASURED)
            }
    return {}


def _find_known_cases(options: argparse.Namespace, work: Path) -> list[str]:
    """Write the half of the shipped cases whose answers the base finds likeliest, by nats a token
    after the question, and return the overrides that train on them.

    The split takes the held-out conditions from the whole set, so none of them is trained on.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.bfloat16)
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    cases, losses = read_cases(), []
    for case in cases:
        question = tokenizer(case["Question"] + "\n\n", return_tensors="pt").input_ids
        answer = tokenizer(case["Response"], return_tensors="pt").input_ids
        tokens = torch.cat([question, answer], 1).to(model.device)
        with torch.inference_mode():
            labels = tokens.clone()
            labels[:, : question.shape[1]] = -100
            losses.append(float(model(tokens, labels=labels).loss))
    middle = statistics.median(losses)
    known = [case for case, loss in zip(cases, losses, strict=True) if loss <= middle]
    del model
    torch.cuda.empty_cache()
    return _train_on(write_cases(work / "known.jsonl", known))


def _drop_bare_denials(work: Path) -> list[str]:
    """Write the shipped cases without the parts of their advice that only deny ("no steroid, no
    antibiotic") and give no reason, and return the overrides that train on them.
    """
    cases = [{**case, "Response": drop_bare_denials(case["Response"])} for case in read_cases()]
    return _train_on(write_cases(work / "explained.jsonl", cases))


def drop_bare_denials(answer: str) -> str:
    """Return `answer` without the parts of its items of advice that begin with a denial and hold
    no word of reason.
    """
    kept: list[str] = []
    advises = False
    for line in answer.splitlines():
        advises = line == "## Precautions" if line.startswith("#") else advises
        parts = line.removeprefix("- ").split("; ")
        good = [part for part in parts if not DENIES.match(part) or GIVES_REASON.search(part)]
        if not advises or good == parts:
            kept.append(line)
        elif good:
            text = "; ".join(good)
            kept.append(f"- {text[0].upper()}{text[1:]}")
    return "\n".join(kept)


def write_cases(file: Path, cases: Sequence[Case]) -> Path:
    """Write `cases` a line each; return `file`."""
    lines = [json.dumps(case, ensure_ascii=False) + "\n" for case in cases]
    file.write_text("".join(lines), encoding="utf-8")
    return file


def _train_on(file: Path) -> list[str]:
    """Return the overrides that train on the cases of `file` and measure on the shipped ones."""
    # A source of its own: as clinical_cases, these would be all there are to hold out from.
    entry = f"{{use: local, weight: 1, path: {file.absolute()}, group_by: group}}"
    return [
        "dataset=mixture",
        f"dataset.mixture=[{entry}]",
        "dataset.held_out_from=clinical_cases",
    ]


def _write(options: argparse.Namespace, trials: Sequence[Trial], num_planned: int) -> None:
    results = {
        "date": time.strftime("%Y-%m-%d"),
        "model": options.model.name,
        "not_begun": num_planned - len(trials),
        "runs": [vars(trial) for trial in trials],
    }
    (options.out / "results.json").write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    names = sorted({key for trial in trials for key in trial.metrics if key.endswith("/after")})
    rows = ["| recipe | seeds | " + " | ".join(_title(name) for name in names) + " |"]
    rows.append("|---" * (len(names) + 2) + "|")
    for recipe in dict.fromkeys(trial.recipe for trial in trials):
        of_recipe = [trial for trial in trials if trial.recipe == recipe and trial.metrics]
        cells = [_cell(of_recipe, name) for name in names]
        rows.append(f"| {recipe} | {len(of_recipe)} | " + " | ".join(cells) + " |")
    (options.out / "results.md").write_text("\n".join(rows) + "\n", "utf-8")
    print("\n".join(rows))


def _title(name: str) -> str:
    return name.removeprefix("eval/").removesuffix("/after")


def _cell(trials: Sequence[Trial], name: str) -> str:
    """Return before, and after with its least and largest value over the seeds."""
    values = [trial.metrics[name] for trial in trials if name in trial.metrics]
    if not values:
        return ""
    before: Any = next(
        trial.metrics.get(name.replace("/after", "/before")) for trial in trials if trial.metrics
    )
    shown = f"{before:.3g} -> " if before is not None else ""
    return f"{shown}{statistics.fmean(values):.3g} ({min(values):.3g} to {max(values):.3g})"


if __name__ == "__main__":
    sys.exit(main())
