"""Command lines and case files drawn at random: a seed and a number say which, on any machine and
in any order.
"""

import csv
import io
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, get_args

from medexp.config.command_options import AuditConfig, PlanConfig, TrainConfig
from medexp.config.hydra_errors import list_keys
from medexp.config.registration import SCHEMAS
from medexp.config.schema import RunConfig
from medexp.config.shipped import find_conf_dir

PROGRAMS: dict[str, type[RunConfig]] = {
    "plan": PlanConfig,
    "audit": AuditConfig,
    "train": TrainConfig,
}

# What people type, paste, and get out of spreadsheets, and what is none of these.
NUMBERS = (
    "0", "-1", "1", "2", "7", "1e3", "1.5", "-0.0", "1e308", "1e999", "-1e999", ".5", "1_000",
    "0x10", "010", "nan", ".nan",
    "inf", "-.inf", str(2**31), str(2**63), str(2**64 + 1), "9" * 40, "9" * 400, "9" * 5000,
    "1e-320", "１２", "٣", "1,5", "50%",
)  # fmt: skip
WORDS = (
    "", " ", "null", "None", "~", "true", "false", "yes", "auto", "max", "???", "x", "ä", "病人",
    "🩺", "a b", "a=b", "a,b", "a:b",
    "'", '"', "'open", '"a"b"', "\\", "\\'", "$HOME", "${lora.r}", "${nothing}", "${now:%Y}",
    "${oc.env:HOME}", "${oc.env:NO_SUCH}",
    "${", "}", "${lora.r", "{", "[", "]", "(", ")", "[]", "{}", "[[]]", "{a: 1}", "[1, 2]",
    "{a: {b: [1]}}", "[a, b", "choice(1,2)",
    "range(1,3)", "interval(0,1)", "glob(*)", "int(x)", "sort(3,1)", "shuffle(1,2)", "#", "a#b",
    "a # b", "!", "&x", "*x", "@x", "%", "a\tb",
    "a\nb", "a\r\nb", "\x1b[31mred\x1b[0m", "\x07", "\u202e", "\u200b", "\ufeff", "a\u0301",
    "\udcff", "\udc80\udcfe", "x" * 300,
    "x" * 5000, "-", "--", "-x", "/", "//", ".", "..", "../..", "~/x", "/dev/null", "/dev/full",
    "/proc/self/mem", "/etc", "C:\\Temp\\x",
    "file:///tmp", "http://127.0.0.1:9", "COM1", "a/b", "a\\b", "*", "?", "1; rm x", "`x`", "=",
    "==", ",", ",,", "q_proj,v_proj",
    "[q_proj,v_proj]", "{question}", "{answer}{reasoning}", "{question", "{}", "{0}",
    "{question!r:>99999999}", "%s", "{{question}}",
)  # fmt: skip
FLAGS = (
    "--help", "--cfg", "--cfg=job", "--cfg=all", "--resolve", "--info", "--info=all",
    "--info=defaults", "--hydra-help", "--version",
    "--config-name=plan", "--config-name=no_such", "--config-dir=conf", "--config-dir=no_such",
    "--config-path=conf", "--package=x",
    "--shell-completion", "--no-such-flag", "-x", "--", "-", "--cfg=nothing", "--info=nothing",
    "-p", "-c", "-c=job", "-cd", "--config-dir=cases",
)  # fmt: skip
ENTRIES = (
    "[{use: local, weight: 1}]",
    "[{use: clinical_cases, weight: 1}, {use: clinical_cases, weight: 2}]",
    "[{use: no_such, weight: 1}]",
    "[{use: mixture, weight: 1}]", "[{use: clinical_cases, weight: x}]",
    "[{use: clinical_cases}]", "[1]", "[null]", "{use: local}", "local",
    "[{use: clinical_cases, weight: 1, columns: 7}]", "[{use: local, weight: 1e400, path: 7}]",
    "[{use: [a], weight: true}]",
    "[{use: clinical_cases, weight: 1, path: [x]}]", "clinical_cases",
    "[[{use: local, weight: 1}]]", "[{1: 2}]", "mixture",
)  # fmt: skip
SAID = (
    "fever",
    "cough",
    "rash",
    "pallor",
    "no fever",
    "病人发热。",
    "Fièvre; toux",
    "<think>x</think>",
    "<|im_end|>",
    "- one\n- two",
)
DEEP, LONG = "@deep", "@long"  # become 9,000 brackets in one another, and a number of 5,001 digits
ODD = (
    None, "", " ", "\0", "\ud800", 7, -0.0, 1e308, float("nan"), True, [], {}, ["a", "b"],
    {"role": "user", "content": "x"}, "None", "N/A", "x" * 20000, "<|im_start|>", "\x1b[2J",
    "a\u202eb", 10**300, DEEP, LONG, "\ufeff", "{question}", "<b>&",
)  # fmt: skip
PIECES = (
    b"\0", b"\xff", b"\xfe\xff", b"\r", b'"', b"}", b"[" * 3000, b"1" * 5001, b"\\u0000",
    b"\\ud800", b"\xe2\x80", b",",
)  # fmt: skip
COLUMNS = ("Question", "Complex_CoT", "Response")


@dataclass
class Line:
    """A command line: the program, its words, and the files that lie beside it (name below the
    working folder -> bytes).
    """

    program: str
    words: list[str]
    files: dict[str, bytes] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)


def draw(seed: int, number: int, corpus: Sequence[Path] = ()) -> Line:
    """The command line of this seed and number; a quarter reads a mutated file, of `corpus` too
    where there is one.
    """
    rng = random.Random(f"{seed}-{number}")
    program = rng.choice(list(PROGRAMS))
    line = Line(program, [])
    if rng.random() < 0.45:
        line.words += _cases(rng, line, corpus)
    for _ in range(rng.choices((0, 1, 2, 3, 5), (20 if line.words else 0, 10, 6, 3, 1))[0]):
        line.words.append(_word(rng, program))
    if rng.random() < 0.12 and line.words:
        line.words.append(rng.choice(line.words))
    if rng.random() < 0.06:
        line.files[
            rng.choice(
                ("conf/lora/mine.yaml", "conf/experiment/mine.yaml", "conf/dataset/mine.yaml")
            )
        ] = _yaml(rng)
        line.words.append(rng.choice(("lora=mine", "experiment=mine", "dataset=mine")))
    if rng.random() < 0.03:
        line.files[".env"] = rng.choice(
            (
                b"A=\xff\xfe\n",
                b"HF_TOKEN='open\n",
                b"\xef\xbb\xbfA=1\n",
                b"A" * 9999,
                b"=\n=\n",
                b"A=${A}\n",
            )
        )
    if rng.random() < 0.05:
        name = rng.choice(
            (
                "MEDEXP_HOME",
                "MEDEXP_CACHE",
                "COLUMNS",
                "HF_ENDPOINT",
                "TERM",
                "CUDA_VISIBLE_DEVICES",
                "HOME",
                "TMPDIR",
            )
        )
        line.environment[name] = rng.choice([word for word in WORDS if "\0" not in word])
    rng.shuffle(line.words)
    return line


@cache
def _keys(program: str) -> Mapping[str, Any]:
    return dict(list_keys(PROGRAMS[program]))


def _word(rng: random.Random, program: str) -> str:
    keys = _keys(program)
    key = rng.choice(list(keys))
    kinds = {
        _set: 47,
        _refers: 5,
        _draw_mixture: 3,
        _misspelt: 10,
        _of_a_group: 18,
        _draw_word: 7,
        _of_hydra: 5,
        _flag: 5,
    }
    return rng.choices(list(kinds), list(kinds.values()))[0](rng, key, keys)


def _set(rng: random.Random, key: str, keys: Mapping[str, Any]) -> str:
    return f"{key}={_value(rng, keys[key])}"


def _refers(rng: random.Random, key: str, keys: Mapping[str, Any]) -> str:
    return f"{key}=${{{rng.choice(list(keys))}}}"


def _draw_mixture(rng: random.Random, _: str, __: Mapping[str, Any]) -> str:
    key = rng.choice(("dataset.mixture", "+dataset.mixture", "dataset.held_out_from"))
    return f"{key}={rng.choice(ENTRIES)}"


def _misspelt(rng: random.Random, key: str, _: Mapping[str, Any]) -> str:
    before, after = (
        rng.choice(("+", "++", "~", "")),
        rng.choice(("", "=", "=1", "=null", ".x=1", "@x=1", ":x=1")),
    )
    return f"{before}{_mangle_key(rng, key)}{after}"


def _of_a_group(rng: random.Random, _: str, __: Mapping[str, Any]) -> str:
    group = rng.choice(sorted(path.name for path in find_conf_dir().iterdir() if path.is_dir()))
    options = sorted(path.stem for path in (find_conf_dir() / group).glob("*.yaml")) or ["x"]
    if rng.random() < 0.3:
        return rng.choice(
            (f"{group}=", f"+{group}=x", f"{group}@x=y", f"~{group}", f"{group}@x={options[0]}")
        )
    return _chosen(rng, group, options)


def _draw_word(rng: random.Random, _: str, __: Mapping[str, Any]) -> str:
    return rng.choice(WORDS)


def _of_hydra(rng: random.Random, _: str, __: Mapping[str, Any]) -> str:
    names = (
        "run.dir",
        "job.name",
        "verbose",
        "sweep.dir",
        "output_subdir",
        "mode",
        "job.chdir",
        "nothing",
    )
    return f"hydra.{rng.choice(names)}={_any(rng)}"


def _flag(rng: random.Random, _: str, __: Mapping[str, Any]) -> str:
    return rng.choice(FLAGS)


def _chosen(rng: random.Random, group: str, options: list[str]) -> str:
    """A group's option: mostly one of its own."""
    option = (
        rng.choice(options)
        if rng.random() < 0.7
        else rng.choice((*WORDS, "rtx", "LOCAL", "local.yaml", "[a,b]"))
    )
    return f"{group}={option}"


def _value(rng: random.Random, kind: Any) -> str:
    """A value for a key of this type: one that may be right, or one that cannot be."""
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    one = rng.choice([kind for kind in kinds if kind is not type(None)] or [str])
    if rng.random() < 0.45:
        return _any(rng)
    if isinstance(one, type) and issubclass(one, Enum):
        return rng.choice([*(item.name for item in one), *(item.name.upper() for item in one)])
    if one in (int, float):
        return (
            rng.choice(NUMBERS)
            if rng.random() < 0.5
            else str(rng.choice((1, 2, 8, 16, 64, 512, 4096, 65536, 10**6, 10**9)))
        )
    if one is bool:
        return rng.choice(("true", "false", "1", "yes", "TRUE", "on"))
    return rng.choice(WORDS)


def _any(rng: random.Random) -> str:
    if rng.random() < 0.2:
        return "".join(
            chr(rng.choice((*range(1, 256), 0x4E00, 0x1F600, 0xDC80, 0x2028)))
            for _ in range(rng.randint(1, 12))
        )
    return rng.choice(NUMBERS if rng.random() < 0.4 else WORDS)


def _mangle_key(rng: random.Random, key: str) -> str:
    """A key with a letter too many, too few, or in the wrong place."""
    place = rng.randrange(len(key))
    return rng.choice(
        (
            key,
            key[:place] + key[place + 1 :],
            key[:place] + rng.choice("x.é/ 病[") + key[place:],
            key.upper(),
            key.rpartition(".")[2],
        )
    )


# Case files.


def _records(rng: random.Random) -> list[dict[str, Any]]:
    return [
        {
            "Question": f"A patient of {20 + number} has {rng.choice(SAID)}; what now?",
            "Complex_CoT": f"At {20 + number} it is likely {rng.choice(SAID)}. Wait {number} days.",
            "Response": f"Rest for {number} days if the {rng.choice(SAID)} stays.",
        }
        for number in range(rng.choice((0, 1, 2, 3, 24, 40)))
    ]


def _spoil(rng: random.Random, record: dict[str, Any]) -> None:
    """Give a case a value that none expects, a column too many, or one too few."""
    match rng.randrange(4):
        case 0:
            record.pop(rng.choice(list(record)))
        case 1:
            record["extra"] = rng.choice(ODD)
        case _:
            record[rng.choice(COLUMNS)] = rng.choice(ODD)


def _layouts(rng: random.Random, records: list[dict[str, Any]]) -> tuple[str, bytes]:
    """The records as a file of some kind: name and content."""
    escaped = rng.random() < 0.5

    def as_json(value: object) -> str:
        return (
            json.dumps(value, ensure_ascii=escaped)
            .replace(f'"{DEEP}"', "[" * 9000 + "]" * 9000)
            .replace(f'"{LONG}"', "1" * 5001)
        )

    asked = [(record.get("Question"), record.get("Response")) for record in records]
    chats = [
        {"messages": [{"role": "user", "content": one}, {"role": "assistant", "content": two}]}
        for one, two in asked
    ]
    turns = [
        {"conversations": [{"from": "human", "value": one}, {"from": "gpt", "value": two}]}
        for one, two in asked
    ]
    alpaca = [{"instruction": one, "input": "", "output": two} for one, two in asked]
    kind = rng.randrange(12)
    if kind < 4:
        text, name = as_json(records), "cases.json"
    elif kind < 6:
        text, name = (
            "\n".join(map(as_json, records)),
            rng.choice(("cases.jsonl", "cases.json", "cases.JSONL", "cases.txt")),
        )
    elif kind < 9:
        text, name = _csv(rng, records), rng.choice(("cases.csv", "cases.tsv", "cases.CSV"))
    else:
        text, name = as_json(rng.choice((chats, turns, alpaca))), "cases.json"
    encoding = rng.choices(
        ("utf-8", "utf-8-sig", "utf-16", "latin-1", "gb18030"), (20, 2, 2, 1, 1)
    )[0]
    return name, text.encode(encoding, "backslashreplace")


def _csv(rng: random.Random, records: list[dict[str, Any]]) -> str:
    out = io.StringIO()
    columns = list(records[0]) if records and records[0] else list(COLUMNS)
    writer = csv.DictWriter(
        out,
        columns,
        delimiter=rng.choices(",;\t|", (6, 2, 1, 1))[0],
        extrasaction="ignore",
        escapechar="\\",
    )
    writer.writeheader()
    writer.writerows([{name: str(value) for name, value in record.items()} for record in records])
    return out.getvalue() + rng.choice(("", "", ",,\n" * 40, "\n\n", '"', "a,b,c,d,e\n"))


def _mutate_bytes(rng: random.Random, content: bytes) -> bytes:
    """Bytes changed, cut out, doubled, cut off."""
    found = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5))):
        place = rng.randrange(len(found) + 1)
        match rng.randrange(6):
            case 0:
                found[place:place] = rng.choice(PIECES)
            case 1:
                del found[place : place + rng.randint(1, 9)]
            case 2:
                del found[place:]
            case 3:
                found[place:place] = found[max(0, place - 50) : place]
            case 4 if place < len(found):
                found[place] = rng.randrange(256)
            case _:
                other = rng.choice((b"question", b"Question ", b"", b"Q\0", b"Complex_CoT"))
                found = bytearray(found.replace(b"Question", other, 1))
    return bytes(found)


def _cases(rng: random.Random, line: Line, corpus: Sequence[Path]) -> Iterator[str]:
    """The words that read a case file, which is put into `line`."""
    if corpus and rng.random() < 0.4:
        picked = rng.choice(list(corpus))
        name, content = picked.name, picked.read_bytes()
    else:
        records = _records(rng)
        for _ in range(rng.choice((0, 0, 1, 2)) if records else 0):
            _spoil(rng, rng.choice(records))
        name, content = _layouts(rng, records)
    if rng.random() < 0.6:
        content = _mutate_bytes(rng, content)
    line.files[f"cases/{name}"] = content
    yield "dataset=local"
    yield f"dataset.path=cases/{name}"
    if rng.random() < 0.7:
        yield f"dataset.held_out={rng.choice((1, 2, 4))}"
        yield f"evaluation.answers={rng.choice((0, 1))}"
    if rng.random() < 0.3:
        yield rng.choice(("prompt=direct", "dataset.overlong=trim_reasoning",
        "dataset.overlong=error", "dataset.group_by=Question",
            "dataset.columns.reasoning=null", "dataset.max_cases=3",
            "training.max_seq_tokens=64", "audit.strict=true"))  # fmt: skip


def _yaml(rng: random.Random) -> bytes:
    return rng.choice((b"r: 5\n", b"r: [\n", b"\xff\xfer\x00:\x00",
    b"defaults: [all_linear, _self_]\nr: many\n", b"- a\n- b\n", b"r: 5\nr: 6\n",
        b"# @package _global_\nlora: {r: 4}\n", b"# @package nowhere\nr: 4\n",
        b"defaults: [no_such]\n", b"\tr: 5\n", b"", b"just text\n", b"r: ${nothing}\n",
        b"r: 5\nrank: 6\n", b"? {a: b}\n: c\n", b"r: !!python/object:os.system x\n",
        b"&a [*a]\n", b"1: 2\n", b"defaults: {}\n", b"\0",
        b"defaults:\n  - override /model: x\n"))  # fmt: skip


assert set(PROGRAMS) <= set(SCHEMAS)
