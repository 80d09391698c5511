"""python -m medexp.audit: the cases of a training run before it is started; the model's tokenizer
is loaded, the model is not.

    python -m medexp.audit
    python -m medexp.audit dataset=local dataset.path=my_cases.json audit.strict=true
    python -m medexp.audit hardware=rtx4050_6gb 'audit.benchmark_files=[medqa_test.jsonl]'

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
from medexp.data.tokenizer_cache import CachedTokenizer
from medexp.errors import DataError
from medexp.models import backend, weights
from medexp.models.tokenizer import load_tokenizer
from medexp.reports import audit_report
from medexp.reports.audit_tables import print_inspection
from medexp.system import machine
from medexp.system.console import Console


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
    tokenizer = _load_tokenizer(config, console)
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


def _load_tokenizer(config: RunConfig, console: Console) -> CachedTokenizer:
    found = weights.find_weights(config.model, tokenizer_only=True)
    with console.status("loading the tokenizer"):
        if found.gguf is not None:
            found = weights.convert_gguf(
                found, config.model, backend.load_backend(config.hardware, machine.cache_dir())
            )
        return CachedTokenizer(
            load_tokenizer(found, backend.load_transformers(config.hardware)), config.prompt
        )


def _write_files(inspection: Inspection, config: RunConfig, folder: Path) -> tuple[Path, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    values, html = folder / "audit.json", folder / "audit.html"
    values.write_text(
        json.dumps(inspection.as_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    html.write_text(audit_report.render_audit_page(config, inspection), encoding="utf-8")
    return values, html


def _run(config: RunConfig, invocation: Invocation[AuditOptions, None]) -> float:
    inspection = audit(config, invocation.options, invocation.output_dir, Console())
    return float(len(inspection.broken))


COMMAND: CommandSpec[AuditOptions, None] = CommandSpec("audit", AuditOptions, needs_card=False)


def main() -> None:
    """Run the command that the command line describes; ends the process."""
    run_command(_run, COMMAND)


if __name__ == "__main__":
    main()
