"""Held-out loss: the mean negative log-likelihood of the labelled tokens, weighted token by token, so that neither batch size nor
padding changes it.

Logits are made for a few hundred labelled positions at a time: a vocabulary of 128,256 in float32 would take 1 GB for 2,048.
"""

from collections.abc import Sequence

from medexp.data.encoding import IGNORED, Encoded
from medexp.tuned import Tuned

CHUNK_TOKENS = 256  # labelled positions whose logits exist at once: 125 MiB in float32 for the Llama-3 vocabulary


def held_out_loss(tuned: Tuned, cases: Sequence[Encoded], batch_size: int) -> float:
    """Nats a labelled token over `cases`, in evaluation mode and without gradients; the mode is put back.

    Batches are sorted by length; the result does not depend on the order.
    """
    ordered = sorted(cases, key=lambda case: len(case.input_ids))
    total, tokens = 0.0, 0
    with tuned.evaluating():
        for start in range(0, len(ordered), batch_size):
            batch_total, batch_tokens = _batch_nll(tuned, ordered[start : start + batch_size])
            total, tokens = total + batch_total, tokens + batch_tokens
    return total / tokens


def _batch_nll(tuned: Tuned, batch: Sequence[Encoded]) -> tuple[float, int]:
    import torch
    from torch.nn.functional import cross_entropy

    causal, device = tuned.network.get_base_model(), tuned.device
    longest = max(len(case.input_ids) for case in batch)
    ids = torch.tensor([case.input_ids + [0] * (longest - len(case.input_ids)) for case in batch], device=device)
    labels = torch.tensor([case.labels + [IGNORED] * (longest - len(case.labels)) for case in batch], device=device)
    hidden = causal.model(input_ids=ids, use_cache=False)[0][:, :-1]  # causal: padding on the right cannot be seen
    targets = labels[:, 1:]
    kept = targets != IGNORED
    hidden, targets = hidden[kept], targets[kept]
    total = 0.0
    for start in range(0, len(targets), CHUNK_TOKENS):
        logits = causal.lm_head(hidden[start : start + CHUNK_TOKENS]).float()
        total += cross_entropy(logits, targets[start : start + CHUNK_TOKENS], reduction="sum").item()
    return total, len(targets)
