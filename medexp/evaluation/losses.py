"""Held-out loss: the mean negative log-likelihood of the labelled tokens, weighted token by token, so that neither batch size nor
padding changes it.

Logits are made for a few hundred labelled positions at a time: a vocabulary of 128,256 in float32 would take 1 GB for 2,048.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from medexp.data.encoding import IGNORED, Encoded
from medexp.tuned import Tuned

CHUNK_TOKENS = 256  # labelled positions whose logits exist at once: 125 MiB in float32 for the Llama-3 vocabulary


@dataclass(frozen=True)
class CaseLoss:
    """The summed negative log-likelihood of a case's labelled tokens, in nats, and how many they are."""

    nats: float
    tokens: int

    @property
    def per_token(self) -> float:
        """Nats a token of this case."""
        return self.nats / self.tokens


def held_out_loss(tuned: Tuned, cases: Sequence[Encoded], batch_size: int) -> float:
    """Nats a labelled token over `cases`."""
    return mean_loss(case_losses(tuned, cases, batch_size))


def mean_loss(losses: Sequence[CaseLoss]) -> float:
    """Nats a token over all cases, every token counting the same."""
    return sum(loss.nats for loss in losses) / sum(loss.tokens for loss in losses)


def case_losses(tuned: Tuned, cases: Sequence[Encoded], batch_size: int) -> list[CaseLoss]:
    """The loss of every case, in their order; in evaluation mode and without gradients, the mode is put back.

    Batches are sorted by length; the result does not depend on the batch.
    """
    order = sorted(range(len(cases)), key=lambda index: len(cases[index].input_ids))
    found: dict[int, CaseLoss] = {}
    with tuned.evaluating():
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            found |= zip(batch, _batch_losses(tuned, [cases[index] for index in batch]), strict=True)
    return [found[index] for index in range(len(cases))]


def _batch_losses(tuned: Tuned, batch: Sequence[Encoded]) -> list[CaseLoss]:
    import torch
    from torch.nn.functional import cross_entropy

    causal, device = tuned.network.get_base_model(), tuned.device
    longest = max(len(case.input_ids) for case in batch)
    ids = torch.tensor([case.input_ids + [0] * (longest - len(case.input_ids)) for case in batch], device=device)
    labels = torch.tensor([case.labels + [IGNORED] * (longest - len(case.labels)) for case in batch], device=device)
    hidden = causal.model(input_ids=ids, use_cache=False)[0][:, :-1]  # causal: padding on the right cannot be seen
    targets = labels[:, 1:]
    kept = targets != IGNORED
    hidden, targets, rows = hidden[kept], targets[kept], kept.nonzero()[:, 0]
    nats = torch.zeros(len(batch), dtype=torch.float64, device=device)
    for start in range(0, len(targets), CHUNK_TOKENS):
        chunk = slice(start, start + CHUNK_TOKENS)
        losses = cross_entropy(causal.lm_head(hidden[chunk]).float(), targets[chunk], reduction="none")
        nats.index_add_(0, rows[chunk], losses.double())
    return [CaseLoss(total, tokens) for total, tokens in zip(nats.tolist(), kept.sum(dim=1).tolist(), strict=True)]
