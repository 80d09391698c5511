"""What follows from a shape and how its family is built: matrices, parameters, what attention keeps
and sees. Arithmetic only.
"""

from collections.abc import Iterable, Mapping
from functools import cache
from types import MappingProxyType

from medexp.config.families.registry import FAMILIES, describe_family
from medexp.config.schema import Family, ModelShape

# Every projection of a decoder layer by the name that it has where none is fused, the query's
# first, then the key's.
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
# Copies of queries, wider than the model, in the backward pass of attention: queries, what
# attention made of them, and a gradient of each.
_QUERY_COPIES = 4


def query_width(shape: ModelShape) -> int:
    """Return how wide all queries of a token are together."""
    return shape.heads * shape.head_dim


def kv_width(shape: ModelShape) -> int:
    """Return how wide all keys, or all values, of a token are together."""
    return shape.kv_heads * shape.head_dim


def list_linear_sizes(shape: ModelShape) -> Mapping[str, tuple[int, int]]:
    """Return (in, out) of every matrix of a decoder layer, under its name in the network: those of
    queries first."""
    return _list_linear_sizes(
        shape.family, shape.hidden, query_width(shape), kv_width(shape), shape.ffn
    )


@cache
def _list_linear_sizes(
    family: Family, hidden: int, query: int, kv: int, ffn: int
) -> Mapping[str, tuple[int, int]]:
    parts = {
        "q_proj": (hidden, query),
        "k_proj": (hidden, kv),
        "v_proj": (hidden, kv),
        "o_proj": (query, hidden),
        "gate_proj": (hidden, ffn),
        "up_proj": (hidden, ffn),
        "down_proj": (ffn, hidden),
    }
    sizes: dict[str, tuple[int, int]] = {}
    for part, (inputs, outputs) in parts.items():
        name = name_matrix(family, part)
        _, before = sizes.get(name, (inputs, 0))
        sizes[name] = (inputs, before + outputs)
    return MappingProxyType(sizes)


def name_matrix(family: Family, projection: str) -> str:
    """Return the name of the matrix that `projection` is, or is a part of, in this family."""
    for fused in FAMILIES[family].fused:
        if projection in fused.parts:
            return fused.name
    return projection


def name_targets(family: Family, target_modules: Iterable[str]) -> list[str]:
    """Return the matrices that an adapter on `target_modules` is on: a fused one for its parts."""
    return list(dict.fromkeys(name_matrix(family, name) for name in target_modules))


def is_on_mlp(family: Family, target_modules: Iterable[str]) -> bool:
    """Return whether an adapter on `target_modules` is on any matrix of the MLP."""
    return bool(set(name_targets(family, MLP)) & set(name_targets(family, target_modules)))


def is_on_whole_mlp(family: Family, target_modules: Iterable[str]) -> bool:
    """Return whether an adapter on `target_modules` is on all matrices of the MLP."""
    return set(name_targets(family, MLP)) <= set(name_targets(family, target_modules))


def list_norm_widths(shape: ModelShape) -> tuple[int, ...]:
    """Return how many numbers each norm of a layer has."""
    family = describe_family(shape)
    wide = (shape.hidden,) * family.wide_norms
    if family.norms_each_head:
        return (*wide, shape.head_dim, shape.head_dim)
    return (*wide, query_width(shape), kv_width(shape)) if family.norms_all_heads else wide


def list_bias_widths(shape: ModelShape) -> tuple[int, ...]:
    """Return how many numbers each bias of a layer has."""
    if not describe_family(shape).has_attention_biases:
        return ()
    return query_width(shape), kv_width(shape), kv_width(shape)


def count_layer_parameters(shape: ModelShape) -> int:
    """Return how many weights the matrices of one decoder layer have."""
    return sum(inputs * outputs for inputs, outputs in list_linear_sizes(shape).values())


def count_parameters(shape: ModelShape) -> int:
    """Return how many parameters a decoder of this shape has, embedding and head included."""
    layer = count_layer_parameters(shape)
    layer += sum(list_norm_widths(shape)) + sum(list_bias_widths(shape))
    tables = (1 if shape.tied_embeddings else 2) * shape.vocab * shape.hidden
    return shape.layers * layer + shape.hidden + tables


def count_beside_llama(shape: ModelShape) -> int:
    """Return how many numbers a token a layer holds for its backward pass beside what Llama's does,
    whose queries are as wide as the model: copies of wider queries, the inputs of norms on queries
    and keys, and of norms after attention and MLP, and a half of gate and up where they are one
    product. None for Llama and Qwen2.

    Read off the layers' source and not fitted: benchmarks/vram/families.py measures it.
    """
    family = describe_family(shape)
    normalised = query_width(shape) + kv_width(shape)
    return (
        _QUERY_COPIES * max(0, query_width(shape) - shape.hidden)
        + normalised * (family.norms_each_head or family.norms_all_heads)
        + shape.hidden * max(0, family.wide_norms - 2)
        + shape.ffn * any("up_proj" in projection.parts for projection in family.fused)
    )


def count_sliding_layers(shape: ModelShape) -> int:
    """Return how many layers attend to the last `window` tokens alone."""
    family = describe_family(shape)
    if not family.has_sliding_layers or not isinstance(shape.window, int):
        return 0
    every = family.full_attention_every
    return shape.layers - (shape.layers // every if every else 0)


def sum_attended(shape: ModelShape, tokens: int) -> int:
    """Return, summed over the layers, how many of the last `tokens` each one sees."""
    sliding = count_sliding_layers(shape)
    inside = min(tokens, shape.window) if sliding and shape.window else tokens
    return (shape.layers - sliding) * tokens + sliding * inside
