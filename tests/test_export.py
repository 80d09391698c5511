"""A finished run exported as a user does it: every kind of export, what is refused, what is
uploaded, what a stop leaves.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import hub_stub
from helpers.chats import OPENAI, SYSTEM, two_turns, write_chat
from helpers.commands import TinyRuns, change_one_weight, command, invoke
from helpers.hub_stub import Hub
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from medexp.cli.composition import extract_options
from medexp.config.command_options import ExportOptions
from medexp.config.resolve import resolve
from medexp.config.schema import RunConfig
from medexp.data.cases import Turn
from medexp.data.prompts import bind_prompt, render_question
from medexp.errors import ConfigError, MachineError, ModelError, OutputError, RunError
from medexp.export import export
from medexp.system import machine
from medexp.system.console import Console
from medexp.tracking.finished_run import recompose_from_options
from medexp.tracking.registry import ModelVersion
from medexp.training.context import TrainResult
from medexp.training.run import train

ROOT = Path(__file__).parents[1]


class Finished:
    """A finished run of the tiny model, and exports of it in this process."""

    def __init__(self, tiny_runs: TinyRuns, compose: Callable[..., Any], *more: str):
        self.tiny_runs, self._compose = tiny_runs, compose
        words = tiny_runs.overrides(
            "evaluation.answers=1", "training.learning_rate=1e-2", "lora=attention_only", *more
        )
        yaml = OmegaConf.to_yaml(compose(*words), resolve=True)
        self.result: TrainResult = train(
            tiny_runs.run(*words), invoke(tiny_runs.root / "train", words, yaml), Console()
        )

    def export(
        self,
        run: str | Path | None,
        out: Path,
        *more: str,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> Path | ModelVersion:
        """`python -m medexp.export run=... more...`, to `out`; `meanwhile` is called once the run
        is found.
        """
        words = [
            f"run={run or 'null'}",
            f"tracking.root={self.tiny_runs.root / 'mlruns'}",
            f"export.folder={out}",
            *more,
        ]
        cfg = self._compose(*words, root="export")
        options = extract_options(cfg, "export")
        assert isinstance(options, ExportOptions)
        cfg, subject = recompose_from_options(cfg, options, words)
        meanwhile()
        made = resolve(cfg, machine.read(), Path.cwd(), {}, needs_card=False)
        invocation = invoke(self.tiny_runs.root / "export", words, OmegaConf.to_yaml(cfg))
        return export(made, options, subject, invocation, Console())

    def newer(self) -> str:
        """The id of a run that finishes now."""
        client = self.tiny_runs.client()
        experiment = client.get_run(self.result.run_id).info.experiment_id
        run_id = client.create_run(
            experiment, tags={"mlflow.source.name": "medexp.train"}
        ).info.run_id
        client.set_terminated(run_id)
        return str(run_id)

    @property
    def run(self) -> RunConfig:
        """The run's config."""
        return self.tiny_runs.run("lora=attention_only")


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_runs_in: Callable[..., TinyRuns],
    compose: Callable[..., Any],
    whole_vocabulary_model: Path,
) -> Finished:
    root = tmp_path_factory.mktemp("finished")
    return Finished(tiny_runs_in(root, whole_vocabulary_model), compose)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture(scope="module")
def of_chats(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_runs_in: Callable[..., TinyRuns],
    compose: Callable[..., Any],
    whole_vocabulary_model: Path,
) -> Finished:
    """A finished run on conversations, with prompt=chat."""
    root = tmp_path_factory.mktemp("of_chats")
    file = write_chat(root / "chats.jsonl", OPENAI, reasons=True)
    local = ["dataset=local", f"dataset.path={file}", "dataset.held_out=2", "dataset.validation=0"]
    more = [*local, "dataset.max_cases=null", "prompt=chat"]
    return Finished(tiny_runs_in(root, whole_vocabulary_model), compose, *more)


def _tokens(network: Any, ids: list[int]) -> list[int]:
    asked = torch.tensor([ids])
    with torch.no_grad():
        made = network.eval().generate(
            asked,
            attention_mask=torch.ones_like(asked),
            max_new_tokens=24,
            do_sample=False,
            pad_token_id=2,
        )
    answer: list[int] = made[0, len(ids) :].tolist()
    return answer


def _transformers_command(out: Path, tmp_path: Path) -> list[str]:
    """What `sh serve.sh transformers` runs, and that it says under which name the model is asked
    for.
    """
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "transformers").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "bin" / "transformers").chmod(0o755)
    path = os.pathsep.join([str(tmp_path / "bin"), os.environ["PATH"]])
    ran = subprocess.run(
        ["sh", out / "serve.sh", "transformers"],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": path},
    )
    first, *words = ran.stdout.splitlines()
    assert f'"model": "{out}"' in first
    return words


def test_merged_weights_answer_as_base_and_adapter_do(
    finished: Finished, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert finished.export(finished.result.run_id, out, "to=merged") == out
    assert "exec vllm serve" in capsys.readouterr().out
    assert _transformers_command(out, tmp_path) == [
        "serve",
        str(out),
        "--dtype",
        "bfloat16",
        "--host",
        "127.0.0.1",
        "--port",
        "8000",
    ]
    tokenizer = AutoTokenizer.from_pretrained(out)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is it?"}], return_dict=False
    )
    assert ids == [
        1,
        *tokenizer(render_question(finished.run.prompt, "What is it?"), add_special_tokens=False)[
            "input_ids"
        ],
    ]
    merged = AutoModelForCausalLM.from_pretrained(out, dtype=torch.bfloat16)
    # as the tiny base is stored
    base = AutoModelForCausalLM.from_pretrained(finished.tiny_runs.model, dtype=torch.float32)
    apart = PeftModel.from_pretrained(base, finished.result.adapter)
    by_peft = apart.merge_and_unload().to(torch.bfloat16)
    assert all(
        torch.equal(value, by_peft.state_dict()[name])
        for name, value in merged.state_dict().items()
    )
    assert _tokens(merged, ids) == _tokens(by_peft, ids)


def test_an_export_of_a_chat_run_renders_conversations_as_they_were_trained(
    of_chats: Finished, out: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    of_chats.export("last", out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    prompt = bind_prompt(
        of_chats.tiny_runs.run("prompt=chat").prompt,
        AutoTokenizer.from_pretrained(of_chats.tiny_runs.model),
    )
    turns = [Turn(role, words) for role, words in two_turns(3, reasons=False)[:-1]]
    rendered = tokenizer.apply_chat_template(
        [{"role": turn.role, "content": turn.text} for turn in turns],
        tokenize=False,
        add_generation_prompt=True,
    )
    assert rendered == render_question(prompt, "", turns)
    assert SYSTEM in rendered
    card = (out / "README.md").read_text()
    assert "It was trained on conversations" in card
    # An export can be exported again, and has the same template then.
    of_chats.export(out, tmp_path / "again")
    again = (tmp_path / "again" / "chat_template.jinja").read_text()
    assert again == (out / "chat_template.jinja").read_text()
    of_chats.export("last", tmp_path / "ollama", "to=ollama", "export.quantisation=f16")
    modelfile = (tmp_path / "ollama" / "Modelfile").read_text()
    assert "{{ if .System }}" in modelfile
    assert 'PARAMETER stop "<|im_end|>"' in modelfile


def test_an_export_of_another_run_takes_a_system_message(finished: Finished, out: Path) -> None:
    from transformers import AutoTokenizer

    finished.export("last", out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False)
    asked = render_question(finished.run.prompt, "Be brief.\n\nWhy?")
    assert rendered == tokenizer.bos_token + asked


def test_an_adapter_is_exported_whole_and_can_be_exported_again(
    finished: Finished, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finished.export("last", out)
    adapter = finished.result.adapter
    assert (out / "adapter_model.safetensors").read_bytes() == (
        adapter / "adapter_model.safetensors"
    ).read_bytes()
    served = (out / "serve.sh").read_text()
    assert (
        'vllm serve "$'
        + "{BASE:?is the folder of the base model, HuggingFaceTB/SmolLM2-135M-Instruct: "
        in served
    )
    assert "--enable-lora --max-lora-rank 16" in served
    assert f"Serve it: BASE={finished.tiny_runs.model} sh " in " ".join(
        capsys.readouterr().out.split()
    )
    refused = subprocess.run(
        ["sh", str(out / "serve.sh"), "transformers"], capture_output=True, text=True, check=False
    )
    assert (refused.returncode, "to=merged" in refused.stderr) == (2, True)
    card = (out / "README.md").read_text()
    assert finished.result.run_id in card
    assert "| held-out loss, all |" in card
    mark = json.loads((out / "export.json").read_text())
    assert (
        mark["files"]["adapter_model.safetensors"]
        == (out / "adapter_model.safetensors").stat().st_size
    )
    finished.export(out, tmp_path / "again", "to=vllm")
    # a folder holds no measures
    assert "held-out loss, all" not in (tmp_path / "again" / "README.md").read_text()


def test_a_run_that_finishes_meanwhile_is_not_the_last_of_this_command(
    finished: Finished, out: Path
) -> None:
    newer: list[str] = []
    finished.export("last", out, meanwhile=lambda: newer.append(finished.newer()))
    finished.tiny_runs.client().delete_run(newer[0])
    assert json.loads((out / "export.json").read_text())["run"] == finished.result.run_id


def test_ollama_gets_a_gguf_and_the_run_s_prompt(
    finished: Finished, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finished.export(finished.result.run_id, out, "to=ollama")
    assert sorted(each.name for each in out.iterdir()) == [
        "Modelfile",
        "README.md",
        "export.json",
        "smollm2_135m-tuned-q8_0.gguf",
    ]
    written = (out / "Modelfile").read_text()
    system = '{{ if .System }}{{ .System }}{{ "\\n\\n" }}{{ end }}'
    prompt = finished.run.prompt.question.replace("{question}", f"{system}{{{{ .Prompt }}}}")
    assert f'TEMPLATE """{prompt}{{{{ .Response }}}}<|im_end|>"""' in written
    assert "FROM ./smollm2_135m-tuned-q8_0.gguf" in written
    assert 'PARAMETER stop "<|im_end|>"' in written
    assert "ollama create smollm2_135m-tuned -f Modelfile" in capsys.readouterr().out


def test_the_registry_gets_a_version(finished: Finished, out: Path) -> None:
    found = finished.export(finished.result.run_id, out, "to=registry", "export.name=doctor")
    assert isinstance(found, ModelVersion)
    assert (found.uri, found.run_id) == ("models:/doctor@champion", finished.result.run_id)
    assert not out.exists()
    finished.export("models:/doctor@champion", out)
    with pytest.raises(RunError, match="to=registry needs a run in MLflow"):
        finished.export(finished.result.adapter, out, "to=registry")


def test_runs_that_cannot_be_exported_are_refused(finished: Finished, out: Path) -> None:
    with pytest.raises(ConfigError, match="run has no value"):
        finished.export(None, out)
    with pytest.raises(RunError, match="neither a folder nor a run in"):
        finished.export("0" * 32, out)
    without = (
        finished.tiny_runs.client()
        .create_run("1", tags={"mlflow.source.name": "medexp.train"})
        .info.run_id
    )
    kept = Path(finished.tiny_runs.client().download_artifacts(finished.result.run_id, "config"))
    finished.tiny_runs.client().log_artifacts(without, str(kept), "config")
    with pytest.raises(RunError, match=r"kept no adapter \(tracking.log_adapter=false\)"):
        finished.export(without, out)
    assert not out.exists()


def test_an_adapter_of_another_shape_or_kind_is_refused(
    finished: Finished, tmp_path: Path, out: Path
) -> None:
    adapter = shutil.copytree(finished.result.adapter, tmp_path / "adapter")
    file = adapter / "adapter_model.safetensors"
    weights = load_file(file)
    key = next(key for key in weights if key.endswith("q_proj.lora_A.weight"))
    save_file(weights | {key: torch.zeros(16, 96)}, file)
    for to in ("merged", "adapter", "gguf"):
        with pytest.raises(
            ModelError,
            match=(
                r"does not fit model=smollm2_135m: lora_A of .* is 16 x 96 and the base needs 16"
                r" x 64"
            ),
        ):
            finished.export(adapter, out, f"to={to}")
    save_file(weights, file)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(
        json.dumps(config | {"rank_pattern": {"q_proj": 4}})
    )
    with pytest.raises(ModelError, match=r"rank_pattern=.*cannot merge"):
        finished.export(adapter, out, "to=merged")
    file.unlink()
    with pytest.raises(ModelError, match=r"holds no adapter_model.safetensors"):
        finished.export(adapter, out)
    assert not out.exists()


def test_an_adapter_of_another_base_is_refused(
    finished: Finished, tmp_path: Path, out: Path
) -> None:
    other = shutil.copytree(finished.tiny_runs.model, tmp_path / "other")
    change_one_weight(other)
    with pytest.raises(
        ModelError,
        match=(
            r"was trained on .*SmolLM2.* and this run's base is .*other, which holds other weights"
        ),
    ):
        finished.export(finished.result.adapter, out, "to=merged", f"model.path={other}")
    (other / "config.json").write_text(
        json.dumps(json.loads((other / "config.json").read_text()) | {"hidden_size": 96})
    )
    with pytest.raises(
        ModelError, match="do not have the declared shape: hidden is 96 there and 64 here"
    ):
        finished.export(finished.result.adapter, out, "to=merged", f"model.path={other}")


def test_a_full_folder_a_full_disk_and_a_missing_quantiser_are_refused_first(
    finished: Finished, out: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    finished.export(finished.result.adapter, out)
    with pytest.raises(OutputError, match="already holds an export; set overwrite=true"):
        finished.export(finished.result.adapter, out)
    finished.export(finished.result.adapter, out, "overwrite=true")
    with pytest.raises(MachineError, match=r"holds no llama-quantize"):
        finished.export(
            finished.result.adapter,
            tmp_path / "new",
            "to=gguf",
            "export.quantisation=q4_k_m",
            f"export.llama_cpp={out}",
        )
    real = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: real._replace(free=33 * 2**20))
    with pytest.raises(
        OutputError, match=r"the export needs 38\.\d MiB on the disk of .* and 33.0 MiB are free"
    ):
        finished.export(finished.result.adapter, tmp_path / "new", "to=merged")
    assert not (tmp_path / "new").exists()


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_stub.serving() as served:
        yield served


def _pushed(finished: Finished, hub: Hub, cwd: Path, token: str, *more: str) -> tuple[int, str]:
    words = [
        f"run={finished.result.run_id}",
        f"tracking.root={finished.tiny_runs.root / 'mlruns'}",
        "export.folder=out",
        *more,
    ]
    return command(
        "-m",
        "medexp.export",
        *words,
        cwd=cwd,
        HF_ENDPOINT=hub.address,
        HF_HUB_DISABLE_XET="1",
        HF_TOKEN=token,
    )


def test_a_push_holds_the_files_and_no_path_of_this_machine(
    finished: Finished, tmp_path: Path, hub: Hub
) -> None:
    status, said = _pushed(finished, hub, tmp_path, "good", "export.repo=me/tuned")
    # nothing without the flag
    assert (status, hub.repos, hub.files, hub.tokens) == (0, {}, {}, set()), said
    status, said = _pushed(
        finished, hub, tmp_path, "good", "export.repo=me/tuned", "push=true", "overwrite=true"
    )
    assert status == 0, said
    assert hub.repos["me/tuned"]["visibility"] == "private"
    assert (
        hub.files["adapter_model.safetensors"]
        == (tmp_path / "out" / "adapter_model.safetensors").read_bytes()
    )
    assert hub.files["README.md"].startswith(b"---\nlanguage:")
    assert not {"run.yaml", "export.json"} & set(hub.files)
    assert (
        json.loads(hub.files["adapter_config.json"])["base_model_name_or_path"]
        == "HuggingFaceTB/SmolLM2-135M-Instruct"
    )
    assert not [
        name
        for name, content in hub.files.items()
        if str(finished.tiny_runs.model).encode() in content
    ]
    assert f"On the Hub: {hub.address}/me/tuned/commit/1" in said
    assert "good" not in said


def test_a_push_that_the_hub_refuses_is_one_sentence(
    finished: Finished, tmp_path: Path, hub: Hub
) -> None:
    status, said = _pushed(finished, hub, tmp_path, "bad", "export.repo=me/tuned", "push=true")
    assert (status, hub.files) == (2, {})
    (sentence,) = [line for line in said.splitlines() if line.startswith("medexp:")]
    assert "export.repo=me/tuned could not be pushed to" in sentence
    assert "401" in sentence
    assert sentence.endswith(f"The export is whole in {tmp_path / 'out'}")


def test_a_push_without_a_place_or_a_token_is_refused_first(
    finished: Finished, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"export.name=../up names files"):
        finished.export(finished.result.run_id, out, "export.name=../up")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(ConfigError) as refused:
        finished.export(finished.result.run_id, out, "push=true", "to=registry")
    assert [problem.partition(":")[0].partition(",")[0] for problem in refused.value.problems] == [
        "push=true uploads files and to=registry makes none; choose to=adapter",
        "push=true needs export.repo=OWNER/NAME",
        "push=true needs a token that may write",
    ]
    assert not out.exists()


def test_the_command_line_says_what_is_allowed(tmp_path: Path) -> None:
    status, said = command("-m", "medexp.export", "run=last", "to=onnx", cwd=tmp_path)
    assert (status, said.strip()) == (
        2,
        "medexp: to=onnx is not allowed; allowed are adapter, merged, gguf, ollama, vllm, registry",
    )


def test_ctrl_c_leaves_nothing_behind(finished: Finished, tmp_path: Path) -> None:
    slow = tmp_path / "llama-quantize"
    slow.write_text('#!/bin/sh\necho "[   1/   9]"\nexec sleep 60\n')
    slow.chmod(0o755)
    words = [
        f"run={finished.result.adapter}",
        "to=gguf",
        "export.quantisation=q4_k_m",
        f"export.llama_cpp={slow}",
        "export.folder=out",
    ]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    started = [sys.executable, "-m", "medexp.export", *words]
    with subprocess.Popen(
        started, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "writing a GGUF in f16" in line:
                break
        assert list(tmp_path.glob(".out-*/to-quantise.gguf"))
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert (process.returncode, said.strip()) == (
        130,
        "medexp: stopped by Ctrl-C; the same command continues",
    )
    assert sorted(each.name for each in tmp_path.iterdir()) == ["llama-quantize", "outputs"]
