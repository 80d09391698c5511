"""How often a test part was opened, beside the runs in the store's folder.

Whoever looks at the same test cases again and again, and goes on with what did well there, chooses
by them. A finished run or evaluation opens its test part once; trials of a sweep and what is only
scored again do not. The count is a reason for doubt, no fault.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

FILE = "test_openings.jsonl"


def record_opening(root: str | None, case_digests: Sequence[str], run_id: str) -> int:
    """Write down that `run_id` opened the test part of these cases; return how many runs have.

    A run that is taken up again opens it once. The file grows line by line, so that two processes
    lose nothing of each other's.
    """
    file, test_part = Path(root or ".") / FILE, _name_test_part(case_digests)
    runs = set(_list_runs(file, test_part))
    if run_id not in runs:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as opened:
            opened.write(json.dumps({"test_part": test_part, "run": run_id}) + "\n")
    return len(runs | {run_id})


def describe_openings(count: int) -> str:
    """Return the count in words, with what it means."""
    if count == 1:
        return "opened for the first time in this store"
    doubt = ": what is chosen by it is no longer judged by it" if count > 5 else ""
    return f"opened {count} times in this store{doubt}"


def _name_test_part(case_digests: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(sorted(case_digests)).encode()).hexdigest()[:16]


def _list_runs(file: Path, test_part: str) -> Iterator[str]:
    if not file.is_file():
        return
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            opening = json.loads(line)
            if opening["test_part"] == test_part:
                yield str(opening["run"])
        except (ValueError, KeyError, TypeError):
            # A line that a kill has cut off.
            continue
