"""python -m medexp.audit: a summary, two files, exit code 2 where a rule is broken and that was
asked for; and with every run.
"""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from helpers import browser
from helpers.chats import RECORDS, SHAREGPT, write_chat
from helpers.commands import TinyRuns, command

from medexp.audit import audit
from medexp.config.command_options import AuditOptions
from medexp.errors import DataError
from medexp.system.console import Console

AUDIT = ["-m", "medexp.audit"]


def written(file: Path, count: int, **changes: str) -> Path:
    """`count` different cases as JSON."""
    words = ["fever", "cough", "rash", "pallor", "vertigo", "nausea", "jaundice", "tremor"]
    records = [
        {
            "Question": (
                f"A patient of {20 + number} has had {words[number % 8]} since Monday; what now,"
                f" doctor {number}?"
            ),
            "Complex_CoT": (
                f"At {20 + number}, {words[number % 8]} is likely harmless. It may still be"
                f" {words[(number + 3) % 8]}."
            ),
            "Response": (
                f"Rest for {number} days, and come back if the {words[number % 8]} <b>stays</b>."
            ),
        }
        | changes
        for number in range(count)
    ]
    file.write_text(json.dumps(records))
    return file


def audited(
    tiny_runs: TinyRuns, *overrides: str, strict: bool = False, benchmarks: tuple[Path, ...] = ()
):
    options = AuditOptions(strict=strict, benchmark_files=list(map(str, benchmarks)))
    return audit(tiny_runs.run(*overrides), options, tiny_runs.root / "audited", Console())


class Page(HTMLParser):
    """The words of a page, and everything it would fetch."""

    def __init__(self, text: str):
        super().__init__()
        self.words, self.fetched = "", []
        self.feed(text)

    def handle_data(self, data):
        self.words += data

    def handle_starttag(self, tag, attrs):
        self.fetched += [value for name, value in attrs if name in ("src", "href")] + [tag] * (
            tag == "script"
        )


def test_the_shipped_cases_break_no_rule(
    tiny_runs_in, whole_vocabulary_model, tmp_path, capsys
) -> None:
    tiny_runs = tiny_runs_in(tmp_path, whole_vocabulary_model)
    audited(tiny_runs, "dataset.max_cases=null", "dataset.held_out=16", strict=True)
    output = capsys.readouterr().out
    for part in (
        "328 to train on, 16 held out",
        "Tokens per training case",
        "all checks passed",
        "reasoning 30.4 %",
        "language",
    ):
        assert part in " ".join(output.replace("│", " ").split())
    assert "⟨EOS⟩" in output  # the preview
    values = json.loads((tiny_runs.root / "audited" / "audit.json").read_text())
    assert (values["train"]["kept"], values["broken_rules"], values["languages"]) == (
        328,
        [],
        {"en": 328},
    )
    assert values["label_tokens"]["EOS"] == 328


def test_strict_ends_with_2_and_every_broken_rule(tmp_path: Path) -> None:
    file = written(tmp_path / "cases.json", 40, Complex_CoT="It is what it is.")
    words = ["dataset=local", f"dataset.path={file}", "hydra.run.dir=out"]
    status, output = command(*AUDIT, *words, "audit.strict=true", cwd=tmp_path)
    assert status == 2, output
    assert re.search(
        r"medexp: \d+ of 24 training cases whose reasoning is copied or repetitive.*"
        r" \(audit.strict=true\)",
        output,
    )
    assert (tmp_path / "out" / "audit.html").is_file()
    assert not list(tmp_path.glob("mlruns"))


def test_without_strict_a_broken_rule_is_shown(tiny_runs: TinyRuns, tmp_path: Path, capsys) -> None:
    file = written(tmp_path / "cases.json", 40, Complex_CoT="It is what it is.")
    seen = audited(tiny_runs, "dataset=local", f"dataset.path={file}", "dataset.max_cases=40")
    assert seen.broken
    assert "✗" in capsys.readouterr().out


def test_the_page_fetches_nothing_and_shows_cases_as_text(
    tiny_runs: TinyRuns, tmp_path: Path
) -> None:
    file = written(tmp_path / "cases.json", 40)
    audited(tiny_runs, "dataset=local", f"dataset.path={file}", "dataset.max_cases=40")
    text = (tiny_runs.root / "audited" / "audit.html").read_text()
    page = Page(text)
    assert page.fetched == []
    assert "<b>stays</b>" in page.words
    assert page.words.count("⟨EOS⟩") == 3
    assert text.count("<svg") == 4


@pytest.fixture
def repeated(tiny_runs: TinyRuns, tmp_path: Path) -> str:
    """The page over cases of which many are repeated."""
    cases = json.loads(written(tmp_path / "cases.json", 40).read_text())
    again = [
        case | {"Question": case["Question"].replace("what now", "what now then")} for case in cases
    ]
    (tmp_path / "cases.json").write_text(json.dumps([*cases, *again]))
    audited(
        tiny_runs,
        "dataset=local",
        f"dataset.path={tmp_path / 'cases.json'}",
        "dataset.max_cases=80",
        "dataset.held_out=8",
    )
    return (tiny_runs.root / "audited" / "audit.html").read_text()


def test_of_many_findings_the_page_says_that_it_shows_the_first(repeated: str) -> None:
    title, count, table = re.findall(
        r"<h2>([^<]*another one): (\d+), here the first 20</h2>(.*?)</table>", repeated
    )[0]
    assert title == "Training questions that nearly repeat another one"
    assert int(count) > 20
    assert table.count("<tr>") == 1 + 20


def test_figures_stand_under_their_heads_and_the_key_is_of_what_is_learnt(repeated: str) -> None:
    assert "<th>labels that are</th><th class='n'>tokens</th><th class='n'>share</th>" in repeated
    assert re.search(
        r"<td>answer</td><td class='n'>[\d,]+</td><td class='n'>[\d.]+ %</td>", repeated
    )
    (key,) = re.findall(r"<p class='key'>(.*?)</p>", repeated)
    assert ">answer<" in key
    assert ">question<" not in key


@pytest.mark.browser
def test_the_page_is_no_wider_than_a_phone(repeated: str) -> None:
    assert "name='viewport'" in repeated
    with browser.window(browser.chromium(), width=400) as (page, _):
        page.set_content(repeated)
        assert page.evaluate("document.documentElement.scrollWidth") == 400


def test_a_benchmark_file_is_looked_for_in_the_training_cases(
    tiny_runs: TinyRuns, tmp_path: Path
) -> None:
    file = written(tmp_path / "cases.json", 40)
    question = json.loads(file.read_text())[17]["Question"]
    benchmark = tmp_path / "medqa.jsonl"
    benchmark.write_text(
        "\n".join(json.dumps({"question": text}) for text in ("Something else?", question))
    )
    overrides = ["dataset=local", f"dataset.path={file}", "dataset.max_cases=40"]
    seen = audited(tiny_runs, *overrides, benchmarks=(benchmark,))
    assert [leak.measured for leak in seen.leaks] == ["medqa.jsonl, number 2"]
    with pytest.raises(
        DataError, match=r"1 training cases share a question or 13 words.*audit.strict=true"
    ):
        audited(tiny_runs, *overrides, strict=True, benchmarks=(benchmark,))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("none.jsonl", None, "audit.benchmark_files=.*none.jsonl does not exist"),
        ("bench.jsonl", '{"prompt": "x"}', "bench.jsonl has no text in 'question'"),
        ("bench.txt", "", "audit.benchmark_files=.*bench.txt ends in .txt; allowed are"),
    ],
)
def test_a_wrong_benchmark_file_is_refused(
    tiny_runs: TinyRuns, tmp_path: Path, name: str, text: str | None, said: str
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=said):
        audited(tiny_runs, benchmarks=(tmp_path / name,))


def test_every_run_keeps_the_audit(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    result = tiny_runs.train()
    kept = Path(tiny_runs.client().download_artifacts(result.run_id, "data", str(tmp_path)))
    values = json.loads((kept / "audit.json").read_text())
    assert (values["train"]["kept"], values["overlap"]["count"]) == (6, 0)
    assert Page((kept / "audit.html").read_text()).fetched == []


def test_a_broken_mixture_costs_one_sentence(tmp_path: Path) -> None:
    status, output = command(
        *AUDIT, "dataset=mixture", "dataset.mixture=[{use: medical, weight: 1}]", cwd=tmp_path
    )
    assert (status, output.count("\n")) == (2, 1)
    assert "dataset.mixture[0].use=medical does not exist" in output


@pytest.mark.parametrize("reasons", [True, False])
def test_an_audit_of_chats_says_who_speaks(
    tiny_runs: TinyRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str], reasons: bool
) -> None:
    file = write_chat(tmp_path / "chats.json", SHAREGPT, reasons)
    alone = {"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]}
    file.write_text(json.dumps([*json.loads(file.read_text()), alone]))
    words = ["dataset=local", f"dataset.path={file}", "dataset.held_out=2", "dataset.validation=0"]
    more = ["dataset.max_cases=null", "dataset.turns=all", "prompt=chat"]
    counts = {"count": RECORDS + 1, "several_turns": RECORDS, "with_system": RECORDS}
    turns = {"system": RECORDS, "user": 2 * RECORDS + 1, "assistant": 2 * RECORDS + 1}
    inspection = audited(tiny_runs, *words, *more)
    assert inspection.as_dict()["conversations"] == counts | {"turns": turns}
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert f"{RECORDS + 1} conversations, {RECORDS} with several questions" in shown
    assert f"{turns['user']} of user" in shown
    page = Page((tiny_runs.root / "audited" / "audit.html").read_text())
    text = " ".join(page.words.split())
    assert f"with a system text{RECORDS}" in text
    assert f"turns of assistant{turns['assistant']}" in text
    assert ("earlier answers of a conversation" in text) is not reasons


def test_questions_alone_are_no_conversations(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    inspection = audited(
        tiny_runs, "dataset=local", f"dataset.path={written(tmp_path / 'cases.json', 12)}"
    )
    assert inspection.as_dict()["conversations"] is None
