"""python -m medexp.audit: the cases of a training run before it is started; the model's tokenizer
is loaded, the model is not.

    python -m medexp.audit
    python -m medexp.audit dataset=local dataset.path=my_cases.json audit.strict=true
    python -m medexp.audit hardware=rtx4050_6gb 'audit.benchmark_files=[medqa_test.jsonl]'

Takes the overrides of medexp.train. Writes audit.json and audit.html. With audit.strict=true it
ends with 2 when a rule is broken.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.text import Text

from medexp.cli.app import run_command
from medexp.config.command_options import AuditOptions
from medexp.config.invocation import Invocation
from medexp.config.schema import RunConfig
from medexp.data import loading as source
from medexp.data import mixture
from medexp.data.audit.contamination import extract_benchmark_texts
from medexp.data.audit.inspection import Inspection
from medexp.data.token_roles import Role, TokenSpan
from medexp.data.tokenizer_cache import CachedTokenizer
from medexp.errors import DataError
from medexp.models import backend as stack
from medexp.models import weights
from medexp.models.tokenizer import load_tokenizer
from medexp.reports import audit_report
from medexp.system import machine
from medexp.system.console import DONE, WRONG, Console
from medexp.system.visible import visible

_LOOK = {  # the sixteen colours that every terminal has
    Role.instructions: "black on magenta",
    Role.question: "white on blue",
    Role.reasoning: "black on cyan",
    Role.answer: "black on green",
    Role.marks: "black on yellow",
    Role.eos: "bold white on red",
}
PREVIEW_CHARACTERS = 130  # of a piece, on the screen


def audit(config: RunConfig, options: AuditOptions, folder: Path, console: Console) -> Inspection:
    """Look at every case of `config`, show a summary, and write audit.json and audit.html into
    `folder`.

    Raises: DataError with every broken rule if `options.strict`.
    """
    benchmarks = {
        Path(file).name: _benchmark(Path(file), key)
        for key, file in _benchmark_files(config, options)
    }
    cases = source.load_cases(config.dataset, config.prompt)
    sides = mixture.split_mixture(cases.by_source, config.dataset, cases.reading)
    speller = _speller(config, console)
    with console.progress("tokenising", speller.count(config, sides)) as advance:
        ready = speller.prepared(config, sides, advance)
    with console.status("looking at the cases"):
        seen = speller.inspected(config, ready, benchmarks)
    files = _write(seen, config, folder)
    _show(seen, files, console)
    if options.strict and seen.broken:
        raise DataError([f"{rule} (audit.strict=true)" for rule in seen.broken])
    return seen


def _benchmark_files(config: RunConfig, options: AuditOptions) -> Iterator[tuple[str, str]]:
    """(key it is set by, file): the audit's own, and those that the run is evaluated with."""
    yield from (("audit.benchmark_files", file) for file in options.benchmark_files)
    used = vars(config.evaluation.benchmark_files).items()
    yield from (
        (f"evaluation.benchmark_files.{name}", file) for name, file in used if file is not None
    )


def _benchmark(file: Path, key: str) -> list[tuple[str, str]]:
    texts = list(extract_benchmark_texts(source.read_records(file, key)))
    if not texts:
        raise DataError(
            f"{key}={file} has no text in 'question'; give MedQA, MedMCQA or PubMedQA files"
        )
    return texts


def _speller(config: RunConfig, console: Console) -> CachedTokenizer:
    found = weights.find_weights(config.model, tokenizer_only=True)
    with console.status("loading the tokenizer"):
        if found.gguf is not None:
            found = weights.convert_gguf(
                found, config.model, stack.load_backend(config.hardware, machine.cache_dir())
            )
        return CachedTokenizer(
            load_tokenizer(found, stack.load_transformers(config.hardware)), config.prompt
        )


def _write(seen: Inspection, config: RunConfig, folder: Path) -> tuple[Path, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    values, html = folder / "audit.json", folder / "audit.html"
    values.write_text(
        json.dumps(seen.as_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    html.write_text(audit_report.render_audit_page(config, seen), encoding="utf-8")
    return values, html


def _show(seen: Inspection, files: tuple[Path, Path], console: Console) -> None:
    console.results.print(_key())
    for pieces in seen.previews:
        console.results.print(_preview(pieces))
    rows = [
        (name, f"{each.median:g}", f"{each.p95:,}", f"{each.longest:,}", _bars(each.bins))
        for name, each in seen.lengths.items()
    ]
    console.table(
        f"Tokens per training case, limit {seen.max_tokens:,}",
        ("part", "median", "p95", "longest", "from 0 to the longest"),
        rows,
    )
    console.table("", ("", ""), _summary(seen))
    for rule in seen.broken:
        console.result(rule, WRONG)
    if not seen.broken:
        console.result("all checks passed", DONE)
    console.result(f"Written: {files[0]} and {files[1]}")


def _summary(seen: Inspection) -> list[tuple[str, str]]:
    total = sum(seen.label_tokens.values())
    shares = ", ".join(
        f"{name} {100 * count / total:.1f} %" for name, count in seen.label_tokens.items()
    )
    faults = seen.reasoning
    return [
        ("cases", seen.audit.sentence()),
        ("in the loss", f"{total:,} tokens, each case once: {shares}"),
        (
            "near duplicates",
            f"{len(seen.repeats)} in training, {len(seen.near_held_out)} of a held-out question",
        ),
        (
            "overlap",
            (
                f"{len(seen.leaks)} training cases share a question or 13 words with:"
                f" {', '.join(seen.measured)}"
            ),
        ),
        (
            "reasoning",
            (
                f"{len(faults.empty)} empty, {len(faults.of_another_case)} of another case,"
                f" {len(faults.same_as_answer)} the same as the answer, {len(faults.in_circles)}"
                " repetitive"
            ),
        ),
        ("missing values", f"{len(seen.missing_values)} as answer or reasoning"),
        ("language", ", ".join(f"{name} {count}" for name, count in seen.languages[:6])),
    ]


def _bars(bins: tuple[int, ...]) -> str:
    """A histogram in a line of text."""
    tallest = max(bins)
    return "".join(" ▁▂▃▄▅▆▇█"[-(-8 * cases // tallest)] for cases in bins)


def _key() -> Text:
    """What the colours mean."""
    text = Text("In the loss: ")
    for role, look in _LOOK.items():
        text.append(f" {role.value} ", look).append(" ")
    return text.append("grey: read, not in the loss", "bright_black").append("\n")


def _preview(pieces: Sequence[TokenSpan]) -> Text:
    """A case in the colours of `_LOOK`, on few lines; long pieces are cut in their middle, what is
    not learnt is grey.
    """
    text = Text()
    for piece in pieces:
        words = "⟨EOS⟩" if piece.role is Role.eos else visible(_middle_cut(piece.text))
        text.append(words, _LOOK[piece.role] if piece.learnt else "bright_black")
    return text.append("\n")


def _middle_cut(text: str) -> str:
    text, half = text.replace("\n", "⏎"), PREVIEW_CHARACTERS // 2
    return text if len(text) <= PREVIEW_CHARACTERS else f"{text[:half]} … {text[-half:]}"


def _run(config: RunConfig, invocation: Invocation[AuditOptions, None]) -> float:
    inspection = audit(config, invocation.options, invocation.output_dir, Console())
    return float(len(inspection.broken))


def main() -> None:
    """Run the command that the command line describes; ends the process."""
    run_command(_run, "audit", AuditOptions, needs_card=False)


if __name__ == "__main__":
    main()
