"""What are the measures worth on texts by other authors? Runs them on files of MedHallu, MEDEC and
MedLFQA.

    python benchmarks/answers/external.py --medhallu FILE --medec FILE --medlfqa FILE [FILE ...]
        [--verifier FOLDER [--verifier-base FOLDER] [--only judge|likelihood] [--plain-prompt]]
        [--limit N] [--format text|json]

Every argument is optional; a record without the fields that a test needs is left out and counted.
`rules` are the rules that ship. `best` is what ships, too, unless --verifier names a folder (a
causal model, an adapter, or a sequence classifier): then it is the mean of the ranks that rules and
verifier give. Of a causal model, which is a judge and a likelihood, the likelihood is taken. How
each figure is taken, and what it does not show, is in README.md beside this file.

- MedHallu: every answer gets a score, how far it goes beyond question and knowledge; AUC of
  hallucinated against true answers, all pooled, and how often the hallucinated one of a pair has
  the higher one. Controls stand beside it: length alone, and the rules without the knowledge.
- MEDEC: the wrong sentence is checked against the corrected text, in which every content word must
  stand. Recall by kind of error. False alarms: a text without an error is checked against the
  corrected text of another record about the same patient, which says the same in other words; one
  flagged sentence is an alarm. Records without such a twin are not counted there; in a file without
  any, the other sentences of the faulty texts stand in.
- MedLFQA: pairs that experts judged (options A and B), or questions with statements that an answer
  must have.
"""

import argparse
import ast
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from medexp.data.words import split_words
from medexp.evaluation.measures import lexicon
from medexp.evaluation.measures.claim_evidence import ClaimEvidence, gather_evidence
from medexp.evaluation.measures.claims import NO_CONTENT, SUPPORTED, CheckedClaim, check_statement
from medexp.evaluation.measures.statements import Statement, split_statements
from medexp.evaluation.measures.words import stem_words
from medexp.evaluation.verifier import Item, RulesVerifier, Verifier, load_from_folder

Record = Mapping[str, Any]
LEAST_TWIN_OVERLAP = 0.8
CRITERIA = {1: 1, 2: 1, 3: 1, 4: 1, 5: -1, 6: -1, 7: -1, 8: -1, 9: -1}
_CHOICE = re.compile(r"(\d)\)[^:\n]*:\s*(Option A|Option B|Tie)")
_EXPLAINS = re.compile(
    r"\b(?:because|due to|since|by \w+ing|caused? by|result\w*|lead(?:s|ing)? to|so that"
    r"|in order to|such as|including|helps?|mechanism|works?|if|depend\w*|however|although|while"
    r"|as (?:it|they|this)|which (?:can|may|is|are|helps?|means))\b",
    re.IGNORECASE,
)


def main() -> None:
    """Measure what the command line names and print it."""
    options = _parser().parse_args()
    verifiers = _load_verifiers(options)
    found: dict[str, Any] = {}
    if options.medhallu:
        found["medhallu"] = measure_medhallu(
            read_records(options.medhallu, options.limit), verifiers
        )
    if options.medec:
        found["medec"] = measure_medec(read_records(options.medec, options.limit), verifiers)
    if options.medlfqa:
        found["medlfqa"] = measure_medlfqa(
            {file.stem: read_records(file, options.limit) for file in options.medlfqa}
        )
    print(json.dumps(found, indent=2) if options.format == "json" else format_table(found))


def read_records(file: Path, limit: int | None = None) -> list[Record]:
    """Return the JSON objects of a JSONL file, or of a JSON array, in order."""
    text = file.read_text(encoding="utf-8")
    rows = json.loads(text) if text.lstrip().startswith("[") else _json_lines(text)
    return [row for row in rows if isinstance(row, dict)][:limit]


def measure_medhallu(
    records: Sequence[Record], verifiers: Sequence[Verifier] = ()
) -> dict[str, Any]:
    """Return AUC and pair accuracy of the rules, of every verifier and of the controls."""
    usable = [row for row in records if _text(row, "true") and _text(row, "hallucinated")]
    items = [
        Item(_text(row, "question"), _knowledge(row.get("knowledge")), _text(row, side))
        for row in usable
        for side in ("true", "hallucinated")
    ]
    rules = RulesVerifier(lexicon.load()).support(items)
    scores = {verifier.name: verifier.support(items) for verifier in verifiers}
    # A causal model is a judge and a likelihood: the likelihood, which asks no skill of it, counts.
    chosen = [name for name in scores if name.endswith("likelihood")] or list(scores)
    best = _rank_mean([rules, *(scores[name] for name in chosen)]) if chosen else rules
    without = [Item(item.question, "", item.answer) for item in items]
    others = [items[(place + 2) % len(items)].evidence for place in range(len(items))]
    other = [
        Item(item.question, evidence, item.answer)
        for item, evidence in zip(items, others, strict=True)
    ]
    controls = {
        "length": [float(len(split_words(item.answer))) for item in items],
        "rules_without_knowledge": RulesVerifier(lexicon.load()).support(without),
        "rules_with_other_knowledge": RulesVerifier(lexicon.load()).support(other),
    }
    name = " + ".join(["rules", *chosen])
    mixtures = [
        names
        for count in range(2, len(scores) + 2)
        for names in combinations(["rules", *scores], count)
    ]
    columns = {"rules": rules, **scores}
    return {
        "records": len(usable),
        "left_out": len(records) - len(usable),
        "rules": _ranking(rules),
        "best": {**_ranking(best), "verifier": name},
        "verifiers": {key: _ranking(values) for key, values in scores.items()},
        "mean_ranks": {
            " + ".join(names): _ranking(_rank_mean([columns[name] for name in names]))
            for names in mixtures
        },
        "controls": {key: _ranking(values) for key, values in controls.items()},
    }


def measure_medec(records: Sequence[Record], verifiers: Sequence[Verifier] = ()) -> dict[str, Any]:
    """Return recall by kind and false alarms of the rules, and of each judge or classifier."""
    faulty = [
        {**row, "corrected_text": corrected}
        for row in records
        if row.get("is_faulty")
        and _text(row, "error_sentence")
        and (corrected := _corrected_text(row))
    ]
    correct = [row for row in records if not row.get("is_faulty") and _text(row, "text")]
    twins = [(row, twin) for row in correct if (twin := _find_twin(row, faulty))]
    # Where no patient is told twice, the other sentences of faulty texts are what must not be
    # flagged.
    rests = [] if twins else [(_without_error(row), row) for row in faulty]
    twins = twins or rests
    rules = _medec_figures(faulty, twins, _flag_by_rules)
    found: dict[str, Any] = {"rules": rules, "best": {**rules, "verifier": "rules"}}
    graded = [verifier for verifier in verifiers if not verifier.name.endswith("likelihood")]
    found["verifiers"] = {
        verifier.name: _medec_figures(
            faulty, twins, lambda pairs, verifier=verifier: _flag_by(verifier, pairs)
        )
        for verifier in graded
    }
    found["false_alarms_are_taken_on"] = "other sentences" if rests else "twins"
    found["records"] = {
        "wrong_sentences": len(faulty),
        "texts_without_error": len(correct),
        "of_them_with_a_twin": len(twins) - len(rests),
        "left_out": len(records) - len(faulty) - len(correct),
    }
    return found


def measure_medlfqa(files: Mapping[str, Sequence[Record]]) -> dict[str, Any]:
    """Return `preference` of a file of judged pairs, and `coverage` of files of questions with
    statements by the file's name.
    """
    found: dict[str, Any] = {}
    for name, records in files.items():
        if any("medical_expert_1" in row for row in records):
            found["preference"] = _preference(records)
        else:
            found.setdefault("coverage", {})[name] = _coverage(records)
    return found


def area_under_curve(positive: Sequence[float], negative: Sequence[float]) -> float:
    """Return the chance that a positive has a higher value than a negative, ties counting half."""
    ordered = sorted({*positive, *negative})
    below = dict.fromkeys(ordered, 0)
    counts = Counter(negative)
    total = 0
    for value in ordered:
        below[value], total = total, total + counts[value]
    won = sum(below[value] + counts[value] / 2 for value in positive)
    return won / (len(positive) * len(negative))


def format_table(found: Mapping[str, Any]) -> str:
    """Return the figures as indented lines, one figure each."""
    return "\n".join(_table_lines(found, 0))


def _flag_by_rules(pairs: Sequence[tuple[str, ClaimEvidence]]) -> list[bool]:
    flags = []
    for text, evidence in pairs:
        checked = [
            check_statement(statement, evidence, 1.0) for statement in split_statements(text)
        ]
        flags.append(any(_is_flagged(claim) for claim in checked))
    return flags


def _is_flagged(checked: CheckedClaim) -> bool:
    return checked.verdict != SUPPORTED and checked.why != NO_CONTENT


def _flag_by(verifier: Verifier, pairs: Sequence[tuple[str, ClaimEvidence]]) -> list[bool]:
    items = [Item("", evidence.text, text) for text, evidence in pairs]
    return [value < 0 for value in verifier.support(items)]


def _medec_figures(
    faulty: Sequence[Record],
    twins: Sequence[tuple[Record, Record]],
    flag: Callable[[Sequence[tuple[str, ClaimEvidence]]], list[bool]],
) -> dict[str, Any]:
    known = {
        id(row): gather_evidence([_text(row, "corrected_text")], lexicon.load()) for row in faulty
    }
    caught = flag([(_text(row, "error_sentence"), known[id(row)]) for row in faulty])
    by_kind: dict[str, list[bool]] = {}
    for row, is_caught in zip(faulty, caught, strict=True):
        by_kind.setdefault(str(row.get("error_type")), []).append(is_caught)
    sentences = [
        (place, statement.text, known[id(twin)])
        for place, (row, twin) in enumerate(twins)
        for statement in split_statements(_text(row, "text"))
    ]
    flags = flag([(text, evidence) for _, text, evidence in sentences])
    alarms = {place for (place, *_), is_flagged in zip(sentences, flags, strict=True) if is_flagged}
    return {
        "recall": _share(caught),
        "false_alarms": len(alarms) / len(twins) if twins else None,
        "false_alarms_by_sentence": _share(flags),
        "recall_by_kind": {kind: _share(by_kind[kind]) for kind in sorted(by_kind)},
    }


def _corrected_text(row: Record) -> str:
    """Return the text with the wrong sentence put right."""
    sentence, text = _text(row, "corrected_sentence"), _text(row, "text")
    whole = text.replace(_text(row, "error_sentence"), sentence) if sentence else ""
    return _text(row, "corrected_text") or whole


def _without_error(row: Record) -> Record:
    return {"text": _text(row, "text").replace(_text(row, "error_sentence"), " ")}


def _find_twin(row: Record, faulty: Sequence[Record]) -> Record | None:
    """Return the faulty record about the same patient: the one whose corrected text shares most
    words, if it shares LEAST_TWIN_OVERLAP of them.
    """
    own = stem_words(_text(row, "text"))
    overlaps = [
        (len(own & (other := stem_words(_text(row, "corrected_text")))) / len(own | other), place)
        for place, row in enumerate(faulty)
    ]
    overlap, place = max(overlaps, default=(0.0, 0))
    return faulty[place] if overlap >= LEAST_TWIN_OVERLAP else None


def _preference(records: Sequence[Record]) -> dict[str, Any]:
    """Return how often experts agree with each other on the better answer, and rules with them."""
    pairs = [
        (experts, _prefer(a, b), len(split_words(a)) - len(split_words(b)))
        for row in records
        if (a := _option(row, "Option A")) and (b := _option(row, "Option B"))
        if (experts := _expert_choices(row))
    ]
    between = [(one, other) for experts, *_ in pairs for one, other in combinations(experts, 2)]
    ours = [(expert, choice) for experts, choice, _ in pairs for expert in experts]
    longer = [(expert, _sign(by)) for experts, _, by in pairs for expert in experts]
    first = [(expert, 1) for experts, *_ in pairs for expert in experts]
    return {
        "pairs": len(pairs),
        "left_out": len(records) - len(pairs),
        "experts_with_each_other": _agreement(between),
        "rules_with_experts": _agreement(ours),
        "controls": {"longer_answer": _agreement(longer), "always_option_a": _agreement(first)},
    }


def _prefer(a: str, b: str) -> int:
    """Return 1 where answer `a` is better, -1 where `b`, by three votes: more different content
    words, more different words that explain, and more of the other's content in it.
    """
    in_a, in_b = stem_words(a), stem_words(b)
    shared = len(in_a & in_b)
    explains = (len({match.casefold() for match in _EXPLAINS.findall(text)}) for text in (a, b))
    more_explained = next(explains) - next(explains)
    covers_more = shared * (len(in_a) - len(in_b))
    return _sign(_sign(len(in_a) - len(in_b)) + _sign(more_explained) + _sign(covers_more))


def _expert_choices(row: Record) -> list[int]:
    choices = []
    for key in sorted(key for key in row if key.startswith("medical_expert_")):
        marks = _CHOICE.findall(str(row[key]))
        value = {"Option A": 1, "Option B": -1, "Tie": 0}
        if marks:
            choices.append(
                _sign(sum(CRITERIA.get(int(at), 0) * value[choice] for at, choice in marks))
            )
    return choices


def _agreement(pairs: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Return the share of equal choices, ties included, and of those where both chose."""
    chosen = [(one, other) for one, other in pairs if one and other]
    return {
        "all": _share([one == other for one, other in pairs]),
        "without_ties": _share([one == other for one, other in chosen]),
        "compared": len(chosen),
    }


def _coverage(records: Sequence[Record]) -> dict[str, Any]:
    """Return the share of statements that the question's own answer makes, and another's answer."""
    usable = [row for row in records if _text(row, "Free_form_answer") and row.get("Must_have")]
    answers = [gather_evidence([_text(row, "Free_form_answer")], lexicon.load()) for row in usable]
    figures: dict[str, Any] = {"questions": len(usable), "left_out": len(records) - len(usable)}
    for key in ("Must_have", "Nice_to_have"):
        own, other = [], []
        for place, row in enumerate(usable):
            for statement in row.get(key) or ():
                own.append(_is_said(str(statement), answers[place]))
                other.append(_is_said(str(statement), answers[(place + 1) % len(usable)]))
        figures[key] = {"own_answer": _share(own), "other_answer": _share(other)}
    return figures


def _is_said(statement: str, answer: ClaimEvidence) -> bool:
    return check_statement(Statement(statement, 0, len(statement)), answer).verdict == SUPPORTED


def _ranking(support: Sequence[float]) -> dict[str, float | None]:
    """Return how well `support` (true and hallucinated by turns) ranks true above hallucinated."""
    true, hallucinated = support[::2], support[1::2]
    if not true:
        return {"auc": None, "pair_accuracy": None}
    won = [
        (one > other) + (one == other) / 2 for one, other in zip(true, hallucinated, strict=True)
    ]
    return {
        "auc": round(area_under_curve(true, hallucinated), 4),
        "pair_accuracy": round(sum(won) / len(won), 4),
    }


def _rank_mean(columns: Sequence[Sequence[float]]) -> list[float]:
    """Return the mean rank of every item over `columns`, each counting the same."""
    ranks = []
    for column in columns:
        order = {value: place for place, value in enumerate(sorted(set(column)))}
        ranks.append([order[value] / max(1, len(order) - 1) for value in column])
    return [sum(values) / len(values) for values in zip(*ranks, strict=True)]


def _knowledge(value: Any) -> str:
    """Return the passages of a list, or of a printed array of strings, as one text."""
    if isinstance(value, list):
        return " ".join(map(str, value))
    text = str(value or "").strip()
    if not (text.startswith("[") and text.endswith("]")):
        return text
    parts = re.findall(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", text[1:-1])
    try:
        return " ".join(str(ast.literal_eval(part)) for part in parts) or text
    except (ValueError, SyntaxError):
        return text


def _option(row: Record, name: str) -> str:
    return next((_text(row, key) for key in row if f"({name})" in key), "")


def _text(row: Record, key: str) -> str:
    value = row.get(key)
    return value if isinstance(value, str) else ""


def _json_lines(text: str) -> list[Any]:
    rows = []
    for line in text.splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def _share(flags: Sequence[bool]) -> float | None:
    return round(sum(flags) / len(flags), 4) if flags else None


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _table_lines(value: Mapping[str, Any], depth: int) -> Iterable[str]:
    for key, figure in value.items():
        if isinstance(figure, Mapping):
            yield f"{'  ' * depth}{key}"
            yield from _table_lines(figure, depth + 1)
        else:
            shown = f"{figure:.3f}" if isinstance(figure, float) else str(figure)
            yield f"{'  ' * depth}{key:<{max(4, 40 - 2 * depth)}} {shown}"


def _load_verifiers(options: argparse.Namespace) -> list[Verifier]:
    if options.verifier is None:
        return []
    import peft
    import transformers

    libraries = SimpleNamespace(transformers=transformers, peft=peft)
    verifiers = load_from_folder(
        options.verifier,
        libraries,
        options.batch_size,
        not options.plain_prompt,
        options.verifier_base,
    )
    return [
        verifier
        for verifier in verifiers
        if not options.only or verifier.name.endswith(options.only)
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--medhallu", type=Path)
    parser.add_argument("--medec", type=Path)
    parser.add_argument("--medlfqa", type=Path, nargs="+")
    parser.add_argument("--verifier", type=Path, help="folder of a model, adapter or classifier")
    parser.add_argument("--verifier-base", type=Path, help="folder of an adapter's base model")
    parser.add_argument("--only", choices=("judge", "likelihood"), help="of a causal model")
    parser.add_argument(
        "--plain-prompt", action="store_true", help="ask without the model's chat template"
    )
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--limit", type=int, help="only the first so many records of each file")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    return parser


if __name__ == "__main__":
    main()
