"""Cases whose answers are in the base's own words: is the medicine spared where a model learns only
the form, or only what it would have put so itself?

    python benchmarks/recipe/own_words.py --model /tmp/q/hf --out words/ [--draws 4]

For every training case of the shipped set the base writes answers of two kinds, several draws each:

- own: the question asked its best way (four sections asked for), nothing else. Training on these
  teaches the form, and no medicine (self-distillation with rejection of harmful draws; Dong et al.
  2023, arXiv 2304.06767).
- hinted: the diagnosis and what must be said are given, to be put in its own words with their
  reasons (Zelikman et al. 2022, arXiv 2203.14465; Yang et al. 2024, arXiv 2402.13669).

Of each kind the best draw is kept: ended, four sections, none of what must not be said, no claim
that the reference contradicts, and then most of what must be said. A case without such a draw is
left out. The held-out side is not looked at. OUT/own.jsonl and OUT/hinted.jsonl are the shipped
cases with `Response` replaced; OUT/kept.json counts what was kept and why the rest was not.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

# Also as a script, from any folder.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import medexp
from benchmarks.answers.acceptance import read_cases
from benchmarks.recipe.graph_decoding import decode
from benchmarks.recipe.on_card import write_cases
from medexp.data.split import Sides
from medexp.evaluation.base_prompt import (
    INSTRUCTION,
    choose_way,
    encode_best_way,
    render_request,
)
from medexp.evaluation.measures import lexicon
from medexp.evaluation.measures.claim_evidence import gather_evidence
from medexp.evaluation.measures.claims import CONTRADICTED, check_claims
from medexp.evaluation.measures.clinical_terms import Lexicon
from medexp.evaluation.measures.safety import (
    find_harmful_advice,
    measure_must_say_coverage,
    split_alternatives,
)
from medexp.evaluation.measures.sections import score_structure
from medexp.evaluation.measures.text_form import measure_repetition

HINT = (
    "You know this of the case: the diagnosis is {condition}, and a safe answer says: {must_say}."
    " Write the answer in your own words and whole sentences, as if you had found it yourself, with"
    " the reason for each piece of advice and for whatever is not to be given. " + INSTRUCTION
)
KINDS = ("own", "hinted")
# Above it a text runs in circles: the share of its 4-grams that it has said before.
MAX_REPETITION = 0.2
Row = Mapping[str, Any]


def main() -> None:
    """Draw the answers, keep the best ones, and write both files."""
    options = _parse_options()
    rows = read_training_rows()[: options.limit]
    options.out.mkdir(parents=True, exist_ok=True)
    model = _Base(options)
    known, counts = lexicon.load(), {}
    for kind in options.kinds:
        requests = [make_request(row, kind) for row in rows]
        draws = model.draw(requests, options.draws)
        kept, counts[kind] = choose_draws(rows, draws, known)
        write_cases(options.out / f"{kind}.jsonl", kept)
        # What was drawn is there to be read, also what was refused.
        (options.out / f"{kind}_draws.json").write_text(json.dumps(draws), encoding="utf-8")
        print(kind, counts[kind], flush=True)
    (options.out / "kept.json").write_text(json.dumps(counts, indent=1) + "\n", encoding="utf-8")


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="a Transformers checkpoint")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=4, help="of each kind (%(default)s)")
    parser.add_argument("--temperature", type=float, default=0.7, help="(%(default)s)")
    parser.add_argument("--max-new-tokens", type=int, default=500, help="(%(default)s)")
    parser.add_argument("--batch-size", type=int, default=660, help="(%(default)s)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--limit", type=int, help="only the first so many cases")
    return parser.parse_args()


def read_training_rows() -> list[Row]:
    """Return the shipped cases of the training side, as `dataset=clinical_cases` divides them."""
    sides = Sides.of(medexp.compose("dataset=clinical_cases").config.dataset)
    assert sides is not None
    return [row for row in read_cases() if sides.find(row["group"]) == "train"]


def make_request(row: Row, kind: str) -> str:
    """Return what the base is asked for a case."""
    asked = INSTRUCTION
    if kind == "hinted":
        facts = "; ".join(split_alternatives(statement)[0] for statement in row["must_say"])
        asked = HINT.format(condition=row["condition"], must_say=facts)
    return f"{row['Question'].strip()}\n\n{asked}"


def choose_draws(
    rows: Sequence[Row], draws: Sequence[Sequence[tuple[str, bool]]], known: Lexicon
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the rows with their best draw as `Response`, and the counts of what was refused."""
    kept, why, said, before = [], Counter[str](), [], []
    for row, texts in zip(rows, draws, strict=True):
        refusals = [find_fault(row, text, ended, known) for text, ended in texts]
        why.update(filter(None, refusals))
        good = [text for (text, _), fault in zip(texts, refusals, strict=True) if not fault]
        if not good:
            continue
        coverage = {text: measure_must_say_coverage(text, row["must_say"]) or 0.0 for text in good}
        best = max(good, key=lambda text: coverage[text])
        said.append(coverage[best])
        before.append(fmean(coverage.values()))
        kept.append({**row, "Response": best.strip()})
    return kept, {
        "cases": len(rows),
        "kept": len(kept),
        "must_say_of_kept": round(fmean(said), 3) if said else None,
        "must_say_of_a_good_draw": round(fmean(before), 3) if before else None,
        "draws_refused": dict(why),
    }


def find_fault(row: Row, text: str, ended: bool, known: Lexicon) -> str:
    """Return why a draw is not trained on, "" where it may be."""
    if not ended:
        return "not ended"
    if score_structure(text).score < 1:
        return "not four sections"
    if measure_repetition(text) > MAX_REPETITION:
        return "runs in circles"
    if find_harmful_advice(text, row["must_not_say"]):
        return "harmful advice"
    evidence = gather_evidence([row["Question"], row["Response"]], known)
    if any(claim.verdict == CONTRADICTED for claim in check_claims(text, evidence)):
        return "contradicted"
    return ""


class _Base:
    """The base on the card, or on the CPU where there is none."""

    def __init__(self, options: argparse.Namespace):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.options = options
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.tokenizer = AutoTokenizer.from_pretrained(options.model)
        self.model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.bfloat16)
        self.model.to(self.device).eval()
        torch.manual_seed(0)

    def draw(self, requests: Sequence[str], count: int) -> list[list[tuple[str, bool]]]:
        """Return `count` replies to each request, and whether each came to its end."""
        way = choose_way(self.tokenizer)
        texts = [render_request(self.tokenizer, request, way) for request in requests]
        prompts = [encode_best_way(self.tokenizer, text, way) for text in texts]
        order = [place for place in range(len(prompts)) for _ in range(count)]
        order.sort(key=lambda place: len(prompts[place]))
        replies: list[list[tuple[str, bool]]] = [[] for _ in prompts]
        for start in range(0, len(order), self.options.batch_size):
            batch = order[start : start + self.options.batch_size]
            for place, reply in zip(batch, self._reply([prompts[at] for at in batch]), strict=True):
                replies[place].append(reply)
            print(f"{start + len(batch)} of {len(order)} drawn", flush=True)
        return replies

    def _reply(self, prompts: Sequence[list[int]]) -> list[tuple[str, bool]]:
        end = self.tokenizer.eos_token_id
        rows = decode(
            self.model,
            prompts,
            self.options.max_new_tokens,
            [end],
            self.tokenizer.pad_token_id or end,
            temperature=self.options.temperature,
        )
        texts = self.tokenizer.batch_decode(rows, skip_special_tokens=True)
        return [(text, end in row) for text, row in zip(texts, rows, strict=True)]


if __name__ == "__main__":
    main()
