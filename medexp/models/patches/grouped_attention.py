"""Causal attention whose backward pass goes through a group of its heads at a time.

    # the layers of an Unsloth model, from now on; None where that can be had
    why_not = patch_attention(unsloth.utils.attention_dispatch, heads, device, dtype)

Beside its gradients, the backward pass of attention holds sums in 32 bits of those of the queries,
and gradients of keys and values for every head of the queries: as much again as the gradients twice
over. Heads know nothing of each other, so a quarter of them at a time takes a quarter of it. The
kernels are those that torch takes for the whole; the forward pass is one call.

cuDNN prepares itself for every new length (150 ms), so Unsloth pads cases to the next 128 tokens,
and those that have a multiple of 128 by 128 more. Here a case is padded only where it needs to be,
and no padded copy is kept.

Source: `_run_attention` of unsloth.utils.attention_dispatch.
"""

from typing import Any, NamedTuple

import torch
from torch.nn.attention import SDPBackend

from medexp.planning.pieces import count_groups
from medexp.system import private_names

# cuDNN's plans are made for multiples of it.
BLOCK = 128
# Gradients on random numbers differ by less of their norm; both are rounded to 16 bits.
TOLERANCE = 0.01
_TRIED = (2, 192)


class Heads(NamedTuple):
    """How many heads queries have, how many keys and values, and how wide one is."""

    queries: int
    keys: int
    width: int


def patch_attention(dispatch: Any, shape: Heads, device: Any, dtype: Any) -> str | None:
    """Let layers whose cases are attended to causally go back through their attention in groups of
    heads; returns why they do not, in words, None where they do.

    `dispatch` is unsloth.utils.attention_dispatch; whatever else it is asked for stays its own.
    """
    whole = private_names.ATTENTION.of(dispatch)
    if whole is None:
        return private_names.ATTENTION.absence()
    if hasattr(whole, "medexp_whole"):
        whole = whole.medexp_whole
    backend = choose_backend(shape, device, dtype)
    if backend not in _KERNELS:
        return f"torch takes {backend.name} for it here, which needs all heads at once"
    if (wrong := find_difference(shape, device, dtype, backend)) is not None:
        return wrong
    number = int(backend.value)

    def attend(*, config: Any, context: Any, **heads: Any) -> Any:
        query, key, value = heads["Q"], heads["K"], heads["V"]
        if not _is_plain(config, context, query):
            return whole(config=config, context=context, **heads)
        return causal_attention(query, key, value, number)[0].transpose(1, 2)

    attend.medexp_whole = whole  # type: ignore[attr-defined]
    setattr(dispatch, private_names.ATTENTION.last, attend)
    return None


def choose_backend(heads: Heads, device: Any, dtype: Any) -> SDPBackend:
    """Return the kernels that torch takes for attention of these `heads`."""
    query, key = (
        torch.empty(1, count, BLOCK, heads.width, device=device, dtype=dtype)
        for count in (heads.queries, heads.keys)
    )
    is_grouped = heads.queries != heads.keys
    chosen = torch._fused_sdp_choice(query, key, key, is_causal=True, enable_gqa=is_grouped)
    return SDPBackend(chosen)


def find_difference(heads: Heads, device: Any, dtype: Any, backend: SDPBackend) -> str | None:
    """Return in which gradients attention in groups differs from torch's own, in words; None where
    they are the same within rounding. The random numbers of this process are not touched."""
    cases, tokens = _TRIED
    with torch.random.fork_rng([device] if torch.device(device).type == "cuda" else []):
        torch.manual_seed(0)
        counts = (heads.queries, heads.keys, heads.keys)
        inputs = [
            torch.randn(cases, tokens, count, heads.width, device=device, dtype=dtype)
            .transpose(1, 2)
            .requires_grad_()
            for count in counts
        ]
        gradient = torch.randn_like(inputs[0])
    repeated = [inputs[0], *(_repeat(each, heads.queries // heads.keys) for each in inputs[1:])]
    out = torch.nn.functional.scaled_dot_product_attention(*repeated, is_causal=True)
    expected = torch.autograd.grad(out, inputs, gradient)
    try:
        found_out, _ = causal_attention(*inputs, int(backend.value))
        found = torch.autograd.grad(found_out, inputs, gradient)
    except Exception as error:
        return f"it failed on random numbers ({type(error).__name__}: {str(error)[:160]})"
    for name, ours, theirs in zip(
        ("its output", "queries", "keys", "values"),
        (found_out, *found),
        (out, *expected),
        strict=True,
    ):
        right = theirs.detach().float()
        apart = (ours.detach().float() - right).norm() / right.norm()
        if not float(apart) <= TOLERANCE:
            return f"{name} differed from torch's own on random numbers, by {float(apart):.3f}"
    return None


def _is_plain(config: Any, context: Any, query: Any) -> bool:
    """Return whether cases of a training step attend to all that came before, and to nothing
    else."""
    window, tokens = context.sliding_window, context.kv_seq_len
    return (
        context.training
        and context.is_causal
        and context.q_len == tokens
        and context.seq_info is None
        and context.attention_mask is None
        and context.prefix_seg_info is None
        and (window is None or window <= 0 or window >= tokens)
        and not config.sdpa_kwargs
        and not config.xformers_kwargs
        and all(key in ("causal", "window_size") for key in config.flash_dense_kwargs or ())
        and query.dtype in (torch.bfloat16, torch.float16)
    )


@torch.library.custom_op("medexp::causal_attention", mutates_args=())
def causal_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, backend: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the attention of `query` [cases, heads, tokens, width] to what came before, of the
    same shape, and the logarithms of its sums, float32 [cases, heads, tokens]. `key` and `value`
    may have fewer heads. `backend` is one of torch.nn.attention.SDPBackend."""
    kernel = _find_kernel(backend, query)
    tokens = query.shape[2]
    padded = [_pad(each, kernel.block) for each in (query, key, value)]
    out, sums = kernel.forward(*padded)
    return _lie_by_tokens(out[:, :, :tokens]), sums[:, :, :tokens].contiguous()


@causal_attention.register_fake
def _(query: Any, *_: Any) -> tuple[Any, Any]:
    return _empty(query), query.new_empty(query.shape[:3], dtype=torch.float32)


@torch.library.custom_op("medexp::causal_attention_backward", mutates_args=())
def causal_attention_backward(
    gradient: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
    out: torch.Tensor, sums: torch.Tensor, backend: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Return the gradients of `query`, `key` and `value` for that of `out`."""
    kernel = _find_kernel(backend, query)
    cases, heads, tokens, _ = query.shape
    repeats = heads // key.shape[1]
    gradients = [_empty(each) for each in (query, key, value)]
    step = key.shape[1] // count_groups(key.shape[1], cases * tokens)
    for first in range(0, key.shape[1], step):
        narrow = slice(first, first + step)
        wide = slice(repeats * first, repeats * (first + step))
        parts = [query[:, wide], key[:, narrow], value[:, narrow], out[:, wide]]
        given = [_pad(part, kernel.block) for part in (gradient[:, wide], *parts)]
        found = kernel.backward(*given, _pad(sums[:, wide, :, None], kernel.block)[..., 0])
        for whole, group, part in zip(gradients, (wide, narrow, narrow), found, strict=True):
            whole[:, group] = part[:, :, :tokens]
    return gradients[0], gradients[1], gradients[2]


@causal_attention_backward.register_fake
def _(_: Any, query: Any, key: Any, value: Any, *__: Any) -> tuple[Any, Any, Any]:
    return _empty(query), _empty(key), _empty(value)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, Any]) -> None:
    query, key, value, ctx.backend = inputs
    ctx.save_for_backward(query, key, value, *output)
    ctx.mark_non_differentiable(output[1])


def _go_back(ctx: Any, gradient: Any, _: Any) -> tuple[Any, ...]:
    return (*causal_attention_backward(gradient, *ctx.saved_tensors, ctx.backend), None)


causal_attention.register_autograd(_go_back, setup_context=_keep)


def _empty(like: Any) -> Any:
    """Return memory for heads `like` these [cases, heads, tokens, width]; those of a token lie side
    by side, as projections make them."""
    cases, heads, tokens, width = like.shape
    return like.new_empty(cases, tokens, heads, width).transpose(1, 2)


def _lie_by_tokens(heads: Any) -> Any:
    return heads.transpose(1, 2).contiguous().transpose(1, 2)


def _pad(heads: Any, block: int) -> Any:
    """Return `heads` [cases, heads, tokens, width] with zeros after the tokens, up to a multiple of
    `block`."""
    missing = -heads.shape[2] % block
    return torch.nn.functional.pad(heads, (0, 0, 0, missing)) if missing else heads


def _repeat(heads: Any, times: int) -> Any:
    return heads.repeat_interleave(times, dim=1) if times > 1 else heads


class _Flash:
    """FlashAttention 2, of cards of the RTX 30 series and later."""

    block = 1

    @staticmethod
    def forward(query: Any, key: Any, value: Any) -> tuple[Any, Any]:
        out, sums, *_ = torch.ops.aten._scaled_dot_product_flash_attention(
            query, key, value, 0.0, True
        )
        return out, sums

    @staticmethod
    def backward(
        gradient: Any, query: Any, key: Any, value: Any, out: Any, sums: Any
    ) -> tuple[Any, Any, Any]:
        tokens, no_seed = query.shape[2], torch.empty(2, dtype=torch.int64, device=query.device)
        found: tuple[Any, Any, Any] = torch.ops.aten._scaled_dot_product_flash_attention_backward(
            gradient, query, key, value, out, sums.contiguous(), None, None, tokens, tokens,
            0.0, True, no_seed, no_seed,
        )  # fmt: skip
        return found


class _CuDNN:
    """cuDNN's, which torch prefers on H100 and H200."""

    block = BLOCK

    @staticmethod
    def forward(query: Any, key: Any, value: Any) -> tuple[Any, Any]:
        out, sums, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(
            query, key, value, None, True, 0.0, True
        )
        return out, sums.view(sums.shape[:3])

    @staticmethod
    def backward(
        gradient: Any, query: Any, key: Any, value: Any, out: Any, sums: Any
    ) -> tuple[Any, Any, Any]:
        tokens, no_seed = query.shape[2], torch.empty((), dtype=torch.int64, device=query.device)
        found: tuple[Any, Any, Any] = torch.ops.aten._scaled_dot_product_cudnn_attention_backward(
            gradient, query, key, value, out, sums.contiguous()[..., None], no_seed, no_seed,
            None, None, None, tokens, tokens, 0.0, True,
        )  # fmt: skip
        return found


class _Processor:
    """torch's own on a CPU, which takes as many heads of keys as of queries."""

    block = 1

    @staticmethod
    def forward(query: Any, key: Any, value: Any) -> tuple[Any, Any]:
        repeats = query.shape[1] // key.shape[1]
        out, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, _repeat(key, repeats), _repeat(value, repeats), 0.0, True
        )
        return out, sums

    @staticmethod
    def backward(
        gradient: Any, query: Any, key: Any, value: Any, out: Any, sums: Any
    ) -> tuple[Any, Any, Any]:
        repeats = query.shape[1] // key.shape[1]
        of_query, *others = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            gradient, query, _repeat(key, repeats), _repeat(value, repeats), out, sums, 0.0, True
        )
        of_key, of_value = (each.unflatten(1, (-1, repeats)).sum(2) for each in others)
        return of_query, of_key, of_value


_KERNELS: dict[SDPBackend, Any] = {
    SDPBackend.FLASH_ATTENTION: _Flash,
    SDPBackend.CUDNN_ATTENTION: _CuDNN,
}


def _find_kernel(backend: int, query: Any) -> Any:
    return _KERNELS[SDPBackend(backend)] if query.is_cuda else _Processor
