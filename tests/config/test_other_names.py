"""Who types a name of another library is told in one sentence what is written here, and that can be
typed.
"""

import re

import pytest

from medexp.config import other_names
from medexp.config.command_line import make_readable
from medexp.config.command_options import TrainConfig
from medexp.config.hydra_errors import list_keys
from medexp.config.other_names import translate_name
from medexp.errors import ConfigError

KEYS = dict(list_keys(TrainConfig))
EVERY = sorted(
    {*other_names._KEYS, *other_names._BY_VALUE, *other_names._ALSO, *other_names._INSTEAD}
)
PLANNED = "; on a card the plan chooses it, and training.plan=manual keeps yours"
TYPED = [
    # Transformers, TRL
    ("per_device_train_batch_size=4", f"write training.micro_batch=4{PLANNED}"),
    ("training.gradient_accumulation_steps=2", f"write training.accumulation=2{PLANNED}"),
    ("num_train_epochs=3", "write training.epochs=3 training.max_steps=null"),
    ("max_length=512", "write training.max_seq_tokens=512"),
    ("lr_scheduler_type=cosine", "write training.schedule=cosine"),
    (
        "lr_scheduler_type=polynomial",
        "it is training.schedule, one of linear, cosine, constant, constant_with_warmup",
    ),
    ("optim=adamw_torch_fused", "write training.optimizer=adamw_torch"),
    ("optim=adamw_8bit", "write training.optimizer=adamw_8bit"),
    (
        "optim=lion_8bit",
        "it is training.optimizer, one of adamw_torch, adamw_8bit, paged_adamw_8bit",
    ),
    ("output_dir=./out", "write hydra.run.dir=./out"),
    ("eval_steps=10", "write evaluation.every_steps=10"),
    ("gradient_checkpointing=true", "write training.gradient_checkpointing=standard"),
    ("bf16=True", "write hardware.dtype=bfloat16"),
    # PEFT
    ("lora.lora_alpha=32", "write lora.alpha=32"),
    ("use_rslora=true", "write lora.rank_stabilised=true"),
    ("target_modules=all-linear", "write lora=all_linear"),
    # Unsloth
    ("max_seq_length=1024", "write training.max_seq_tokens=1024"),
    ("load_in_4bit=true", "write model.quantisation=nf4"),
    ("random_state=1", "write training.seed=1"),
    ("use_gradient_checkpointing=unsloth", "write training.gradient_checkpointing=unsloth"),
    # Axolotl
    ("micro_batch_size=2", f"write training.micro_batch=2{PLANNED}"),
    ("sequence_len=2048", "write training.max_seq_tokens=2048"),
    ("lora_r=8", "write lora.r=8"),
    (
        "base_model=x",
        (
            "choose one with model=OPTION, or a checkpoint of your own with model=local"
            " model.path=FOLDER"
        ),
    ),
    ("sample_packing=true", "write training.batch_by=tokens"),
    # LLaMA-Factory
    ("cutoff_len=2048", "write training.max_seq_tokens=2048"),
    ("lora_rank=8", "write lora.r=8"),
    ("quantization_bit=4", "write model.quantisation=nf4"),
    (
        "model_name_or_path=x",
        (
            "choose one with model=OPTION, or a checkpoint of your own with model=local"
            " model.path=FOLDER"
        ),
    ),
    (
        "neftune_noise_alpha=5",
        "write training.neftune_noise_alpha=5",
    ),
    ("loraplus_lr_ratio=16", "write training.loraplus_lr_ratio=16"),
    ("adam_beta2=0.95", "write training.adam_beta2=0.95"),
    ("warmup_ratio=0.03", "write training.warmup_ratio=0.03 training.warmup_steps=null"),
    ("init_lora_weights=gaussian", "write lora.init_lora_weights=gaussian"),
    (
        "lr_scheduler_type=cosine_with_min_lr",
        "write training.schedule=cosine training.min_lr_ratio=0.1",
    ),
]


@pytest.mark.parametrize(("word", "meant"), TYPED, ids=[word for word, _ in TYPED])
def test_a_name_of_another_library_is_answered_with_ours(word, meant):
    with pytest.raises(ConfigError) as refused:
        make_readable([word], TrainConfig)
    assert refused.value.problems == (f"{word.partition('=')[0]} does not exist; {meant}",)


def test_every_name_has_a_sentence_whose_keys_exist(compose):
    hydra_too = KEYS | {"hydra.run.dir": str, "ask.temperature": float, "export.repo": str}
    said = {
        text
        for name in EVERY
        for value in (None, "1", "true", "x")
        if (text := translate_name(name, value, KEYS))
    }
    assert all(translate_name(name, None, KEYS) for name in EVERY)
    named = {key for text in said for key in re.findall(r"\b(?:[a-z]+\.)+[a-z_]+\b", text)}
    assert named - {"medexp.ask", "medexp.export"} <= set(hydra_too)


def test_what_is_told_can_be_typed(compose):
    told = {text for _, text in TYPED} | {
        text for each in other_names._BY_VALUE.values() for text in each.values()
    }
    words = {word.rstrip(";,") for text in told for word in re.findall(r"[a-z_.]+=[\w./-]+", text)}
    words -= {"model=OPTION", "model.path=FOLDER", "training.warmup_steps=NUMBER"}
    assert len(words) > 30
    compose(*make_readable(sorted(words), TrainConfig))  # raises what a user would read


def test_keys_of_our_own_are_not_renamed():
    assert make_readable(
        [f"{key}=1" for key in ("lora.r", "training.seed", "dataset.revision")], TrainConfig
    )
