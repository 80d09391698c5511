"""A tokenizer's added tokens (<|im_end|>, <filename>, ...) where they stand in a text as words:
which there are, and how such a text is encoded so that none of them acts.

In a prompt that writes them, as DeepSeek's does, they are meant. In a case, or in a question, they
are text like any other: they are encoded by a copy of the tokenizer that does not know them.
"""

import json
import re
from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Any

from medexp.config.schema import Prompt
from medexp.data.prompts import get_written_text

# Of the tokenizers library: ids, offsets.
Encodings = Sequence[Any]


class TextEncoder:
    """Encodes texts written in the words of a prompt, with the added tokens that this prompt writes
    and no others.
    """

    def __init__(self, tokenizer: Any, prompt: Prompt):
        self._backend = tokenizer.backend_tokenizer
        added = {
            token.content: number
            for number, token in tokenizer.added_tokens_decoder.items()
            if _is_control_token(token.content)
        }
        template = get_written_text(prompt)
        self.written = frozenset(mark for mark in added if mark in template)
        self.plain = frozenset(added) - self.written
        # What no token stands for is encoded as the unknown one: that is no control token in the
        # text.
        self.ids = frozenset(added.values()) - {tokenizer.unk_token_id}
        self._plain_in = compile_marks(self.plain)

    def encode(self, texts: Sequence[str]) -> Encodings:
        """Return the encoding of each of `texts`, nothing added."""
        marked = [self._plain_in.search(text) is not None for text in texts]
        if not any(marked):
            return list(self._backend.encode_batch(texts, add_special_tokens=False))
        known = iter(
            self._backend.encode_batch(_those(texts, marked, False), add_special_tokens=False)
        )
        plain = iter(
            self._without.encode_batch(_those(texts, marked, True), add_special_tokens=False)
        )
        return [next(plain if is_marked else known) for is_marked in marked]

    @cached_property
    def _without(self) -> Any:
        return remove_added_tokens(self._backend, self.plain)


def compile_marks(marks: Collection[str]) -> re.Pattern[str]:
    """Return what finds any of `marks` in a text; nothing where there are none."""
    return re.compile("|".join(map(re.escape, sorted(marks, key=len, reverse=True))) or r"(?!)")


def remove_added_tokens(backend: Any, marks: Collection[str]) -> Any:
    """Return a copy of the `backend` of a tokenizer to which `marks` are no tokens; all others keep
    their numbers.
    """
    from tokenizers import Tokenizer

    described = json.loads(backend.to_str())
    vocabulary = described["model"]["vocab"]
    own = set(vocabulary) if isinstance(vocabulary, dict) else {piece for piece, _ in vocabulary}
    kept = []
    for token in described["added_tokens"]:
        if token["content"] not in marks:
            kept.append(token)
        elif token["content"] not in own:
            # Tokens beyond the vocabulary are numbered as they come, so this one stays, under a
            # name that no text holds.
            kept.append(token | {"content": f"\ue000{token['id']}\ue001", "normalized": False})
    return Tokenizer.from_str(json.dumps(described | {"added_tokens": kept}))


def _is_control_token(content: str) -> bool:
    """Return whether this added token is a control token. Some tokenizers add letters and runs of
    spaces, too, and those are plain vocabulary."""
    return len(content) > 1 and bool(content.strip(" \t\r\n\u2581"))


def _those(texts: Sequence[str], marked: Sequence[bool], wanted: bool) -> list[str]:
    return [text for text, is_marked in zip(texts, marked, strict=True) if is_marked is wanted]
