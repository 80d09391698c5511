"""python -m medexp.audit: the cases of a training run before it is started; the model's tokenizer
is loaded, the model is not.

    python -m medexp.audit
    python -m medexp.audit dataset=local dataset.path=my_cases.json audit.strict=true
    python -m medexp.audit hardware=rtx4050_6gb 'audit.benchmark_files=[medqa_test.jsonl]'
    python -m medexp.audit audit.review_sheet=review.csv    # 30 cases for a clinician to judge
    python -m medexp.audit audit.review=review.csv          # what came back

Takes the overrides of medexp.train. Writes audit.json and audit.html. With audit.strict=true it
ends with 2 when a rule is broken.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from medexp.cli.app import run_command
from medexp.cli.composition import CommandSpec
from medexp.config.command_options import AuditOptions
from medexp.config.invocation import Invocation
from medexp.config.schema import RunConfig
from medexp.data import loading as data_loading
from medexp.data import mixture
from medexp.data.audit.contamination import extract_benchmark_texts
from medexp.data.audit.inspection import Inspection, inspect_prepared
from medexp.data.audit.review_sheet import KINDS, VERDICTS, Review, read_review, render_sheet
from medexp.data.tokenizer_cache import CachedTokenizer
from medexp.errors import DataError
from medexp.models import backend, weights
from medexp.models.tokenizer import bind_run_prompt, check_chat_template, load_tokenizer
from medexp.reports import audit_report
from medexp.reports.audit_tables import print_inspection, print_review
from medexp.system import machine
from medexp.system.console import Console
from medexp.system.files import write_json_atomic, write_text_atomic
from medexp.system.home import expand_home


def audit(config: RunConfig, options: AuditOptions, folder: Path, console: Console) -> Inspection:
    """Look at every case of `config`, show a summary, and write audit.json and audit.html into
    `folder`.

    Raises: DataError with every broken rule if `options.strict`.
    """
    benchmarks = {
        Path(file).name: _read_benchmark(Path(file), key)
        for key, file in _list_benchmark_files(config, options)
    }
    cases = data_loading.load_cases(config.dataset, config.prompt)
    sides = mixture.split_mixture(cases.by_source, config.dataset, cases.reading)
    config, tokenizer = _load_tokenizer(config, console)
    with console.progress("tokenising", tokenizer.count_texts(config, sides)) as advance:
        ready = tokenizer.prepare_cases(config, sides, advance)
    with console.status("looking at the cases"):
        inspection = inspect_prepared(tokenizer, config, ready, benchmarks)
    files = _write_files(inspection, config, folder)
    print_inspection(inspection, files, console)
    if options.strict and inspection.broken:
        raise DataError([f"{rule} (audit.strict=true)" for rule in inspection.broken])
    return inspection


def _list_benchmark_files(config: RunConfig, options: AuditOptions) -> Iterator[tuple[str, str]]:
    """Yield (key it is set by, file): the audit's own, and those that the run is evaluated with."""
    yield from (("audit.benchmark_files", file) for file in options.benchmark_files)
    used = vars(config.evaluation.benchmark_files).items()
    yield from (
        (f"evaluation.benchmark_files.{name}", file) for name, file in used if file is not None
    )


def _read_benchmark(file: Path, key: str) -> list[tuple[str, str]]:
    texts = list(extract_benchmark_texts(data_loading.read_records(file, key)))
    if not texts:
        raise DataError(
            f"{key}={file} has no text in 'question'; give MedQA, MedMCQA or PubMedQA files"
        )
    return texts


def _load_tokenizer(config: RunConfig, console: Console) -> tuple[RunConfig, CachedTokenizer]:
    """Return `config` with its prompt as it is written for the model's tokenizer, and that."""
    found = weights.find_weights(config.model, tokenizer_only=True)
    check_chat_template(config, found)
    with console.status("loading the tokenizer"):
        if found.gguf is not None:
            found = weights.convert_gguf(
                found, config.model, backend.load_backend(config.hardware, machine.cache_dir())
            )
        tokenizer = load_tokenizer(found, backend.load_transformers(config.hardware))
        config = bind_run_prompt(config, tokenizer)
        return config, CachedTokenizer(tokenizer, config.prompt)


def _write_files(inspection: Inspection, config: RunConfig, folder: Path) -> tuple[Path, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    values, html = folder / "audit.json", folder / "audit.html"
    values.write_text(
        json.dumps(inspection.as_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    html.write_text(audit_report.render_audit_page(config, inspection), encoding="utf-8")
    return values, html


def write_review_sheet(config: RunConfig, options: AuditOptions, console: Console) -> Path:
    """Write `options.review_cases` random cases of `config` as a sheet to be judged; return its
    file.

    Raises: DataError if the file is there already: it may hold an hour's work.
    """
    assert options.review_sheet is not None
    file = expand_home(options.review_sheet)
    if file.exists():
        raise DataError(
            f"audit.review_sheet={file} is there already and may hold somebody's work; name"
            " another file, or read it with audit.review"
        )
    cases = data_loading.load_cases(config.dataset, config.prompt).cases
    sheet = render_sheet(cases, options.review_cases, config.dataset.split_seed)
    write_text_atomic(file, sheet)
    console.result(
        f"Written: {min(options.review_cases, len(cases))} of {len(cases)} cases, {file}"
    )
    console.result(
        f"For every case fill verdict ({', '.join(VERDICTS)}) and, where it is not right, kind"
        f" ({', '.join(KINDS)}); then python -m medexp.audit audit.review={file}"
    )
    return file


def read_review_sheet(
    config: RunConfig, options: AuditOptions, folder: Path, console: Console
) -> Review:
    """Return what came back in the sheet `options.review`, show it, and write review.json into
    `folder`.

    Raises: DataError if it is no sheet or has a verdict that is none; with `options.strict` if a
        case was judged wrong or dangerous.
    """
    assert options.review is not None
    file = Path(options.review)
    rows = data_loading.read_records(file, "audit.review")
    cases = data_loading.load_cases(config.dataset, config.prompt).cases
    review = read_review(rows, cases, str(file))
    folder.mkdir(parents=True, exist_ok=True)
    write_json_atomic(folder / "review.json", review.as_dict())
    print_review(review, folder / "review.json", console)
    serious = sum(remark.verdict in ("wrong", "dangerous") for remark in review.remarks)
    if options.strict and serious:
        raise DataError(f"{serious} cases were judged wrong or dangerous (audit.strict=true)")
    return review


def _run(config: RunConfig, invocation: Invocation[AuditOptions, None]) -> float:
    options = invocation.options
    if options.review_sheet is not None:
        write_review_sheet(config, options, Console())
        return 0.0
    if options.review is not None:
        review = read_review_sheet(config, options, invocation.output_dir, Console())
        return float(len(review.remarks))
    inspection = audit(config, options, invocation.output_dir, Console())
    return float(len(inspection.broken))


COMMAND: CommandSpec[AuditOptions, None] = CommandSpec("audit", AuditOptions, needs_card=False)


def main() -> None:
    """Run the command that the command line describes; ends the process."""
    run_command(_run, COMMAND)


if __name__ == "__main__":
    main()
