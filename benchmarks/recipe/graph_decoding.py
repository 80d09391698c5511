"""Answers to many questions at once, a token of all of them by one launch.

Generation of a small model on a large card waits for the processor: a token launches every kernel
of every layer anew, 30 ms and more for 1.5 billion parameters, of which the card works 3. Here the
step of one token, cache and choice of the token included, is recorded once as a CUDA graph and
replayed (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs). Questions are padded
on the left to one length and share a cache of a fixed size, all of which every step attends to. So
after SEGMENT tokens rows that have ended are left out, and the others go on with a larger cache.
"""

from collections.abc import Callable, Sequence
from typing import Any

SEGMENT = 128
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

    choose = _choose_likeliest if temperature == 0 else _make_draw(temperature, top_p)
    found: list[list[int]] = [[] for _ in prompts]
    ends = set(end_ids)
    with torch.inference_mode():
        rows = _Rows(network, prompts, list(end_ids), pad_id, choose)
        left = max_new_tokens - rows.read_prompts()
        while True:
            left -= rows.run(min(left, SEGMENT), use_graph)
            for row, tokens in rows.take_tokens():
                end = next((at for at, token in enumerate(tokens) if token in ends), None)
                found[row] += tokens if end is None else tokens[: end + 1]
            if left <= 0 or not rows.drop_ended():
                return found


class _Rows:
    """The state of the rows that have not ended, in tensors that stay where they are while a graph
    is replayed."""

    def __init__(
        self,
        network: Any,
        prompts: Sequence[Sequence[int]],
        end_ids: Sequence[int],
        pad_id: int,
        choose: Callable[[Any], Any],
    ):
        import torch

        device = network.device
        self.network, self.choose, self.pad_id = network, choose, pad_id
        # Tokens in the cache, padding included.
        self.filled = max(map(len, prompts))
        padded = [[pad_id] * (self.filled - len(ids)) + list(ids) for ids in prompts]
        self.prompts = torch.tensor(padded, device=device)
        self.rows = torch.arange(len(prompts), device=device)
        self.starts = torch.tensor([self.filled - len(ids) for ids in prompts], device=device)
        self.ends = torch.tensor(end_ids, device=device)
        self.ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)
        self.token = torch.zeros(len(prompts), 1, dtype=torch.long, device=device)
        self._make_room()
        self.num_written = 0

    def _make_room(self) -> None:
        """Make what the next segment writes to: the cache, what may be seen of it, the tokens."""
        import torch
        from transformers import StaticCache

        device, count, total = self.rows.device, len(self.rows), self.filled + SEGMENT
        self.cache = StaticCache(config=self.network.config, max_cache_len=total)
        places = torch.arange(total, device=device)
        # What a row may look at: its own prompt, and what came after it.
        seen = (places >= self.starts[:, None]) & (places < self.filled)
        self.visible = seen[:, None, None, :]
        self.position = (self.filled - self.starts)[:, None]
        self.place = torch.full((1,), self.filled, device=device)
        self.written = torch.zeros(1, dtype=torch.long, device=device)
        self.out = torch.full((count, SEGMENT + 1), self.pad_id, device=device)

    def read_prompts(self) -> int:
        """Fill the cache with the prompts and take the first token of every row; return how many
        tokens were taken, which is one.
        """
        import torch

        longest, device = self.filled, self.rows.device
        causal = torch.ones(longest, longest, dtype=torch.bool, device=device).tril()
        shape = (len(self.rows), 1, longest, self.visible.shape[-1])
        mask = torch.zeros(shape, dtype=torch.bool, device=device)
        mask[..., :longest] = causal & self.visible[..., :longest]
        # Padding sees itself, as a row of nothing has no softmax.
        mask[..., :longest] |= torch.eye(longest, dtype=torch.bool, device=device)
        positions = (torch.arange(longest, device=device) - self.starts[:, None]).clamp(0)
        self._take(self._forward(self.prompts, mask, positions))
        self.num_written = 1
        return 1

    def run(self, count: int, use_graph: bool) -> int:
        """Make at most `count` steps, fewer where every row has ended; return how many."""
        done = self._run_on_card(count) if self._has_card and use_graph else self._run(count)
        self.num_written += done
        self.filled += done
        return done

    @property
    def _has_card(self) -> bool:
        return bool(self.rows.device.type == "cuda")

    def take_tokens(self) -> list[tuple[int, list[int]]]:
        """Return the number of every row with the tokens it has taken since the last time."""
        taken = self.out[:, : self.num_written].tolist()
        self.num_written = 0
        return list(zip(self.rows.tolist(), taken, strict=True))

    def drop_ended(self) -> bool:
        """Go on with the rows that have not ended, in a larger cache; False where none is left."""
        kept = (~self.ended).nonzero()[:, 0]
        if not len(kept):
            return False
        former, filled = self.cache, self.filled
        for name in ("rows", "starts", "ended", "token"):
            setattr(self, name, getattr(self, name)[kept].clone())
        self._make_room()
        for old, new in zip(former.layers, self.cache.layers, strict=True):
            keys, values = old.keys[kept], old.values[kept]
            new.lazy_initialization(keys, values)
            new.keys[:, :, :filled] = keys[:, :, :filled]
            new.values[:, :, :filled] = values[:, :, :filled]
            new.cumulative_length.copy_(old.cumulative_length)
        return True

    def _run_on_card(self, count: int) -> int:
        import torch

        warm = min(WARM_STEPS, count)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(warm):
                self._step()
        torch.cuda.current_stream().wait_stream(stream)
        if warm == count:
            return count
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step()
        return self._repeat(graph.replay, warm, count)

    def _run(self, count: int) -> int:
        return self._repeat(self._step, 0, count)

    def _repeat(self, step: Callable[[], None], done: int, count: int) -> int:
        while done < count:
            step()
            done += 1
            if done % CHECK_EVERY == 0 and bool(self.ended.all()):
                break
        return done

    def _step(self) -> None:
        """Take one more token of every row; every tensor changes where it stands."""
        self.visible.index_fill_(3, self.place, True)
        logits = self._forward(self.token, self.visible, self.position)
        self.position.add_(1)
        self.place.add_(1)
        self._take(logits)

    def _forward(self, ids: Any, mask: Any, positions: Any) -> Any:
        return self.network(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]

    def _take(self, logits: Any) -> None:
        import torch

        chosen = self.choose(logits.float())
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
