"""How fast the first CUDA card is at what training does: matrix products of a layer's shapes,
copies on the card and over its link.

Refuses to be fast: every figure is the median of several timed runs after a warm-up, with the card
waited for.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from medexp.config.families.sizes import list_linear_sizes
from medexp.config.schema import Dtype, ModelShape

# micro-batch x sequence of the products.
TOKENS = (512, 2048, 4096, 8192)
COPIED_BYTES = 256 * 2**20
RUNS = 7


@dataclass(frozen=True)
class ProductRate:
    """The rate of one matrix product: `tokens` x `inputs` by `inputs` x `outputs`."""

    tokens: int
    inputs: int
    outputs: int
    tflops: float

    @property
    def seconds(self) -> float:
        """How long it took."""
        return 2 * self.tokens * self.inputs * self.outputs / (self.tflops * 1e12)


def measure_products(shape: ModelShape, dtype: Dtype) -> Iterator[ProductRate]:
    """Return the rates of a decoder layer's products, as they are measured: every distinct size at
    every number of tokens."""
    import torch

    precision = getattr(torch, dtype.value)
    for tokens in TOKENS:
        for inputs, outputs in sorted(set(list_linear_sizes(shape).values())):
            left = torch.randn(tokens, inputs, device="cuda", dtype=precision)
            right = torch.randn(outputs, inputs, device="cuda", dtype=precision)
            elapsed_s = _time_median_s(partial(torch.matmul, left, right.T))
            yield ProductRate(
                tokens, inputs, outputs, 2 * tokens * inputs * outputs / elapsed_s / 1e12
            )


def compute_layer_tflops(shape: ModelShape, measured: list[ProductRate], tokens: int) -> float:
    """Return the rate over all projections of a layer at `tokens`."""
    rates = {(rate.inputs, rate.outputs): rate for rate in measured if rate.tokens == tokens}
    sizes = list(list_linear_sizes(shape).values())
    return (
        sum(2 * tokens * a * b for a, b in sizes)
        / sum(rates[size].seconds for size in sizes)
        / 1e12
    )


def measure_memory_gb_per_s() -> float:
    """Return the bytes read and written a second by a copy on the card."""
    import torch

    source = torch.empty(4 * COPIED_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 8 * COPIED_BYTES / _time_median_s(lambda: target.copy_(source)) / 1e9


def measure_link_gb_per_s(pinned: bool) -> float:
    """Return the bytes a second from host memory to the card; streamed layers lie in pinned memory
    as far as the system allows."""
    import torch

    source = torch.empty(COPIED_BYTES, dtype=torch.uint8, pin_memory=pinned)
    target = torch.empty(COPIED_BYTES, dtype=torch.uint8, device="cuda")
    return COPIED_BYTES / _time_median_s(lambda: target.copy_(source, non_blocking=pinned)) / 1e9


def read_free_bytes() -> int:
    """Return what is free on the card now that its context and kernels are there, with the cache
    handed back."""
    import torch

    torch.cuda.empty_cache()
    free: int = torch.cuda.mem_get_info()[0]
    return free


def _time_median_s(work: Callable[[], Any]) -> float:
    import torch

    work()
    times = []
    for _ in range(RUNS):
        torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return statistics.median(times)
