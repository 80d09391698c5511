from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from medexp.config.families.sizes import PROJECTIONS
from medexp.config.resolve import SHIPPED, build_kept_yaml, make_paths_absolute
from medexp.config.schema import Dtype, Engine
from medexp.config.validation import RULES
from medexp.errors import ConfigError, MachineError
from medexp.system.machine import Gpu, Machine
from medexp.system.units import GIB

ALL_PROJECTIONS = "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj"
CARD = "hardware=rtx4090_24gb"

# What is asked; what the one sentence against it must say: the key, what is allowed or what to do.
BROKEN = {
    "check_steps": [
        (
            ["training.epochs=1"],
            ["training.max_steps=60", "training.epochs=1.0",
             "exactly one of them must be set and the other null"],
        ),
        (["training.max_steps=null"],
         ["training.max_steps=None", "training.epochs=None", "exactly one"]),
    ],
    "check_schedule": [
        (
            ["training.warmup_ratio=0.1"],
            ["training.warmup_steps=5 and training.warmup_ratio=0.1", "add"
             " training.warmup_steps=null"],
        ),
        (["training.warmup_steps=null"], ["training.warmup_steps=null", "exactly one"]),
        (
            ["training.min_lr_ratio=0.1", "training.schedule=constant_with_warmup"],
            ["training.min_lr_ratio=0.1", "training.schedule=constant_with_warmup does not fall",
             "training.schedule=linear or cosine"],
        ),
    ],
    "check_adapter": [
        (["lora.alpha_ratio=2"],
         ["lora.alpha=16 and lora.alpha_ratio=2.0", "exactly one", "add lora.alpha=null"]),
        (["lora.alpha=null"], ["lora.alpha=null and lora.alpha_ratio=null", "exactly one"]),
        (
            ["lora.alpha=null", "lora.alpha_ratio=2", "lora.rank_stabilised=true"],
            ["lora.alpha_ratio=2", "lora.rank_stabilised=true", "set lora.alpha=NUMBER"],
        ),
        (["lora.init_lora_weights=pissa_niter_16"],
         ["lora.init_lora_weights=pissa_niter_16", "changes the base's weights", "true, gaussian"]),
        (["lora.init_lora_weights=false"], ["=false is not offered", "begins at random"]),
        (["lora.init_lora_weights=eva"], ["=eva is not offered", "activations or gradients"]),
        (["lora.init_lora_weights=orthogonal"], ["=orthogonal", "NF4"]),
        (["lora.init_lora_weights=mica"], ["=mica", "half of the planned parameters"]),
        (["lora.init_lora_weights=[1]"], ["=[1]", "PEFT has no such beginning"]),
        (["lora.init_lora_weights=1"], ["=1 is not offered", "PEFT has no such beginning"]),
        (
            ["lora.init_lora_weights=gaussian", "lora.start_from=out"],
            ["lora.init_lora_weights=gaussian has no effect", "brings both matrices"],
        ),
    ],
    "check_engine": [
        (
            [CARD, "training.gradient_checkpointing=off"],
            ["training.gradient_checkpointing=off is for hardware.engine=transformers",
             "hardware.checkpoint_skip_layers=max"],
        ),
        ([CARD, "hardware.dtype=float32"],
         ["hardware.dtype=float32 is not for a card", "bfloat16 or float16"]),
        (
            ["hardware.engine=unsloth", "training.gradient_checkpointing=standard"],
            ["hardware.engine=unsloth needs a CUDA card", "use hardware.engine=auto"],
        ),
        (
            [CARD, "hardware.engine=transformers", "hardware.offload_layers=3"],
            ["hardware.offload_layers=3", "hardware.engine=unsloth", "set it to 0"],
        ),
        (
            [CARD, "hardware.engine=transformers", "hardware.offload_embedding=true"],
            ["hardware.offload_embedding=true", "hardware.engine=unsloth", "set it to false"],
        ),
        (["hardware.checkpoint_skip_layers=max"],
         ["hardware.checkpoint_skip_layers=max", "with transformers set it to 0"]),
        (
            [CARD, "hardware.engine=transformers", "lora.bias=all"],
            ["lora.bias=all cannot be trained on NF4 weights", "set lora.bias=none"],
        ),
    ],
    "check_cards": [
        (["hardware.cards=2", "training.micro_batch=3", "training.accumulation=1"],
         ["hardware.cards=2 does not divide the 3 cases of a step", "change one of the three"]),
    ],
    "check_levers": [
        *(
            (
                [CARD, "hardware.fp8=true", f"{key}={value}"],
                [f"hardware.fp8=true does not go with {key}={value}", f"set {key}={instead}",
                 "or hardware.fp8=false"],
            )
            for key, value, instead in (
                ("hardware.compile_layers", "false", "auto"),
                ("hardware.tile_mlp", "true", "auto"),
                ("hardware.dtype", "float16", "bfloat16"),
                ("lora.dropout", "0.1", "0"),
                ("lora.dora", "true", "false"),
                ("lora.bias", "lora_only", "none"),
            )
        ),
        ([CARD, "hardware.fp8=e4m3"],
         ["hardware.fp8=e4m3 is not allowed", "true, false, auto, all"]),
        (
            [CARD, "hardware.offload_layers=49"],
            ["hardware.offload_layers=49", "deepseek_r1_distill_qwen_14b has 48 layers",
             "a number from 0 to 48, or auto"],
        ),
        ([CARD, "hardware.offload_layers=-1"],
         ["hardware.offload_layers=-1", "a number from 0 to 48"]),
        ([CARD, "hardware.offload_layers=max"], ["hardware.offload_layers=max", "or auto"]),
        ([CARD, "hardware.offload_layers=true"],
         ["hardware.offload_layers=True", "a number from 0 to 48"]),
        ([CARD, "hardware.offload_layers=1.5"],
         ["hardware.offload_layers=1.5", "a number from 0 to 48"]),
        ([CARD, "hardware.checkpoint_skip_layers=all"],
         ["hardware.checkpoint_skip_layers=all", "or auto, max"]),
        ([CARD, "hardware.compile_layers=3"],
         ["hardware.compile_layers=3", "allowed are true, false, auto"]),
        (
            [CARD, "hardware.compile_layers=true", "hardware.tile_mlp=true"],
            ["hardware.tile_mlp=true does not go with hardware.compile_layers=true",
             "auto or false"],
        ),
        (
            [CARD, "hardware.page_optimizer=true", "training.optimizer=adamw_torch"],
            ["hardware.page_optimizer=true pages an 8-bit optimizer",
             "training.optimizer=adamw_8bit"],
        ),
        ([CARD, "hardware.offload_embedding=maybe"],
         ["hardware.offload_embedding=maybe", "allowed are true, false, auto"]),
        (
            [CARD, "hardware.offload_layers=40", "hardware.checkpoint_skip_layers=9"],
            ["hardware.offload_layers=40 and hardware.checkpoint_skip_layers=9 are more than the"
             " 48 layers", "cannot be kept"],
        ),
        ([CARD, "hardware.offload_embedding=0"],
         ["hardware.offload_embedding=0 is not allowed", "true, false, auto"]),
        (
            [CARD, "model=llama_3_2_3b", "hardware.offload_embedding=true"],
            ["hardware.offload_embedding=true saves nothing: llama_3_2_3b ties its embedding",
             "auto or false"],
        ),
    ],
    "check_measured_steps": [
        (
            ["hardware.measured_steps=[{kind: llama}]"],
            ["hardware.measured_steps[0] is no measured step", "kind, micro_batch, tokens",
             "leave it out or calibrate again"],
        ),
        (
            ["hardware.measured_steps=[{kind: llama, micro_batch: 0, tokens: 1, planned_bytes: 1,"
             " measured_bytes: 1, date: d, versions: {}}]"],
            ["hardware.measured_steps[0] is no measured step: micro_batch, tokens",
             "not whole numbers above 0"],
        ),
        (
            ["hardware.measured_steps=[{kind: llama, micro_batch: 1, tokens: 1, planned_bytes: 1,"
             " measured_bytes: 1, date: d, versions: {torch: 2}}]"],
            ["versions are not text"],
        ),
    ],
    "check_optimizer": [
        (
            [f"training.optimizer={name}"],
            [f"training.optimizer={name} runs on CUDA only",
             "with hardware=cpu set training.optimizer=adamw_torch"],
        )
        for name in ("adamw_8bit", "paged_adamw_8bit")
    ],
    "check_target_modules": [
        (["lora.target_modules=[]"],
         ["lora.target_modules is empty", f"allowed are {ALL_PROJECTIONS}"]),
        (
            ["lora.target_modules=[q_proj,qproj]"],
            ["lora.target_modules has qproj", f"allowed are {ALL_PROJECTIONS}",
             "did you mean q_proj?"],
        ),
        (
            [CARD, "model=phi_4_mini", "lora.target_modules=[q_proj,v_proj]"],
            ["lora.target_modules has q_proj, v_proj without k_proj",
             "in model=phi_4_mini they are one matrix, qkv_proj", "q_proj, k_proj, v_proj"],
        ),
        (
            [CARD, "model=phi_4_mini", "lora.target_modules=[qkv]"],
            ["lora.target_modules has qkv", "qkv_proj, gate_up_proj"],
        ),
    ],
    "check_family": [
        (
            [CARD, "model=gemma3_4b_it", "hardware.dtype=float16"],
            ["hardware.dtype=float16 does not hold the activations of family gemma3_text",
             "(model=gemma3_4b_it)", "set hardware.dtype=bfloat16"],
        ),
        *(
            (
                [CARD, "model=phi_4_mini", f"hardware.{lever}=true"],
                [f"hardware.{lever}=true needs Unsloth's own kernels", "for family phi3",
                 "set it to auto or false"],
            )
            for lever in ("tile_mlp", "offload_activations", "fp8")
        ),
    ],
    "check_prompt": [
        (["prompt.question=Answer."], ["prompt.question must hold {question} exactly once"]),
        (["prompt.question='{question} {question}'"],
         ["prompt.question must hold {question} exactly once"]),
        (["prompt.question='{question} {age}'"], ["prompt.question", "no other placeholder"]),
        (["prompt.question='{question} {answer}'"], ["prompt.question", "no other placeholder"]),
        (["prompt.completion='{reasoning}'"], ["prompt.completion must hold {answer}"]),
        (["prompt.completion='{answer}{reasoning}'"],
         ["prompt.completion must hold {answer}, before it {reasoning}"]),
        (["prompt.completion='{reasoning}{answer}{age}'"],
         ["prompt.completion", "no other placeholder"]),
        (
            ["prompt=direct", "dataset.overlong=trim_reasoning"],
            ["dataset.overlong=trim_reasoning needs a prompt with reasoning",
             "prompt=direct has none", "use drop or error"],
        ),
    ],
    "check_cases": [
        (["dataset=local"],
         ["dataset=local has no file", "set dataset.path=FILE (JSON, JSONL, CSV, TSV or Parquet)",
          "dataset.hub_id"]),
        (["dataset.max_cases=16"],
         ["dataset.held_out=16 leaves nothing to train on", "dataset.max_cases=16"]),
        (["evaluation.answers=17"],
         ["evaluation.answers=17 is more than dataset.held_out=16",
          "lower the first or raise the"]),
        (["dataset.max_cases=24", "dataset.validation=8"],
         ["dataset.validation=8 leave nothing to train on"]),
        (["training.keep_best=true"],
         ["training.keep_best=true chooses by the loss on validation cases",
          "set dataset.validation=16"]),
        (["training.early_stopping_patience=2"],
         ["training.early_stopping_patience=2 chooses by", "dataset.validation=0"]),
    ],
    "check_arms": [
        (["evaluation.arms=[base,base_bst,tuned]"],
         ["evaluation.arms has base_bst", "did you mean base_best?"]),
        (["evaluation.arms=[base,base_best]"],
         ["lacks tuned", "evaluation.arms=[base,base_best,tuned]"]),
        (["evaluation.draws=3"],
         ["evaluation.draws=3 with evaluation.temperature=0", "set evaluation.temperature=0.7"]),
    ],
    "check_benchmarks": [
        (
            ["evaluation.benchmarks=[medxpertqa]"],
            ["medxpertqa, which is read from a file alone",
             "evaluation.benchmark_files.medxpertqa=FILE"],
        ),
        (
            ["evaluation.benchmark_reasoning=true"],
            ["evaluation.benchmark_reasoning=true", "none is set",
             "evaluation.benchmark_files.medqa=FILE"],
        ),
        (
            ["evaluation.benchmarks=[medqa,medmqa]"],
            ["evaluation.benchmarks has medmqa",
             "allowed are medqa, medmcqa, pubmedqa, mmlu_medical", "did you mean medmcqa?"],
        ),
    ],
    "check_judge": [
        (
            ["evaluation/judge=endpoint", "evaluation.judge.model=m",
             "evaluation.judge.url=localhost"],
            ["evaluation.judge.url=localhost is no endpoint",
             "http://127.0.0.1:8000/v1/chat/completions"],
        ),
        (
            ["evaluation/judge=endpoint", "evaluation.judge.model=m",
             "evaluation.judge.instructions=good"],
            ["evaluation.judge.instructions must hold {{ outputs }}"],
        ),
    ],
    "check_weights": [
        (
            ["model.package=null", "model.hub_id=null"],
            ["model=smollm2_135m has no weights",
             "set model.path=FOLDER or model.hub_id=OWNER/NAME"],
        ),
        (["model.shape.kv_heads=2"],
         ["model.shape.heads=9 is not a multiple of model.shape.kv_heads=2"]),
    ],
}  # fmt: skip


def test_every_rule_has_a_test():
    assert [rule.__name__ for rule in RULES] == list(BROKEN)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        pytest.param(*case, id=f"{rule.removeprefix('check_')}: {' '.join(case[0])}")
        for rule, cases in BROKEN.items()
        for case in cases
    ],
)
def test_a_broken_rule_names_the_key_and_what_is_allowed(problems, overrides, said):
    (problem,) = problems(*overrides)
    for part in said:
        assert part in problem


@pytest.mark.parametrize(
    "overrides",
    [
        ["training.max_steps=null", "training.epochs=0.5"],
        ["training.max_steps=null", "training.epochs=1", "training.warmup_steps=1000"],
        ["training.max_steps=4", "training.warmup_steps=5"],
        [CARD, "hardware.engine=transformers"],
        [CARD, "hardware.engine=unsloth", "lora.bias=all"],
        ["hardware=cpu", "lora.bias=all"],
        [
            CARD,
            "hardware.offload_layers=auto",
            "hardware.checkpoint_skip_layers=auto",
            "hardware.offload_embedding=auto",
        ],
        [
            CARD,
            "hardware.offload_layers=48",
            "hardware.checkpoint_skip_layers=max",
            "hardware.offload_embedding=false",
        ],
        [f"lora.target_modules=[{','.join(PROJECTIONS[:1])}]"],
        [CARD, "model=phi_4_mini", "lora=attention_only"],
        [CARD, "model=phi_4_mini", "lora.target_modules=[qkv_proj]"],
        ["prompt=direct"],
        ["prompt=direct", "dataset.columns.reasoning=null"],
        ["prompt.question='50 {%} of {question}, {}'"],
        ["dataset.max_cases=17"],
        ["evaluation.answers=16"],
        ["evaluation.answers=0"],
        ["dataset=local", "dataset.path=cases.csv"],
        ["dataset=local", "dataset.hub_id=me/cases"],
        ["model.package=null"],
    ],
    ids=" ".join,
)
def test_what_the_rules_allow(resolved, overrides):
    resolved(*overrides)


def test_all_problems_of_all_rules_are_raised_together(problems):
    said = problems(
        "training.epochs=1",
        "training.optimizer=adamw_8bit",
        "lora.target_modules=[x_proj,y_proj]",
        "dataset=local",
    )
    assert [problem.partition(" ")[0].partition("=")[0] for problem in said] == [
        "training.max_steps",
        "training.optimizer",
        "lora.target_modules",
        "lora.target_modules",
        "dataset",
    ]


def test_all_ranges_of_all_groups_are_raised_together(problems):
    assert problems(
        "lora.r=0", "lora.dropout=2", "training.micro_batch=0", "model.shape.layers=0", "~tracking"
    ) == (
        (
            "model.shape.layers=0 is out of range: allowed is at least 1 (set in"
            " conf/model/smollm2_135m.yaml or on the command line)"
        ),
        (
            "lora.r=0 is out of range: allowed is at least 1 and at most 1024 "
            "(set in conf/lora/all_linear.yaml or on the command line)"
        ),
        (
            "lora.dropout=2.0 is out of range: allowed is at least 0 and at most 0.99 "
            "(set in conf/lora/all_linear.yaml or on the command line)"
        ),
        (
            "training.micro_batch=0 is out of range: allowed is at least 1 (set in"
            " conf/training/cpu.yaml or on the command line)"
        ),
        "tracking has no value: choose tracking=OPTION or set it",
    )


def test_a_group_without_an_option_is_set_on_the_command_line(compose, large_card):
    from medexp.config.resolve import resolve

    with pytest.raises(ConfigError, match=r"\(set on the command line\)$"):
        resolve(compose("lora.r=0"), large_card, Path("/"), {})


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("+lora.rank=8", ["lora.rank does not exist", "there are r, alpha, alpha_ratio, dropout"]),
        ("+training.max_step=8", ["training.max_step does not exist", "did you mean max_steps?"]),
        ("+model.shape.layer=8", ["model.shape.layer does not exist", "did you mean layers?"]),
        ("+optimizer=adam", ["optimizer does not exist", "there are model, lora, dataset"]),
    ],
)
def test_a_key_forced_in_with_a_plus_is_refused(problems, override, said):
    (problem,) = problems(override)
    for part in said:
        assert part in problem


def test_a_tag_of_ones_own_is_no_unknown_key(resolved):
    assert resolved("+tracking.tags.study=pilot").tracking.tags == {"study": "pilot"}


def card(gib: float, has_bfloat16: bool = True, has_fp8: bool = True) -> Machine:
    here = Gpu("the card", int(gib * GIB), has_bfloat16, has_fp8=has_fp8)
    return Machine(cores=8, system="by hand", gpus=(here,))


def test_a_preset_with_a_card_needs_one(resolved, no_card):
    with pytest.raises(
        MachineError,
        match=(
            r"hardware=rtx4050_6gb needs a CUDA card.*use"
            r" hardware=cpu.*nvidia-smi.*CUDA_VISIBLE_DEVICES"
        ),
    ):
        resolved("hardware=rtx4050_6gb", on=no_card)


def test_a_ceiling_above_the_card_is_refused_with_the_card_s_size(problems):
    (problem,) = problems("hardware=rtx3060_12gb", on=card(8))
    assert (
        problem
        == "hardware.vram_ceiling_gib=11 is more than the card has (8.00 GiB); lower it or use"
        " hardware=auto"
    )


def test_a_ceiling_of_the_whole_card_is_allowed(resolved):
    assert resolved("hardware=rtx3060_12gb", on=card(11)).hardware.vram_ceiling_gib == 11


def test_bfloat16_on_a_card_without_it_is_refused(problems, resolved):
    (problem,) = problems(CARD, on=card(24, has_bfloat16=False))
    assert (
        problem
        == "hardware.dtype=bfloat16 is not supported by the card; set hardware.dtype=float16"
    )
    resolved(CARD, "hardware.dtype=float16", on=card(24, has_bfloat16=False))


def test_auto_computes_in_what_the_machine_is_fast_in(resolved, no_card):
    assert resolved("hardware=cpu", on=no_card).hardware.dtype is Dtype.bfloat16
    assert (
        resolved("hardware=cpu", on=replace(no_card, has_bfloat16=False)).hardware.dtype
        is Dtype.float32
    )
    assert resolved(CARD, "hardware.dtype=auto", on=card(24)).hardware.dtype is Dtype.bfloat16
    assert (
        resolved(CARD, "hardware.dtype=auto", on=card(24, has_bfloat16=False)).hardware.dtype
        is Dtype.float16
    )


def test_auto_leaves_fp8_to_cards_that_multiply_it(resolved):
    assert resolved("hardware=rtx4050_6gb", on=card(24)).hardware.fp8 == "auto"
    assert resolved("hardware=rtx4050_6gb", on=card(24, has_fp8=False)).hardware.fp8 is False


def test_what_was_measured_on_this_card_is_added_to_what_the_preset_knows(resolved):
    known = {"kind": "a", "micro_batch": 1, "tokens": 1, "planned_bytes": 1, "measured_bytes": 1}
    known |= {"date": "2026-12-01", "versions": {}}
    here = card(24)
    here = replace(
        here, gpus=(replace(here.gpus[0], measured_steps=({**known, "kind": "b"}, known, {})),)
    )
    words = "{kind: a, micro_batch: 1, tokens: 1, planned_bytes: 1, measured_bytes: 1"
    run = resolved(
        CARD, f"hardware.measured_steps=[{words}, date: '2026-12-01', versions: {{}}}}]", on=here
    )
    assert [step["kind"] for step in run.hardware.measured_steps] == ["a", "b"]


def test_both_problems_of_a_card_are_raised_together(problems):
    assert len(problems(CARD, on=card(8, has_bfloat16=False))) == 2


def test_a_cpu_run_does_not_look_at_cards(resolved, no_card):
    assert resolved("hardware=cpu", on=no_card).hardware.vram_ceiling_gib is None


@pytest.mark.parametrize(
    ("overrides", "engine"),
    [
        (["hardware=cpu"], Engine.transformers),
        ([CARD], Engine.unsloth),
        ([CARD, "hardware.engine=transformers"], Engine.transformers),
    ],
)
def test_engine_auto_is_unsloth_on_a_card(resolved, overrides, engine):
    assert resolved(*overrides).hardware.engine is engine


def test_a_ceiling_that_is_not_set_is_the_card_less_what_others_use(resolved):
    hardware = resolved(
        CARD, "hardware.vram_ceiling_gib=null", "hardware.card_vram_gib=null", on=card(23.6)
    ).hardware
    assert hardware.card_vram_gib == 23.6
    assert hardware.vram_ceiling_gib == 22.85


def test_a_ceiling_that_is_set_stays(resolved):
    assert (
        resolved(CARD, "hardware.vram_ceiling_gib=7.5", on=card(24)).hardware.vram_ceiling_gib
        == 7.5
    )


@pytest.mark.parametrize(
    ("given", "absolute"),
    [
        ("cases.csv", "/launched/here/cases.csv"),
        ("../cases.csv", "/launched/cases.csv"),
        ("/data/cases.csv", "/data/cases.csv"),
        ("'~/cases.csv'", "/home/me/cases.csv"),
    ],
)
def test_paths_are_absolute_from_where_the_command_was_started(
    resolved, monkeypatch, given, absolute
):
    monkeypatch.setenv("HOME", "/home/me")
    run = resolved(
        "dataset=local", f"dataset.path={given}", f"model.path={given}", f"lora.start_from={given}"
    )
    assert (run.dataset.path, run.model.path, run.lora.start_from) == (absolute, absolute, absolute)


@pytest.mark.parametrize(
    ("home", "overrides", "root"),
    [
        (None, [], "/launched/here/mlruns"),
        ("/kept", [], "/kept/mlruns"),
        ("kept", [], "/launched/here/kept/mlruns"),
        ("/kept", ["tracking.root=runs"], "/launched/here/runs"),
    ],
)
def test_runs_are_kept_where_medexp_home_or_the_command_line_says(
    resolved, monkeypatch, home, overrides, root
):
    monkeypatch.delenv("MEDEXP_HOME", raising=False)
    if home is not None:
        monkeypatch.setenv("MEDEXP_HOME", home)
    assert resolved(*overrides).tracking.root == root


def test_what_is_kept_of_a_config_has_absolute_paths(compose):
    words = [
        "dataset=mixture",
        "dataset.mixture=[{use: local, path: a.csv, weight: 1}]",
        "lora.start_from=out/adapter",
    ]
    cfg = compose(*words, "evaluation.benchmark_files.medqa=m.jsonl")
    made = make_paths_absolute(cfg, Path("/launched"))
    assert (made.lora.start_from, made.dataset.mixture[0].path) == (
        "/launched/out/adapter",
        "/launched/a.csv",
    )
    assert made.evaluation.benchmark_files.medqa == "/launched/m.jsonl"
    assert (made.model.path, cfg.lora.start_from) == (None, "out/adapter")


def test_paths_that_are_absolute_or_shipped_stay(compose):
    cfg = compose("model.path=/weights")
    made = make_paths_absolute(cfg, Path("/launched"))
    assert (made.model.path, made.dataset.path) == ("/weights", cfg.dataset.path)


def test_what_is_kept_of_a_config_names_no_user_and_is_read_back_to_the_same(
    compose, tmp_path, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path / "dr.ann"))
    words = [
        "dataset=mixture",
        f"dataset.mixture=[{{use: local, path: {tmp_path}/dr.ann/a.csv, weight: 1}}]",
        "lora.start_from=out",
    ]
    cfg = compose(*words, "model.path=/weights", "evaluation.benchmark_files.medqa=../m.jsonl")
    text = build_kept_yaml(cfg, tmp_path / "dr.ann" / "project")
    assert "dr.ann" not in text
    kept = OmegaConf.create(text)
    assert (kept.lora.start_from, kept.dataset.mixture[0].path) == ("~/project/out", "~/a.csv")
    assert (kept.model.path, kept.evaluation.benchmark_files.medqa) == ("/weights", "~/m.jsonl")
    again = make_paths_absolute(OmegaConf.merge(cfg, kept), tmp_path / "elsewhere")
    assert again.lora.start_from == str(tmp_path / "dr.ann/project/out")


def test_the_shipped_cases_are_kept_by_name(compose):
    text = build_kept_yaml(compose(), Path("/launched"))
    assert "path: ${medexp.shipped:clinical_cases.jsonl}" in text
    assert OmegaConf.create(text).dataset.path == str(SHIPPED / "clinical_cases.jsonl")


def test_the_shape_that_was_read_from_the_weights_is_kept(compose, tiny_model):
    kept = OmegaConf.create(
        build_kept_yaml(compose("model=local", f"model.path={tiny_model}"), Path("/launched"))
    )
    assert (kept.model.shape.layers, kept.model.shape.family) == (2, "llama")
