import re
from pathlib import Path

import hydra
import pytest

from medexp.config.registration import register_with_hydra
from medexp.config.schema import Device, Overlong
from medexp.config.shipped import find_conf_dir
from medexp.data import loading as data_loading
from medexp.data.split import split_cases
from medexp.system import machine
from medexp.system.known_cards import KNOWN_CARDS, KnownCard
from medexp.system.machine import Gpu, Machine, find_nearest_preset
from medexp.system.units import GIB

CONF = find_conf_dir()
ROOTS = sorted(file.stem for file in CONF.glob("*.yaml"))
GROUPS = [
    folder
    for folder in CONF.rglob("*")
    if folder.is_dir() and "hydra" not in folder.parts[len(CONF.parts) :]
]
OPTIONS = sorted(
    (file.parent.relative_to(CONF).as_posix(), file.stem)
    for group in GROUPS
    for file in group.glob("*.yaml")
)
# which have no shape before a file is read
WITHOUT_SHAPE = ("local", "hub")
MODELS = [option for group, option in OPTIONS if group == "model" and option not in WITHOUT_SHAPE]
PRESETS = [option for group, option in OPTIONS if group == "hardware" and option != "auto"]

# What an option needs beside it, as its own comment or the message against it says.
NEEDS = {
    ("dataset", "local"): ["dataset.path=cases.csv"],
    ("dataset", "mixture"): [
        "dataset.mixture=[{use: medical_o1, weight: 3}, {use: clinical_cases, weight: 1}]"
    ],
    ("evaluation/judge", "endpoint"): ["evaluation.judge.model=m"],
    ("prompt", "direct"): ["dataset.overlong=drop"],
    ("training", "default"): ["hardware=rtx4090_24gb"],
}
WORKLOADS = {  # preset: model, dataset, prompt, training's optimizer, answers
    "cpu": ("smollm2_135m", "clinical_cases", "clinical_sections", "adamw_torch", 8),
    "rtx4050_6gb": ("deepseek_r1_distill_llama_8b", "medical_o1", "clinical", "adamw_8bit", 64),
    "rtx3060_12gb": ("deepseek_r1_distill_llama_8b", "medical_o1", "clinical", "adamw_8bit", 64),
    "t4_16gb": ("deepseek_r1_distill_llama_8b", "medical_o1", "clinical", "adamw_8bit", 64),
    "rtx4090_24gb": ("deepseek_r1_distill_qwen_14b", "medical_o1", "clinical", "adamw_8bit", 64),
    "h200_141gb": ("deepseek_r1_distill_qwen_14b", "medical_o1", "clinical", "adamw_8bit", 64),
}
LAPTOP = WORKLOADS["rtx4050_6gb"]
NEWER = ("rtx4060_laptop_8gb", "rtx4070_laptop_8gb", "rtx5060_laptop_8gb", "rtx5070_laptop_8gb")
NEWER += ("rtx5060_8gb", "rtx4070_12gb", "rtx5070_12gb", "rtx5060ti_16gb", "rtx5070ti_16gb")
WORKLOADS |= dict.fromkeys(NEWER, LAPTOP)


def workload(run):
    return (
        run.model.name,
        run.dataset.name,
        run.prompt.name,
        run.training.optimizer.value,
        run.evaluation.answers,
    )


def comment_of(file: str) -> str:
    return "".join(line for line in (CONF / file).read_text().splitlines() if line.startswith("#"))


def test_every_yaml_is_a_root_an_option_or_hydra_s():
    found = {file.relative_to(CONF).as_posix() for file in CONF.rglob("*.yaml")}
    hydras = {name for name in found if name.startswith("hydra/")}
    assert found - hydras == {f"{name}.yaml" for name in ROOTS} | {
        f"{group}/{option}.yaml" for group, option in OPTIONS
    }
    ours = {
        "hydra/job_logging/medexp.yaml",
        "hydra/help/medexp.yaml",
        "hydra/sweeper/medexp.yaml",
        "hydra/launcher/medexp.yaml",
    }
    assert {name for name in hydras if name.count("/") == 2} == ours
    assert {Path(name).parent.as_posix() for name in hydras - ours} == {
        "hydra/sweeper/sampler",
        "hydra/sweeper/pruner",
    }


@pytest.mark.parametrize("root", ROOTS)
def test_every_root_composes(compose, root):
    compose(root=root)


def test_hydra_s_own_groups_are_ours():
    register_with_hydra()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        ours = hydra.compose("train", return_hydra_config=True).hydra
    assert ours.help.app_name == "medexp"
    assert list(ours.job_logging.root.handlers) == ["file", "console"]
    assert ours.job_logging.handlers.console.level == "ERROR"
    assert ours.job.chdir is False


@pytest.mark.parametrize(
    ("group", "option"),
    [
        (group, option)
        for group, option in OPTIONS
        if group != "hardware" and not (group == "model" and option in WITHOUT_SHAPE)
    ],
)
def test_every_option_resolves(resolved, group, option):
    run = resolved(f"{group}={option}", *NEEDS.get((group, option), []))
    chosen = getattr(run, group, None)
    assert getattr(chosen, "name", option) == option


# Neither group knows the other, so not every pair is composed; tests/planning/test_planner.py plans
# every pair.
KINDS = ("cpu", "t4_16gb", "rtx4050_6gb")


@pytest.mark.parametrize(
    ("preset", "model"),
    [
        (preset, model)
        for model in MODELS
        for preset in (PRESETS if model == "deepseek_r1_distill_qwen_14b" else KINDS)
    ],
)
def test_presets_run_models(resolved, problems, preset, model):
    words = [f"hardware={preset}", f"model={model}"]
    if preset == "t4_16gb" and "gemma" in model:
        (problem,) = problems(*words)
        assert "hardware.dtype=float16 does not hold the activations of family gemma3" in problem
        return
    run = resolved(*words)
    assert (run.hardware.name, run.model.name) == (preset, model)


@pytest.mark.parametrize("debug", ["fast", "overfit"])
@pytest.mark.parametrize("preset", ["cpu", "rtx4050_6gb"])
def test_every_debug_preset_runs_with_and_without_a_card(resolved, preset, debug):
    run = resolved(f"hardware={preset}", f"debug={debug}")
    assert run.tracking.experiment == "debug"


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_chooses_its_workload(resolved, preset):
    assert workload(resolved(f"hardware={preset}")) == WORKLOADS[preset]


def test_the_default_is_the_embedded_model_on_a_cpu(resolved, no_card):
    run = resolved(on=no_card)
    assert run.hardware.device is Device.cpu
    assert workload(run) == WORKLOADS["cpu"]


@pytest.mark.parametrize("before", [True, False])
def test_the_command_line_wins_over_a_preset(resolved, before):
    wanted = [
        "model=llama_3_2_3b",
        "dataset=clinical_cases",
        "prompt=r1_reasoning",
        "training=cpu",
        "evaluation=quick",
    ]
    chosen = [*wanted, "hardware=rtx4050_6gb"] if before else ["hardware=rtx4050_6gb", *wanted]
    more = [
        "lora.r=8",
        "hardware.vram_ceiling_gib=4",
        "training.max_steps=7",
        "training.gradient_checkpointing=standard",
    ]
    run = resolved(*chosen, *more)
    assert workload(run) == ("llama_3_2_3b", "clinical_cases", "r1_reasoning", "adamw_torch", 8)
    assert (run.hardware.vram_ceiling_gib, run.training.max_steps, run.lora.r) == (4, 7, 8)
    assert run.hardware.offload_layers == "auto"


def test_a_debug_preset_wins_over_the_hardware(resolved):
    assert resolved("hardware=cpu", "debug=fast").training.max_steps == 2


def test_debug_overfit_trains_on_two_cases(resolved):
    run = resolved("debug=overfit")
    sides = split_cases(data_loading.load_cases(run.dataset).cases, run.dataset)
    assert (len(sides.train), len(sides.held_out)) == (2, 2)


def test_attention_only_trains_attention_only(resolved):
    assert resolved("lora=attention_only").lora.target_modules == [
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
    ]


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "cpu"])
def test_a_preset_s_ceiling_leaves_room_on_its_card(resolved, preset):
    hardware = resolved(f"hardware={preset}").hardware
    assert 0.5 <= hardware.card_vram_gib - hardware.vram_ceiling_gib <= 4


@pytest.mark.parametrize("card", KNOWN_CARDS, ids=[card.preset for card in KNOWN_CARDS])
def test_every_preset_is_the_nearest_one_of_its_own_card(resolved, card):
    hardware = resolved(f"hardware={card.preset}").hardware
    assert card == KnownCard(
        hardware.name,
        hardware.card_vram_gib,
        hardware.matmul_tflops,
        hardware.memory_gb_per_s,
        hardware.dtype.value == "bfloat16",
    )
    gpu = Gpu(
        card.preset,
        int(card.vram_gib * GIB),
        card.has_bfloat16,
        tflops=card.tflops,
        memory_gb_per_s=card.memory_gb_per_s,
    )
    assert find_nearest_preset(Machine(8, "by hand", (gpu,))) == card.preset


def test_every_preset_of_a_card_is_known():
    assert {card.preset for card in KNOWN_CARDS} == set(PRESETS) - {"cpu"}


def test_the_shipped_cases_are_found_from_anywhere(resolved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Path(resolved("dataset=clinical_cases", launch_dir=tmp_path).dataset.path).is_file()


def test_the_command_lines_in_local_yaml_work(resolved):
    typed = re.findall(r"\S+=\S*\w", comment_of("dataset/local.yaml"))
    assert len(typed) == 5
    run = resolved("dataset=local", *typed)
    assert (run.dataset.columns.question, run.dataset.columns.reasoning, run.prompt.name) == (
        "vignette",
        None,
        "direct",
    )


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_says_what_it_is(group, option):
    assert comment_of(f"{group}/{option}.yaml").removeprefix("# @package _global_")


def test_reasoning_is_trimmed_only_where_it_may_be(resolved):
    assert resolved("hardware=cpu").dataset.overlong is Overlong.drop
    assert resolved("hardware=rtx4050_6gb").dataset.overlong is Overlong.trim_reasoning


def test_a_project_s_own_preset_is_found_and_cannot_hide_a_shipped_one(
    resolved, tmp_path, monkeypatch
):
    shipped = (CONF / "lora" / "all_linear.yaml").read_text()
    (tmp_path / "conf" / "lora").mkdir(parents=True)
    (tmp_path / "conf" / "lora" / "tiny.yaml").write_text(shipped.replace("r: 16", "r: 2", 1))
    (tmp_path / "conf" / "lora" / "all_linear.yaml").write_text(shipped.replace("r: 16", "r: 3", 1))
    monkeypatch.chdir(tmp_path)
    assert resolved("lora=tiny").lora.r == 2
    assert resolved("lora=all_linear").lora.r == 16


@pytest.mark.parametrize(
    ("cards", "preset", "ceiling"),
    [
        ([], "cpu", None),
        ([Gpu("4 GiB", 4 * GIB, True)], "rtx4050_6gb", 3.25),
        ([Gpu("RTX 4060", 8 * GIB, True)], "rtx4060_laptop_8gb", 7.25),
        ([Gpu("T4", 15 * GIB, False)], "t4_16gb", 14.25),
        ([Gpu("H200", int(139.8 * GIB), True)], "h200_141gb", 139.05),
    ],
)
def test_auto_is_the_nearest_preset_with_the_ceiling_of_this_card(
    resolved, monkeypatch, cards, preset, ceiling
):
    here = Machine(cores=8, system="by hand", gpus=tuple(cards))
    monkeypatch.setattr(machine, "read", lambda: here)
    run = resolved("hardware=auto", on=here)
    assert workload(run) == WORKLOADS[preset]
    assert (run.hardware.name, run.hardware.vram_ceiling_gib) == ("auto", ceiling)


def test_the_command_line_wins_over_auto(resolved, monkeypatch, no_card):
    monkeypatch.setattr(machine, "read", lambda: no_card)
    assert resolved("hardware=auto", "model=llama_3_2_3b", on=no_card).model.name == "llama_3_2_3b"
