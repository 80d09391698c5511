"""Texts as tokens, many at a time: every text is tokenized once, for training and for the audit."""

from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from medexp.config.schema import Prompt, RunConfig
from medexp.data.control_tokens import TextEncoder
from medexp.data.encoding import Vocabulary, make_vocabulary
from medexp.data.preparation import Prepared, prepare
from medexp.data.split import Split
from medexp.data.token_roles import TokenizedText, list_texts
from medexp.errors import ModelError

# So many texts take a few tenths of a second, so that progress can be shown.
BATCH = 256


class CachedTokenizer:
    """A tokenizer for texts written by `prompt`, which tokenizes a text once; `known` holds all
    that it was given.
    """

    def __init__(self, tokenizer: Any, prompt: Prompt):
        if getattr(tokenizer, "backend_tokenizer", None) is None:
            raise ModelError(
                f"the tokenizer of {tokenizer.name_or_path} has no tokenizer.json; tokens cannot be"
                " placed in texts"
            )
        self._encoder = TextEncoder(tokenizer, prompt)
        self._plain = make_vocabulary(tokenizer, prompt)
        self.known: dict[str, TokenizedText] = {}

    def tokenize(
        self, texts: Iterable[str], advance: Callable[[int], None] = lambda _: None
    ) -> None:
        """Tokenize those of `texts` that are not known yet; `advance` is told how many more are
        done, those known before included.
        """
        wanted = list(dict.fromkeys(texts))
        missing = [text for text in wanted if text not in self.known]
        advance(len(wanted) - len(missing))
        for start in range(0, len(missing), BATCH):
            batch = missing[start : start + BATCH]
            for text, encoding in zip(batch, self._encoder.encode(batch), strict=True):
                self.known[text] = TokenizedText(
                    encoding.ids, array("l", [end for _, end in encoding.offsets])
                )
            advance(len(batch))

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokenizer's vocabulary, fast on the texts that are known."""
        return replace(self._plain, encode=self._encode)

    def prepare_cases(
        self, config: RunConfig, sides: Split, advance: Callable[[int], None] = lambda _: None
    ) -> Prepared:
        """Return `sides` ready for training; `advance` counts the texts that `count_texts`
        announces."""
        self.tokenize(_list_texts(config, sides), advance)
        return prepare(config, sides, self.vocabulary)

    def count_texts(self, config: RunConfig, sides: Split) -> int:
        """Return of how many different texts `sides` consist."""
        return len(set(_list_texts(config, sides)))

    def _encode(self, text: str) -> list[int]:
        tokenized = self.known.get(text)
        return list(tokenized.ids) if tokenized is not None else self._plain.encode(text)


def _list_texts(config: RunConfig, sides: Split) -> Iterator[str]:
    return list_texts(config.prompt, [*sides.train, *sides.held_out, *sides.validation])
