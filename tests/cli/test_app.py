"""The command line as a user has it: bad input ends in one sentence and exit code 2, before
anything heavy is loaded.
"""

import datetime
import http.server
import json
import threading
from pathlib import Path

import pytest
from helpers.commands import command, quickest_start

from medexp.config.shipped import find_conf_dir

TRAIN = ["-m", "medexp.train"]
NOBODY_THERE = "http://127.0.0.1:9"  # the discard port: a connection is refused at once
HEAVY = ("torch", "transformers", "mlflow", "trl", "peft", "bitsandbytes", "unsloth")


def record(**changes: object) -> dict[str, object]:
    return {"Question": "What is it?", "Complex_CoT": "Think.", "Response": "This."} | changes


def written(folder: Path, name: str, text: str) -> str:
    file = folder / name
    file.write_text(text)
    return f"dataset.path={file}"


def lines(*records: dict[str, object]) -> str:
    return "\n".join(json.dumps(each) for each in records) + "\n"


REFUSED = {
    "unknown group": (["hardwear=cpu"], "hardwear does not exist", "did you mean hardware?"),
    "unknown option": (
        ["hardware=rtx4050"],
        "hardware=rtx4050 does not exist",
        "did you mean rtx4050_6gb?",
    ),
    "unknown key": (["lora.rnk=8"], "lora.rnk does not exist", "lora has r, alpha"),
    "key of another library": (
        ["per_device_train_batch_size=4"],
        "per_device_train_batch_size",
        "training.micro_batch=4",
    ),
    "option of another library": (
        ["--learning_rate", "1e-4"],
        "--learning_rate is no option",
        "training.learning_rate=1e-4",
    ),
    "cut by the shell": (
        ["dataset.path=my", "cases.csv"],
        "'cases.csv' is no key=value",
        "'dataset.path=my cases.csv'",
    ),
    "name that the grammar dislikes": (
        ["dataset=local", "dataset.path=~/病例, (1)=ü.csv"],
        "/病例, (1)=ü.csv does not exist",
    ),
    "two of Hydra's modes": (["-m", "--cfg", "job"], "-m, --cfg", "do not go together"),
    "reference to nothing": (["lora.r=${nope}"], "lora.r: Interpolation key 'nope' not found"),
    "escape sequence": (
        ["model.path=\x1b[31m\x1b]0;x\x07\u202e"],
        "\\u001b[31m\\u001b]0;x\\u0007\\u202e holds no config.json",
    ),
    "unknown key, mistyped": (
        ["training.max_step=8"],
        "training.max_step",
        "did you mean training.max_steps?",
    ),
    "unknown key, forced in": (["+lora.rnk=8"], "lora.rnk does not exist", "alpha"),
    "known key, forced in": (
        ["+lora.r=8"],
        "lora.r is there already",
        "write lora.r=8, without the +",
    ),
    "wrong type": (["lora.r=many"], "lora.r", "allowed is int"),
    "no such word": (
        ["dataset.overlong=cut"],
        "dataset.overlong=cut is not allowed",
        "drop, trim_reasoning, error",
    ),
    "unreadable override": (["lora.r=[1"], "cannot be read", "'lora.r=[A,B]'"),
    "rank 0": (["lora.r=0"], "lora.r=0", "at least 1"),
    "negative learning rate": (
        ["training.learning_rate=-1"],
        "training.learning_rate=-1.0",
        "above 0",
    ),
    "no length": (
        ["training.max_seq_tokens=0"],
        "training.max_seq_tokens=0",
        "conf/training/cpu.yaml",
    ),
    "card without a card": (
        ["hardware=rtx4050_6gb"],
        "hardware=rtx4050_6gb needs a CUDA card",
        "hardware=cpu",
    ),
    "missing file": (
        ["dataset=local", "dataset.path=none.json"],
        "none.json does not exist",
        "JSONL",
    ),
    "no file given": (["dataset=local"], "dataset=local has no file", "dataset.path=FILE"),
    "missing weights": (
        ["model.path=nowhere"],
        "nowhere holds no config.json",
        "Transformers checkpoint",
    ),
    "unwritable store": (
        ["tracking.root=/dev/null/x"],
        "/dev/null/x/unfinished cannot be written",
        "tracking.root",
    ),
    "output that no folder can be": (
        [f"hydra.run.dir=/tmp/{'x' * 300}"],
        "cannot be used (File name too long)",
        "hydra.run.dir",
    ),
    "unwritable output": (
        ["hydra.run.dir=/dev/null/x"],
        "/dev/null/x cannot be used",
        "hydra.run.dir",
    ),
    "fewer cases than the split needs": (
        ["dataset.held_out=200"],
        "dataset.held_out=200",
        "set dataset.held_out=163",
    ),
    "answers that are not held out": (
        ["evaluation.answers=20"],
        "evaluation.answers=20",
        "dataset.held_out=16",
    ),
    "adapter that is none": (
        ["lora.start_from=nowhere"],
        "nowhere holds no adapter_config.json",
        "PEFT adapter",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_one_sentence_and_exit_code_2(name: str, tmp_path: Path) -> None:
    words, *said = REFUSED[name]
    status, output = command(*TRAIN, *words, cwd=tmp_path, CUDA_VISIBLE_DEVICES="")
    assert status == 2, output
    assert output.startswith("medexp: ")
    assert output.count("\n") == 1, output
    for part in said:
        assert part in output


BROKEN_FILES = {
    "no dataset": ("cases.json", json.dumps({"Question": "one"}), "must hold one array of objects"),
    "no JSON": ("cases.json", "[{]", "line 1"),
    "missing column": (
        "cases.jsonl",
        lines({"Question": "q", "Response": "a"}),
        "it has Question, Response",
    ),
    "empty field": (
        "cases.jsonl",
        lines(record(), record(Response=" ")),
        "row 2 of cases.jsonl: 'Response' is empty",
    ),
    "field that is no text": (
        "cases.jsonl",
        lines(record(), record(), record(Question=7)),
        "row 3 of cases.jsonl: 'Question' is int",
    ),
    "broken line": ("cases.jsonl", lines(record()) + "{nope\n", "line 2"),
    "unknown ending": ("cases.xlsx", "", ".json, .jsonl, .csv, .tsv, .parquet"),
}


@pytest.mark.parametrize("name", BROKEN_FILES)
def test_a_broken_file_is_refused_by_its_place(name: str, tmp_path: Path) -> None:
    file, text, said = BROKEN_FILES[name]
    status, output = command(*TRAIN, "dataset=local", written(tmp_path, file, text), cwd=tmp_path)
    assert status == 2, output
    first, *more = output.splitlines()
    assert said in first
    # How many rows there are of the kind, and the switch that leaves them out.
    assert all("dataset.faulty=drop" in line for line in more)
    assert len(more) <= 1


def test_every_problem_is_said_at_once(tmp_path: Path) -> None:
    status, output = command(
        *TRAIN, "lora.r=0", "training.learning_rate=0", "evaluation.answers=-1", cwd=tmp_path
    )
    assert status == 2
    assert len(output.splitlines()) == 3


def test_every_case_over_long_is_refused(tmp_path: Path) -> None:
    status, output = command(
        *TRAIN, "training.max_seq_tokens=16", "tracking.root=runs", cwd=tmp_path
    )
    assert status == 2
    assert (
        "every one of the 329 training cases is longer than training.max_seq_tokens=16 tokens"
        in output
    )


def test_a_refusal_loads_nothing_heavy_and_takes_under_a_second(tmp_path: Path) -> None:
    start = quickest_start(*TRAIN, "lora.r=0", cwd=tmp_path)
    assert start.status == 2
    assert "hydra" in start.modules
    assert not start.modules & set(HEAVY)
    assert start.took_s < 1


def test_help_lists_the_groups(tmp_path: Path) -> None:
    status, output = command(*TRAIN, "--help", cwd=tmp_path)
    assert status == 0
    assert "hardware: auto, cpu, h200_141gb" in output


def test_presets_beside_the_command_are_found(tmp_path: Path) -> None:
    (tmp_path / "conf" / "lora").mkdir(parents=True)
    (tmp_path / "conf" / "lora" / "mine.yaml").write_text("defaults: [all_linear, _self_]\nr: 5\n")
    status, output = command(*TRAIN, "lora=mine", "--cfg", "job", cwd=tmp_path)
    assert status == 0, output
    assert "  r: 5\n" in output


class Gate(http.server.BaseHTTPRequestHandler):
    """Answers as the Hub does for a gated repository."""

    def do_GET(self) -> None:
        body = b'{"error": "Access to model is restricted."}'
        self.send_response(403)
        self.send_header("X-Error-Code", "GatedRepo")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


HUB = ["model=llama_3_2_3b", "hardware.engine=transformers"]


def test_a_gated_model_says_what_to_set(tmp_path: Path) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Gate) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"http://127.0.0.1:{server.server_port}"
        status, output = command(
            *TRAIN, *HUB, cwd=tmp_path, HF_ENDPOINT=place, HF_HOME=str(tmp_path)
        )
        server.shutdown()
    assert (status, output.count("\n")) == (2, 1), output
    assert "gated" in output
    assert "HF_TOKEN" in output


@pytest.mark.parametrize(
    ("words", "said"),
    [(HUB, "model.path=FOLDER"), (["dataset=medical_o1"], "dataset.path=FILE")],
    ids=["model", "dataset"],
)
def test_an_unreachable_hub_says_what_to_set(words: list[str], said: str, tmp_path: Path) -> None:
    status, output = command(
        *TRAIN, *words, cwd=tmp_path, HF_ENDPOINT=NOBODY_THERE, HF_HOME=str(tmp_path)
    )
    assert (status, output.count("\n")) == (2, 1), output
    assert said in output


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "/another/base", "r": 16})
    )
    status, output = command(*TRAIN, f"lora.start_from={adapter}", cwd=tmp_path)
    assert (status, output.count("\n")) == (2, 1), output
    assert "was trained on /another/base" in output


@pytest.mark.slow
def test_the_embedded_model_trains_on_a_users_own_cases_from_any_folder(tmp_path: Path) -> None:
    cases = [
        record(
            Question=f"Patient {number} has a cough. What now?", Response=f"Rest for {number} days."
        )
        for number in range(12)
    ]
    own = written(tmp_path, "own.json", json.dumps(cases))
    words = [
        "debug=fast",
        "dataset=local",
        own,
        "dataset.max_cases=null",
        "tracking.system_metrics=false",
    ]
    status, output = command(*TRAIN, *words, cwd=tmp_path)
    assert status == 0, output
    assert "12 records, 10 to train on, 2 held out" in output
    assert "before (base)" in output
    assert "Not for clinical use" in output
    assert list(tmp_path.glob("outputs/*/*/adapter/adapter_model.safetensors"))
    assert (tmp_path / "mlruns" / "mlflow.db").is_file()


def test_a_folder_named_by_the_time_belongs_to_one_command_and_a_named_one_is_taken_as_it_is(
    tmp_path: Path,
) -> None:
    named, by_time = tmp_path / "named", tmp_path / "outputs" / f"{datetime.date.today():%Y}"
    for folder in (named, by_time):  # as another command leaves it
        folder.mkdir(parents=True)
    for words in ("hydra.run.dir=outputs/${now:%Y}", "hydra.run.dir=named"):
        status, output = command("-m", "medexp.audit", "dataset.held_out=8", words, cwd=tmp_path)
        assert status == 0, output
    assert (tmp_path / "outputs" / f"{by_time.name}-2" / "audit.json").is_file()
    assert (named / "audit.json").is_file()
    assert not list(by_time.iterdir())
    assert not (tmp_path / "named-2").exists()


def test_every_folder_that_is_named_by_the_time_is_claimed() -> None:
    for file in find_conf_dir().glob("*.yaml"):
        text = file.read_text()
        assert ("dir: outputs/${now:" in text) == (
            "_target_: medexp.cli.output_dir.UniqueOutputDir" in text
        ), file
