import pytest

from medexp.config.hydra_errors import explain_hydra_error, list_keys
from medexp.config.resolve import resolve
from medexp.config.schema import RunConfig

GROUPS = "model, lora, dataset, prompt, training, evaluation, tracking, hardware"
LORA = (
    "lora has r, alpha, alpha_ratio, dropout, bias, target_modules, rank_stabilised, dora,"
    " init_lora_weights, start_from"
)

TYPED = [
    # a key that does not exist
    ("lora.rnk=8", f"lora.rnk does not exist; {LORA}; did you mean lora.r?"),
    ("lora.rank=8", "lora.rank does not exist; it is lora.r"),
    (
        "evaluation.max_new_token=5",
        "evaluation.max_new_token does not exist; evaluation has answers, max_new_tokens, "
        "batch_size, max_seq_tokens, every_steps, primary, cases, arms, draws, temperature, "
        "likelihoods, reuse_base, embedding, benchmarks, benchmark_files, benchmark_limit, "
        "benchmark_reasoning, verifier, verifier_model, judge; "
        "did you mean evaluation.max_new_tokens?",
    ),
    (
        "dataset.columns.reasonin=null",
        "dataset.columns.reasonin does not exist; dataset.columns has question, reasoning, answer; "
        "did you mean dataset.columns.reasoning?",
    ),
    ("learning_rate=3", "learning_rate does not exist; it is training.learning_rate"),
    ("trainig.max_steps=3", "trainig.max_steps does not exist; it is training.max_steps"),
    ("trainig.loss_on=all",
     f"trainig.loss_on does not exist; the run has {GROUPS}; did you mean training.loss_on?"),
    ("models=x", f"models does not exist; the run has {GROUPS}; did you mean model?"),
    ("zzzz=1", f"zzzz does not exist; the run has {GROUPS}"),
    # a group option that does not exist
    (
        "dataset=clinical_case",
        "dataset=clinical_case does not exist; there are clinical_cases, local, medical_o1, "
        "medical_o1_structured, mixture; did you mean clinical_cases?; "
        "cases of your own: dataset=local dataset.path=FILE",
    ),
    (
        "model=unsloth/Llama-3.2-1B",
        "model=unsloth/Llama-3.2-1B does not exist; there are deepseek_r1_distill_llama_8b, "
        "deepseek_r1_distill_qwen_14b, deepseek_r1_distill_qwen_1_5b, "
        "deepseek_r1_distill_qwen_32b, gemma3_4b_it, hub, llama_3_1_8b_instruct, llama_3_2_3b, "
        "local, medgemma_4b_it, mistral_7b_instruct, phi_4_mini, qwen3_4b, qwen3_8b, smollm2_135m; "
        "weights of your own: model=local model.path=FOLDER; "
        "of the Hub: model=hub model.hub_id=OWNER/NAME",
    ),
    ("+debug=fast", "debug is there already; write debug=OPTION, once and without a +"),
    ("debug=zzz", "debug=zzz does not exist; there are fast, overfit"),
    (
        "lora=null",
        "Config group override must be a string or a list. Got NoneType: "
        "a group is set to the name of one of its options, as in hardware=cpu",
    ),
    # a value of the wrong type
    (
        "training.schedule=linaer",
        "training.schedule=linaer is not allowed; allowed are linear, cosine, constant, "
        "constant_with_warmup; did you mean linear?",
    ),
    ("model.shape.family=gemma",
     "model.shape.family=gemma is not allowed; allowed are llama, qwen2, qwen3, gemma3_text,"
     " mistral, phi3, granite, olmo2, smollm3; did you mean gemma3_text?"),
    ("lora.r=abc",
     "lora.r: Value 'abc' of type 'str' could not be converted to Integer; allowed is int"),
    ("lora.r=1.5",
     "lora.r: Value '1.5' of type 'float' could not be converted to Integer; allowed is int"),
    ("lora.r=null", "lora.r: field 'lora.r' is not Optional; allowed is int"),
    ("training.epochs=a",
     "training.epochs: Value 'a' of type 'str' could not be converted to Float; allowed is float "
     "or null"),
    ("lora.dora=maybe", "lora.dora: Value 'maybe' is not a valid bool (type str); allowed is bool"),
    (
        "lora.target_modules=q_proj",
        "lora.target_modules: Invalid value assigned: str is not a ListConfig, list or tuple; "
        "allowed is list[str], as in 'lora.target_modules=[A,B]'",
    ),
    (
        "tracking.tags=3",
        "tracking.tags: Cannot assign int to Dict[str, str]; allowed is dict[str, str], as in "
        "'tracking.tags={A: B}'",
    ),
    ("~lora.r", "lora.r cannot be taken away; leave the ~ out and set it: lora.r=VALUE"),
    # a line that cannot be read
    ("lora.r",
     "'lora.r' cannot be read: Error parsing override 'lora.r'. Write key=value, quoted where it "
     "has spaces or commas"),
    (
        "tracking.tags={a",
        "'tracking.tags={a' cannot be read: no viable alternative at input '{a'. "
        "Write key=value, quoted where it has spaces or commas",
    ),
    ("lora.r=4,8", "Ambiguous value for argument 'lora.r=4,8'"),
]  # fmt: skip


@pytest.mark.parametrize(("override", "sentence"), TYPED, ids=[override for override, _ in TYPED])
def test_a_mistyped_override_is_one_sentence(compose, override, sentence):
    with pytest.raises(Exception) as refused:  # noqa: PT011 - Hydra has a dozen kinds
        compose(override)
    assert explain_hydra_error(refused.value, RunConfig) == sentence


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("lora.r=${nope}", "lora.r: Interpolation key 'nope' not found"),
        (
            "training.seed=${oc.env:MEDEXP_NOT_SET}",
            (
                'training.seed: KeyError raised while resolving interpolation: "Environment'
                " variable 'MEDEXP_NOT_SET' not found\""
            ),
        ),
    ],
)
def test_a_reference_to_nothing_is_one_sentence(compose, large_card, tmp_path, override, sentence):
    cfg = compose(override)
    with pytest.raises(Exception) as refused:  # noqa: PT011
        resolve(cfg, large_card, tmp_path, {})
    assert explain_hydra_error(refused.value, RunConfig) == sentence


@pytest.mark.parametrize(
    "error", [ValueError("a defect"), KeyError("x"), OSError("disk"), RuntimeError()]
)
def test_a_defect_is_not_explained_away(error):
    assert explain_hydra_error(error, RunConfig) is None


def test_keys_have_dotted_names_and_types():
    keys = dict(list_keys(RunConfig))
    assert keys["lora.r"] is int
    assert keys["model.shape.layers"] is int
    assert keys["dataset.columns.reasoning"] == str | None
    assert not any(name.endswith("inside") for name in keys)
