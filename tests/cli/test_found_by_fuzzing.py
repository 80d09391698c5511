"""Command lines and files that the fuzzer (benchmarks/torture) found to end in exit code 1 or in a
traceback.
"""

from pathlib import Path

import pytest
from helpers.commands import command

FOUND = {
    "the home of a user whom nobody knows": (
        ["ask", "run=~nobody-at-all/adapter", "question=hello"],
        "run=~nobody-at-all/adapter does not exist",
    ),
    "a spreadsheet": (
        ["audit", "dataset=local", f"dataset.path={__file__}.xlsx"],
        "does not exist; give a JSON, JSONL, CSV, TSV or Parquet file",
    ),
    "a list that refers to a number": (
        ["plan", "lora.target_modules=${lora.r}"],
        "lora.target_modules has 16; allowed are",
    ),
    "a mapping that refers to a number": (
        ["plan", "tracking.tags=${lora.r}"],
        "tracking.tags=16 is not allowed",
    ),
    "a group that refers to a number": (
        ["plan", "evaluation.judge=${lora.r}"],
        "evaluation.judge=16 is not allowed: it is a group",
    ),
    "a command's own group that refers to a word": (
        ["audit", "audit=${model.name}"],
        "audit=smollm2_135m is not allowed",
    ),
    "a number of 400 digits": (
        ["plan", f"training.max_seq_tokens={'9' * 400}"],
        "training.max_seq_tokens=(more than 2^63) is out of",
    ),
    "a number of 5,000 digits": (
        ["plan", f"training.max_seq_tokens={'9' * 5000}"],
        "training.max_seq_tokens",
    ),
    "an option longer than a file's name may be": (["plan", f"dataset=x{'9' * 5000}"], "dataset"),
    "a flag that needs another": (
        ["audit", "--resolve"],
        "--resolve flag can only be used in conjunction with --cfg",
    ),
    "a setting of Hydra's that it asserts": (
        ["plan", "hydra.verbose=1"],
        "assert isinstance(verbose_config, (bool, str))",
    ),
    "the root of another command": (
        ["train", "--config-name=plan"],
        "--config-name=plan has no group train",
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_a_command_line_is_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    (program, *words), said = FOUND[name]
    status, output = command("-m", f"medexp.{program}", *words, cwd=tmp_path)
    assert (status, output.count("\n")) == (2, 1), output
    assert output.startswith("medexp: ")
    assert said in output


def test_a_dotenv_that_is_no_text_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"HF_TOKEN=\xfe\n")
    status, output = command("-m", "medexp.plan", cwd=tmp_path)
    assert (status, output) == (
        2,
        (
            f"medexp: {tmp_path / '.env'} is not UTF-8 text (byte 9); save it as UTF-8, or move it"
            " away\n"
        ),
    )
