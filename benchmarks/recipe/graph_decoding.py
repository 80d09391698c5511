"""Answers to many questions at once, a token of all of them by one launch.

Generation of a small model on a large card waits for the processor: a token launches every kernel
of every layer anew, 30 ms and more for 1.5 billion parameters, of which the card works 3. Here the
step of one token, cache and choice of the token included, is recorded once as a CUDA graph and
replayed (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs). Questions are padded
on the left to one length and share one cache of a fixed size; a row that has ended goes on unread.
"""

from collections.abc import Callable, Sequence
from typing import Any

# So often is it asked whether every row has ended: each asking waits for the card.
CHECK_EVERY = 32
WARM_STEPS = 3


def decode(
    network: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    end_ids: Sequence[int],
    pad_id: int,
    temperature: float = 0.0,
    top_p: float = 0.95,
    use_graph: bool = True,
) -> list[list[int]]:
    """Return the token ids that follow each of `prompts`, the first of `end_ids` included where the
    row came to it: the likeliest (`temperature` 0), or drawn from the fewest that hold `top_p` of
    the probability.

    Draws follow torch's seed. Without a CUDA card, or without `use_graph`, the same steps run one
    by one.
    """
    import torch

    rows = _Rows(network, prompts, max_new_tokens, end_ids, pad_id)
    choose = _choose_likeliest if temperature == 0 else _make_draw(temperature, top_p)
    with torch.inference_mode():
        rows.read_prompts(choose)
        done = rows.run(lambda: rows.step(choose), max_new_tokens - 1, use_graph)
        return rows.collect(done + 1)


class _Rows:
    """The state of every row, in tensors whose places do not change."""

    def __init__(
        self,
        network: Any,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        end_ids: Sequence[int],
        pad_id: int,
    ):
        import torch
        from transformers import StaticCache

        device, count = network.device, len(prompts)
        self.network, self.longest = network, max(map(len, prompts))
        total = self.longest + max_new_tokens
        padded = [[pad_id] * (self.longest - len(ids)) + list(ids) for ids in prompts]
        self.ids = torch.tensor(padded, device=device)
        starts = torch.tensor([self.longest - len(ids) for ids in prompts], device=device)
        places = torch.arange(total, device=device)
        # What a row may look at: its own prompt, and what came after it.
        self.visible = ((places >= starts[:, None]) & (places < self.longest))[:, None, None, :]
        self.starts = starts
        self.position = (self.longest - starts)[:, None]
        self.place = torch.full((1,), self.longest, device=device)
        self.written = torch.zeros(1, dtype=torch.long, device=device)
        self.token = torch.zeros(count, 1, dtype=torch.long, device=device)
        self.out = torch.full((count, max_new_tokens), pad_id, device=device)
        self.ended = torch.zeros(count, dtype=torch.bool, device=device)
        self.ends = torch.tensor(list(end_ids), device=device)
        self.end_ids = set(end_ids)
        self.cache = StaticCache(config=network.config, max_cache_len=total)

    def read_prompts(self, choose: Callable[[Any], Any]) -> None:
        """Fill the cache with the prompts, and take the first token of every row."""
        import torch

        longest = self.longest
        causal = torch.ones(longest, longest, dtype=torch.bool, device=self.ids.device).tril()
        shape = (len(self.ids), 1, longest, self.visible.shape[-1])
        mask = torch.zeros(shape, dtype=torch.bool, device=self.ids.device)
        mask[..., :longest] = causal & self.visible[..., :longest]
        # Padding sees itself, as a row of nothing has no softmax.
        mask[..., :longest] |= torch.eye(longest, dtype=torch.bool, device=self.ids.device)
        positions = (torch.arange(longest, device=self.ids.device) - self.starts[:, None]).clamp(0)
        self._take(self._forward(self.ids, mask, positions), choose)

    def step(self, choose: Callable[[Any], Any]) -> None:
        """Take one more token of every row; every tensor changes where it stands."""
        self.visible.index_fill_(3, self.place, True)
        logits = self._forward(self.token, self.visible, self.position)
        self.position.add_(1)
        self.place.add_(1)
        self._take(logits, choose)

    def run(self, step: Callable[[], None], count: int, use_graph: bool) -> int:
        """Make at most `count` steps, fewer where every row has ended; return how many."""
        import torch

        if self.ids.device.type != "cuda" or not use_graph:
            return self._repeat(step, 0, count)
        warm = min(WARM_STEPS, count)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(warm):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        return self._repeat(graph.replay, warm, count)

    def collect(self, count: int) -> list[list[int]]:
        """Return the first `count` tokens of every row, up to its end."""
        found = []
        for tokens in self.out[:, :count].tolist():
            end = next((place for place, token in enumerate(tokens) if token in self.end_ids), None)
            found.append(tokens if end is None else tokens[: end + 1])
        return found

    def _repeat(self, step: Callable[[], None], done: int, count: int) -> int:
        while done < count:
            step()
            done += 1
            if done % CHECK_EVERY == 0 and bool(self.ended.all()):
                break
        return done

    def _forward(self, ids: Any, mask: Any, positions: Any) -> Any:
        return self.network(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]

    def _take(self, logits: Any, choose: Callable[[Any], Any]) -> None:
        import torch

        chosen = choose(logits.float())
        self.token.copy_(chosen[:, None])
        self.out.index_copy_(1, self.written, chosen[:, None])
        self.written.add_(1)
        self.ended.logical_or_(torch.isin(chosen, self.ends))


def _choose_likeliest(logits: Any) -> Any:
    return logits.argmax(-1)


def _make_draw(temperature: float, top_p: float) -> Callable[[Any], Any]:
    import torch

    def draw(logits: Any) -> Any:
        ordered, tokens = torch.sort(torch.softmax(logits / temperature, -1), descending=True)
        # The tokens before which less than top_p is gathered: at least one.
        ordered[(ordered.cumsum(-1) - ordered) >= top_p] = 0
        # The least of exponential waiting times falls on a token by its probability.
        waited = ordered / torch.empty_like(ordered).exponential_()
        return tokens.gather(1, waited.argmax(-1, keepdim=True))[:, 0]

    return draw
