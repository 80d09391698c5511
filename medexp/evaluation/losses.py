"""Held-out loss: the mean negative log-likelihood of the labelled tokens, weighted token by token,
so that neither batch size nor padding changes it but by rounding: in bfloat16 a case's loss differs
by about 1e-3 between batches of another shape.

Logits are made for a few hundred labelled positions at a time: a vocabulary of 128,256 in float32
would take 1 GB for 2,048.
"""

from collections.abc import Sequence

from medexp.data.encoding import IGNORED, EncodedCase
from medexp.evaluation.record import CaseLoss, mean_loss
from medexp.models.adapter_model import AdapterModel

# labelled positions whose logits exist at once: 125 MiB in float32 for the Llama-3 vocabulary
CHUNK_TOKENS = 256


def measure_mean_loss(model: AdapterModel, cases: Sequence[EncodedCase], batch_size: int) -> float:
    """Return the nats a labelled token over `cases`."""
    return mean_loss(measure_case_losses(model, cases, batch_size))


def measure_case_losses(
    model: AdapterModel,
    cases: Sequence[EncodedCase],
    batch_size: int,
    answer_starts: Sequence[int] | None = None,
) -> list[CaseLoss]:
    """Return the loss of every case, in their order; in evaluation mode and without gradients, the
    mode is put back.

    `answer_starts` (positions in `input_ids`) tells the answer's share apart, in the same pass;
    without it the share is 0. Batches are sorted by length; on the batch a result depends by
    rounding alone (1e-3 in bfloat16).
    """
    order = sorted(range(len(cases)), key=lambda index: len(cases[index].input_ids))
    starts = answer_starts if answer_starts is not None else [len(case.input_ids) for case in cases]
    by_case: dict[int, CaseLoss] = {}
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    given = [[(cases[index], starts[index]) for index in batch] for batch in batches]
    with model.evaluation_mode():
        for place, losses in model.share(_measure_batch, given):
            by_case |= zip(batches[place], losses, strict=True)
    return [by_case[index] for index in range(len(cases))]


def _measure_batch(model: AdapterModel, given: Sequence[tuple[EncodedCase, int]]) -> list[CaseLoss]:
    """Return the loss of each case, of which `given` holds the start of its answer, too."""
    import torch
    from torch.nn.functional import cross_entropy

    batch, answer_starts = zip(*given, strict=True)
    causal, device = model.network.get_base_model(), model.device
    longest = max(len(case.input_ids) for case in batch)
    ids = torch.tensor(
        [case.input_ids + [0] * (longest - len(case.input_ids)) for case in batch], device=device
    )
    labels = torch.tensor(
        [case.labels + [IGNORED] * (longest - len(case.labels)) for case in batch], device=device
    )
    # Attention is causal: no token sees the padding on its right.
    hidden = causal.model(input_ids=ids, use_cache=False)[0][:, :-1]
    targets = labels[:, 1:]
    is_labelled = targets != IGNORED
    rows, columns = is_labelled.nonzero(as_tuple=True)
    in_answer = columns + 1 >= torch.tensor(answer_starts, device=device)[rows]
    # Two bins a case: what comes before the answer, and the answer.
    bins = 2 * rows + in_answer
    hidden, targets = hidden[is_labelled], targets[is_labelled]
    nats = torch.zeros(2 * len(batch), dtype=torch.float64, device=device)
    for start in range(0, len(targets), CHUNK_TOKENS):
        chunk = slice(start, start + CHUNK_TOKENS)
        losses = cross_entropy(
            causal.lm_head(hidden[chunk]).float(), targets[chunk], reduction="none"
        )
        nats.index_add_(0, bins[chunk], losses.double())
    tokens = torch.bincount(bins, minlength=2 * len(batch))
    return [
        CaseLoss(before + answer, count_before + count_answer, answer, count_answer)
        for (before, answer), (count_before, count_answer) in zip(
            nats.view(-1, 2).tolist(), tokens.view(-1, 2).tolist(), strict=True
        )
    ]
