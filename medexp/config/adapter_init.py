"""How an adapter's matrices may begin: only so that the tuned model begins as the base, on weights
that stay as they were stored.

Other beginnings that PEFT knows (`LoraConfig.init_lora_weights`) are refused, each with its reason.
"""

# PiSSA and the like subtract what the adapter begins with from the base (peft.tuners.lora.layer).
_CHANGES_BASE = (
    "it changes the base's weights, so that neither the base's answers, nor streamed layers, nor an"
    " export on the released weights would be those of the base"
)
_READS_DATA = (
    "it is computed from activations or gradients of data, which medexp does not run first"
)
_REASONS = {
    "pissa": _CHANGES_BASE,
    "olora": _CHANGES_BASE,
    "loftq": _CHANGES_BASE,
    "corda": f"{_CHANGES_BASE}, and {_READS_DATA}",
    "lora_ga": f"{_CHANGES_BASE}, and {_READS_DATA}",
    "eva": _READS_DATA,
    "orthogonal": (
        "neither matrix is zero, so the tuned model begins as the base but for rounding, and PEFT"
        " cannot make it on NF4 weights"
    ),
    "mica": "B stays as it begins, so half of the planned parameters would not be trained",
    "false": "B begins at random, so the tuned model would not begin as the base",
}


def is_offered_init(init: object) -> bool:
    """Return whether an adapter may begin so."""
    return init is True or init == "gaussian"


def explain_init(init: object) -> str:
    """Return why an adapter may not begin so."""
    name = str(init).lower().partition("_niter_")[0]
    return _REASONS.get(name, "PEFT has no such beginning, or medexp does not know it")
