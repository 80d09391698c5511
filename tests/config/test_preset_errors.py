"""One's own conf/ with a mistake in it: which file, which line, what to do."""

import sys

import hydra
import pytest

from medexp.cli.composition import explain_error
from medexp.config.command_options import TrainConfig
from medexp.config.registration import register_with_hydra
from medexp.config.shipped import find_conf_dir

LORA, HEAD = "defaults: [all_linear, _self_]\n", "# @package _global_\n"
PACKAGE = (
    "line 1: begin the file with the line # @package _global_; without it all of it is put under "
)
BROKEN = {  # file under conf/: what it holds, what is said after its name
    "a wrong key": (
        "lora",
        f"{LORA}r: 5\nrnk: 8\n",
        ", line 3: lora.rnk does not exist; lora has r, alpha",
    ),
    "a key of PEFT": (
        "lora",
        f"{LORA}lora_alpha: 5\n",
        ", line 2: lora.lora_alpha does not exist; it is lora.alpha",
    ),
    "a wrong key inside": (
        "experiment",
        f"{HEAD}lora:\n  alpha: 3\n  rnk: 5\n",
        ", line 4: lora.rnk does not exist",
    ),
    "a key with a dot": (
        "experiment",
        f"{HEAD}lora.r: 5\n",
        ", line 2: keys are nested in a file: lora: in one line",
    ),
    "no package": (
        "experiment",
        "lora:\n  r: 5\n",
        f", {PACKAGE}experiment",
    ),
    "no package, overrides": (
        "experiment",
        "defaults:\n  - override /lora: attention_only\n",
        f", {PACKAGE}experiment",
    ),
    "no package, hardware": (
        "hardware",
        "defaults:\n  - override /lora: attention_only\nhardware:\n  name: x\n",
        f", {PACKAGE}hardware",
    ),
    "no package, sweep": (
        "sweep",
        "hydra:\n  sweeper:\n    n_trials: 3\n",
        f", {PACKAGE}sweep",
    ),
    "a package misspelt": (
        "experiment",
        "# @package global\nlora:\n  r: 5\n",
        f", {PACKAGE}experiment",
    ),
    "a package too much": (
        "lora",
        f"{HEAD}r: 5\n",
        ", line 1: leave out the line # @package _global_",
    ),
    "its own name": (
        "lora",
        "lora:\n  r: 5\n",
        ", line 1: all of this file is put under lora already",
    ),
    "a bracket": (
        "lora",
        f"{LORA}r: [5\nalpha: 3\n",
        ", line 3: this is no YAML (expected ',' or ']', but got ':'); close the",
    ),
    "a colon": (
        "lora",
        f"{LORA}start_from: a: b\n",
        ", line 2: this is no YAML (mapping values are not allowed here); put a value",
    ),
    "a tab": (
        "experiment",
        f"{HEAD}lora:\n\tr: 5\n",
        ", line 3: this is no YAML (found character '\\t' that cannot start any token)",
    ),
    "twice": (
        "lora",
        f"{LORA}r: 5\nr: 6\n",
        ", line 3: this is no YAML (found duplicate key r); leave one of the two out",
    ),
    "an alias": (
        "lora",
        "r: *x\n",
        ", line 1: this is no YAML (found undefined alias 'x')",
    ),
    "a tag": (
        "lora",
        "r: !!python/object:os.system 5\n",
        ", line 1: this is no YAML (could not determine a constructor",
    ),
    "NUL": (
        "lora",
        "r: 5\0\n",
        ": this is no YAML (unacceptable character #x0000",
    ),
    "UTF-16": (
        "lora",
        f"{LORA}r: 5\n".encode("utf-16"),
        " is UTF-16; save it as UTF-8",
    ),
    "Latin-1": (
        "lora",
        f"{LORA}# für\nr: 5\n".encode("latin-1"),
        ", line 2: it is not UTF-8; save the file as UTF-8",
    ),
    "a byte order mark": (
        "experiment",
        f"\ufeff{HEAD}lora:\n  r: 5\n",
        ", line 1: a byte order mark stands before # @package _global_",
    ),
    "a list": (
        "lora",
        "- r: 5\n",
        ", line 1: this is a list; a preset holds lines of KEY: VALUE",
    ),
    "text": (
        "lora",
        "r=5\n",
        ", line 1: this is a line of text; a preset holds lines of KEY: VALUE",
    ),
    "a wrong type": (
        "lora",
        f"{LORA}r: many\n",
        ", line 2: lora.r: Value 'many' of type 'str' could not be converted to Integer",
    ),
    "a wrong word": (
        "training",
        "defaults: [cpu]\nschedule: linaer\n",
        ", line 2: training.schedule=linaer is not allowed",
    ),
    "off": (
        "training",
        "gradient_checkpointing: off\n",
        ", line 1: training.gradient_checkpointing=False is not allowed; ",
    ),
    "an unknown default": (
        "lora",
        "defaults:\n  - all_liner\n",
        ", line 2: lora/all_liner does not exist; in lora there are",
    ),
    "an unknown override": (
        "experiment",
        f"{HEAD}defaults:\n  - override /lora: x\n",
        ", line 3: lora=x does not exist; there are",
    ),
    "an unknown group": (
        "experiment",
        f"{HEAD}defaults:\n  - override /lroa: x\n",
        ", line 3: there is no group lroa to override",
    ),
    "no override": (
        "experiment",
        f"{HEAD}defaults:\n  - /lora: attention_only\n",
        ", line 3: lora is chosen already; write override /lora",
    ),
    "defaults that are no list": (
        "experiment",
        f"{HEAD}defaults: x\n",
        ", line 2: defaults is a list, as in defaults: [OPTION, _self_]",
    ),
}


def explained(tmp_path, monkeypatch, file, data, *words):
    """What is said of `words` in a folder whose conf/`file` holds `data`."""
    (tmp_path / "conf" / file).parent.mkdir(parents=True)
    (tmp_path / "conf" / file).write_bytes(data if isinstance(data, bytes) else data.encode())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train", *words])
    register_with_hydra()
    with (
        hydra.initialize_config_dir(str(find_conf_dir()), version_base="1.3"),
        pytest.raises(Exception) as refused,  # noqa: PT011
    ):
        hydra.compose("train", list(words))
    return explain_error(refused.value, words, TrainConfig)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_preset_is_said_with_file_and_line(tmp_path, monkeypatch, name):
    group, data, said = BROKEN[name]
    sentence = explained(tmp_path, monkeypatch, f"{group}/mine.yaml", data, f"{group}=mine")
    assert sentence is not None
    assert sentence.startswith(f"conf/{group}/mine.yaml{said}")
    assert "\n" not in sentence


def test_a_file_that_ends_in_yml_is_said(tmp_path, monkeypatch):
    sentence = explained(tmp_path, monkeypatch, "lora/mine.yml", f"{LORA}r: 5\n", "lora=mine")
    assert (
        sentence == "conf/lora/mine.yml ends in .yml, which Hydra does not read; call it mine.yaml"
    )


def test_what_the_command_line_says_wrong_is_no_presets_fault(tmp_path, monkeypatch):
    sentence = explained(
        tmp_path, monkeypatch, "lora/mine.yaml", f"{LORA}r: 5\n", "lora=mine", "lora.rnk=5"
    )
    assert sentence is not None
    assert sentence.startswith("lora.rnk does not exist")


@pytest.mark.parametrize("data", ["", "r: 5\n"], ids=["empty", "half"])
def test_what_a_preset_leaves_out_is_said(tmp_path, problems, data, monkeypatch):
    (tmp_path / "conf" / "lora").mkdir(parents=True)
    (tmp_path / "conf" / "lora" / "mine.yaml").write_text(data)
    monkeypatch.chdir(tmp_path)
    (problem,) = problems("lora=mine")
    key = "lora.alpha" if data else "lora.r"
    assert problem.startswith(
        f"{key} has no value in conf/lora/mine.yaml: set it there or on the command line, or begin"
        " that file"
    )
