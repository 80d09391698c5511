"""What TRL, PEFT, Transformers, Unsloth, Axolotl and LLaMA-Factory call a setting, in the words of
this project's config.

A user who comes from there types their names first. Each gets one sentence: the key that means the
same, or what is done instead.
"""

import shlex
from collections.abc import Mapping
from enum import Enum
from types import UnionType
from typing import Any, get_args, get_origin

# Our key: their names for it.
_SAME = {
    "training.micro_batch": (
        "per_device_train_batch_size micro_batch_size train_batch_size per_gpu_train_batch_size"
        " batch_size"
    ),
    "training.accumulation": (
        "gradient_accumulation_steps gradient_accumulation grad_accum_steps accumulate_grad_batches"
    ),
    "training.max_steps": "max_steps max_train_steps",
    "training.max_seq_tokens": (
        "max_seq_length max_length cutoff_len sequence_len max_seq_len model_max_length seq_length"
    ),
    "training.learning_rate": "learning_rate lr",
    "training.loraplus_lr_ratio": "loraplus_lr_ratio lora_plus_ratio loraplus_ratio",
    "training.warmup_steps": "warmup_steps num_warmup_steps lr_warmup_steps",
    "training.min_lr_ratio": "min_lr_ratio cosine_min_lr_ratio min_lr_rate",
    "training.adam_beta1": "adam_beta1",
    "training.adam_beta2": "adam_beta2",
    "training.adam_epsilon": "adam_epsilon",
    "training.neftune_noise_alpha": "neftune_noise_alpha neftune_alpha",
    "training.schedule": "lr_scheduler_type lr_scheduler lr_schedule scheduler",
    "training.optimizer": "optim optimizer",
    "training.weight_decay": "weight_decay",
    "training.max_grad_norm": "max_grad_norm gradient_clipping clip_grad_norm",
    "training.group_by_length": "group_by_length",
    "training.seed": "seed random_state random_seed data_seed",
    "training.save_steps": "save_steps saves_steps checkpointing_steps",
    "lora.r": "lora_r lora_rank r rank peft_r",
    "lora.alpha": "lora_alpha alpha",
    "lora.dropout": "lora_dropout",
    "lora.bias": "lora_bias",
    "lora.rank_stabilised": "use_rslora rslora peft_use_rslora",
    "lora.dora": "use_dora dora peft_use_dora",
    "lora.alpha_ratio": "lora_alpha_ratio alpha_ratio",
    "lora.init_lora_weights": "init_lora_weights peft_init_lora_weights",
    "lora.start_from": "adapter_name_or_path lora_model_dir adapter_path",
    "model.revision": "model_revision revision base_model_revision",
    "dataset.max_cases": "max_samples max_train_samples",
    "evaluation.batch_size": "per_device_eval_batch_size eval_batch_size",
    "evaluation.every_steps": "eval_steps",
    "evaluation.max_new_tokens": "max_new_tokens",
    "tracking.run_name": "run_name wandb_run_name wandb_name",
    "tracking.experiment": "wandb_project mlflow_experiment_name project_name",
    "hydra.run.dir": "output_dir output",
    "hardware.cards": "num_processes nproc_per_node n_gpus num_gpus",
}
# Their name: their value -> what is written here.
_BY_VALUE = {
    "load_in_4bit": {"true": "model.quantisation=nf4", "false": "model.quantisation=none"},
    "bf16": {"true": "hardware.dtype=bfloat16", "auto": "hardware.dtype=auto"},
    "fp16": {"true": "hardware.dtype=float16"},
    "torch_dtype": {
        name: f"hardware.dtype={name}" for name in ("auto", "bfloat16", "float16", "float32")
    },
    "quantization_bit": {"4": "model.quantisation=nf4"},
    "gradient_checkpointing": {
        "true": "training.gradient_checkpointing=standard",
        "false": "training.gradient_checkpointing=off",
        "unsloth": "training.gradient_checkpointing=unsloth",
    },
    "lr_scheduler_type": {
        "constant_with_warmup": "training.schedule=constant_with_warmup",
        "cosine_with_min_lr": "training.schedule=cosine training.min_lr_ratio=0.1",
    },
    "pissa_init": {"false": "lora.init_lora_weights=true"},
    "optim": {
        "adamw_bnb_8bit": "training.optimizer=adamw_8bit",
        "adamw_torch_fused": "training.optimizer=adamw_torch",
        "adamw_hf": "training.optimizer=adamw_torch",
    },
    "target_modules": {"all-linear": "lora=all_linear", "all": "lora=all_linear"},
    "train_on_inputs": {"true": "training.loss_on=all", "false": "training.loss_on=completion"},
    "completion_only_loss": {
        "true": "training.loss_on=completion",
        "false": "training.loss_on=all",
    },
    "packing": {"true": "training.batch_by=tokens", "false": "training.batch_by=cases"},
    "torch_compile": {
        "true": "hardware.compile_layers=true",
        "false": "hardware.compile_layers=false",
    },
    "fp8": {"true": "hardware.fp8=true", "false": "hardware.fp8=false"},
    "use_cpu": {"true": "hardware=cpu"},
}
_ALSO = {  # other spellings of the names above
    "dtype": "torch_dtype",
    "mixed_precision": "torch_dtype",
    "use_gradient_checkpointing": "gradient_checkpointing",
    "lora_target_modules": "target_modules",
    "lora_target": "target_modules",
    "peft_target_modules": "target_modules",
    "train_on_responses_only": "completion_only_loss",
    "assistant_only_loss": "completion_only_loss",
    "sample_packing": "packing",
    "padding_free": "packing",
    "no_cuda": "use_cpu",
    "num_epochs": "num_train_epochs",
    "epochs": "num_train_epochs",
    "optimizer": "optim",
    "model_name_or_path": "base_model",
    "model_name": "base_model",
    "model_id": "base_model",
    "pretrained_model_name_or_path": "base_model",
    "base_model_name_or_path": "base_model",
    "datasets": "dataset_name",
    "dataset_path": "dataset_name",
    "dataset_dir": "dataset_name",
    "data_path": "dataset_name",
    "train_file": "dataset_name",
    "train_data": "dataset_name",
    "train_dataset": "dataset_name",
    "test_size": "val_set_size",
    "val_size": "val_set_size",
    "eval_dataset": "val_set_size",
    "evaluation_strategy": "eval_strategy",
    "do_eval": "eval_strategy",
    "evals_per_epoch": "eval_strategy",
    "saves_per_epoch": "save_strategy",
    "overwrite_output_dir": "resume_from_checkpoint",
    "auto_resume_from_checkpoints": "resume_from_checkpoint",
    "template": "chat_template",
    "prompt_template": "chat_template",
    "dataset_text_field": "chat_template",
    "logging_strategy": "logging_steps",
    "logging_dir": "report_to",
    "flash_attention": "attn_implementation",
    "flash_attn": "attn_implementation",
    "fsdp": "deepspeed",
    "ddp_find_unused_parameters": "deepspeed",
    "fsdp_config": "deepspeed",
    "deepspeed_config": "deepspeed",
    "preprocessing_num_workers": "dataloader_num_workers",
    "dataset_num_proc": "dataloader_num_workers",
    "dataset_processes": "dataloader_num_workers",
    "use_liger_kernel": "liger_kernel",
    "use_liger": "liger_kernel",
    "metric_for_best_model": "load_best_model_at_end",
    "hub_model_id": "push_to_hub",
    "hub_token": "token",
    "hf_token": "token",
    "bnb_4bit_compute_dtype": "bnb_4bit_quant_type",
    "bnb_4bit_use_double_quant": "bnb_4bit_quant_type",
    "lora_modules_to_save": "modules_to_save",
    "gpu_memory_limit": "gpu_memory_utilization",
    "max_memory": "gpu_memory_utilization",
    "device_map": "device",
    "finetuning_type": "full_finetuning",
}
_INSTEAD = {  # their name: what is done here
    "num_train_epochs": "write training.epochs={value} training.max_steps=null",
    "warmup_ratio": "write training.warmup_ratio={value} training.warmup_steps=null",
    "load_in_4bit": (
        "4-bit weights are model.quantisation=nf4, unquantised ones model.quantisation=none"
    ),
    "load_in_8bit": (
        "there are no 8-bit weights: 4-bit ones are model.quantisation=nf4, unquantised ones"
        " model.quantisation=none"
    ),
    "quantization_bit": (
        "4-bit weights are model.quantisation=nf4, unquantised ones model.quantisation=none"
    ),
    "bnb_4bit_quant_type": (
        "4-bit weights are model.quantisation=nf4, and what is computed in is hardware.dtype"
    ),
    "bf16": "what is computed in is hardware.dtype, one of auto, bfloat16, float16, float32",
    "fp16": "what is computed in is hardware.dtype, one of auto, bfloat16, float16, float32",
    "torch_dtype": "what is computed in is hardware.dtype, one of auto, bfloat16, float16, float32",
    "tf32": "what is computed in is hardware.dtype, one of auto, bfloat16, float16, float32",
    "gradient_checkpointing": (
        "it is training.gradient_checkpointing, one of unsloth, standard, off"
    ),
    "optim": "it is training.optimizer, one of adamw_torch, adamw_8bit, paged_adamw_8bit",
    "target_modules": (
        "write 'lora.target_modules=[q_proj,v_proj]', or lora=all_linear for every projection"
    ),
    "lora_target_linear": "every linear projection is lora=all_linear, as it is by default",
    "train_on_inputs": (
        "which tokens are in the loss is training.loss_on, one of completion, answer, all"
    ),
    "completion_only_loss": (
        "which tokens are in the loss is training.loss_on, one of completion, answer, all"
    ),
    "packing": (
        "training.batch_by=tokens fills a micro-batch up to training.micro_batch x"
        " training.max_seq_tokens tokens"
    ),
    "torch_compile": "it is hardware.compile_layers, one of true, false, auto",
    "fp8": "it is hardware.fp8, one of true, false, all, auto",
    "use_cpu": "write hardware=cpu",
    "device": "write hardware=cpu or the preset of a card, as in hardware=auto",
    "base_model": (
        "choose one with model=OPTION, or a checkpoint of your own with model=local"
        " model.path=FOLDER"
    ),
    "model_type": (
        "it is read from the weights; choose them with model=OPTION, or model=local"
        " model.path=FOLDER"
    ),
    "tokenizer_name": (
        "the tokenizer is that of the weights: model=OPTION, or model=local model.path=FOLDER"
    ),
    "dataset_name": "write dataset=local dataset.path=FILE (JSON, JSONL, CSV, TSV or Parquet)",
    "dataset_format": (
        "which column is what is dataset.columns.question, dataset.columns.reasoning and"
        " dataset.columns.answer"
    ),
    "val_set_size": "how many cases are held out is dataset.held_out, a count",
    "eval_strategy": (
        "the held-out loss is measured every evaluation.every_steps steps, before and after"
    ),
    "save_strategy": "a checkpoint is written every training.save_steps steps",
    "save_total_limit": (
        "the two newest checkpoints of an unfinished run are kept; how often one is written is"
        " training.save_steps"
    ),
    "resume_from_checkpoint": (
        "the same command continues an interrupted run by itself; training.resume=never starts"
        " afresh"
    ),
    "chat_template": (
        "what a case looks like is prompt=OPTION, and which column is what dataset.columns"
    ),
    "logging_steps": "every step is logged, there is nothing to set",
    "report_to": "every run is kept in MLflow, under tracking.root",
    "attn_implementation": "the engine chooses it, there is nothing to set",
    "liger_kernel": "on a card hardware.engine=unsloth brings fused kernels of its own",
    "use_unsloth": "which engine trains is hardware.engine, one of auto, unsloth, transformers",
    "deepspeed": (
        "each card of hardware.cards=N holds the whole model, and nothing is sharded; what does not"
        " fit on one is streamed from the host (hardware.offload_layers)"
    ),
    "dataloader_num_workers": (
        "there is nothing to set: the cases are tokenised once, before training"
    ),
    "load_best_model_at_end": (
        "write training.keep_best=true with dataset.validation=N; the best of several runs is found"
        " by a sweep (-m)"
    ),
    "push_to_hub": (
        "a finished run goes to the Hub by python -m medexp.export run=last push=true"
        " export.repo=OWNER/NAME"
    ),
    "token": "it is read from the environment variable HF_TOKEN",
    "lr_scheduler_kwargs": (
        "where linear and cosine end is training.min_lr_ratio, a share of training.learning_rate"
    ),
    "loftq_config": (
        "how the matrices begin is lora.init_lora_weights, true or gaussian: others change the base"
    ),
    "pissa_init": (
        "PiSSA changes the base's weights; how the matrices begin is lora.init_lora_weights, true"
        " or gaussian"
    ),
    "modules_to_save": "an adapter holds LoRA matrices alone (lora.target_modules)",
    "layers_to_transform": (
        "every layer has an adapter; which projections do is lora.target_modules"
    ),
    "gpu_memory_utilization": (
        "what a run may take of the card is hardware.vram_ceiling_gib, in GiB"
    ),
    "adapter": (
        "what is trained is a LoRA adapter; with 4-bit weights (QLoRA) that is"
        " model.quantisation=nf4"
    ),
    "full_finetuning": (
        "what is trained is an adapter (LoRA), on weights that stay as they are; set its width with"
        " lora.r"
    ),
    "temperature": (
        "how an answer is drawn is said when one is asked for: python -m medexp.ask run=last"
        " ask.temperature=0.7"
    ),
}
_PLANNED = ("training.micro_batch", "training.accumulation")
_KEYS = {name: key for key, names in _SAME.items() for name in names.split()}


def translate_name(name: str, value: str | None, keys: Mapping[str, Any]) -> str | None:
    """Return what is written here for the last part of `name`, with `value` where it is one that
    the key takes (`keys` has the types).

    None where it is no name of another library, or where this command has no such key.
    """
    theirs = name.rpartition(".")[2].replace("-", "_").lower()
    theirs = _ALSO.get(theirs, theirs) if theirs not in _INSTEAD else theirs
    if (
        ours := _BY_VALUE.get(theirs, {}).get((value or "").lower())
    ) is not None and "training" in keys:
        return f"write {ours}"
    if theirs in _KEYS and theirs not in _INSTEAD:
        return _explain_key(_KEYS[theirs], value, keys)
    if theirs in _KEYS and value is not None and _takes(keys.get(_KEYS[theirs]), value):
        return _explain_key(_KEYS[theirs], value, keys)
    if theirs in _INSTEAD and "training" in keys:
        return _INSTEAD[theirs].format(
            value=value if value is not None and _takes(float, value) else "NUMBER"
        )
    return None


def _explain_key(key: str, value: str | None, keys: Mapping[str, Any]) -> str | None:
    if key not in keys and not key.startswith("hydra."):
        return None
    kind = keys.get(key, str)
    words = [
        member.name
        for option in _list_types(kind)
        if isinstance(option, type) and issubclass(option, Enum)
        for member in option
    ]
    planned = (
        "; on a card the plan chooses it, and training.plan=manual keeps yours"
        if key in _PLANNED
        else ""
    )
    if value is not None and _takes(kind, value):
        return f"write {shlex.quote(f'{key}={value}')}{planned}"
    return f"it is {key}{', one of ' + ', '.join(words) if words else ''}{planned}"


def _takes(kind: Any, value: str) -> bool:
    """Return whether `value`, as typed, can become a `kind`."""
    return any(_can_become(option, value) for option in _list_types(kind))


def _list_types(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if isinstance(kind, UnionType) else (kind,)


def _can_become(kind: Any, value: str) -> bool:
    if kind is None or get_origin(kind) is not None or not isinstance(kind, type):
        return False
    if issubclass(kind, Enum):
        return value in kind.__members__
    if kind is bool:
        return value.lower() in ("true", "false")
    if kind in (int, float):
        try:
            kind(value)
        except ValueError:
            return False
    return kind is not type(None)
