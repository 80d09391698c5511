"""What a key that is newer than a run, or than a user's own file, is where nobody says it: what
medexp did before the key was there.

So old runs are made again as they were, files written before a key go on composing, and a run that
leaves the new keys at these values is known by the same fingerprint as ever.
"""

from omegaconf import DictConfig, OmegaConf

FORMER_VALUES: dict[str, object] = {
    "model.shape.window": None,
    "hardware.cards": 1,
    "hardware.fp8": False,
    "hardware.measured_steps": [],
    "dataset.validation": 0,
    "dataset.stratify_by": [],
    "dataset.format": "auto",
    "dataset.turns": "last",
    "dataset.test_share": None,
    "dataset.validation_share": 0.0,
    "lora.alpha_ratio": None,
    "lora.init_lora_weights": True,
    "training.loraplus_lr_ratio": None,
    "training.warmup_ratio": None,
    "training.min_lr_ratio": 0.0,
    "training.adam_beta1": 0.9,
    "training.adam_beta2": 0.999,
    "training.adam_epsilon": 1e-8,
    "training.neftune_noise_alpha": None,
    "prompt.form": "text",
    "prompt.system": None,
    "training.keep_best": False,
    "training.early_stopping_patience": None,
    "evaluation.primary": ["diagnosis_likelihood", "must_say_coverage", "knowledge_likelihood"],
    "evaluation.cases": "dataset",
    "evaluation.arms": ["base", "tuned"],
    "evaluation.draws": 1,
    "evaluation.temperature": 0.0,
    "evaluation.likelihoods": False,
    "evaluation.benchmark_files.medbullets": None,
    "evaluation.benchmark_files.medxpertqa": None,
    "evaluation.benchmark_reasoning": False,
    "evaluation.verifier": None,
    "evaluation.verifier_model": None,
}


def fill_former_values(cfg: DictConfig) -> DictConfig:
    """Return `cfg` with the former value of every new key that its groups have and nobody set."""
    filled = OmegaConf.create(cfg)
    for key, value in FORMER_VALUES.items():
        group, _, name = key.rpartition(".")
        # None where the group itself has no value: that is said elsewhere.
        node = OmegaConf.select(filled, group)
        if OmegaConf.is_dict(node) and (name not in node or OmegaConf.is_missing(node, name)):
            OmegaConf.update(filled, key, value, merge=False, force_add=True)
    return filled


def restore_former_values(made: DictConfig, stored: DictConfig) -> None:
    """Put the former value into `made` for every new key that the `stored` config is older than."""
    for key, value in FORMER_VALUES.items():
        group = key.rpartition(".")[0]
        if OmegaConf.select(made, group) is None or OmegaConf.select(stored, group) is None:
            continue
        node = OmegaConf.select(stored, group)
        name = key.rpartition(".")[2]
        if name not in node or OmegaConf.is_missing(node, name):
            OmegaConf.update(made, key, value, merge=False)
