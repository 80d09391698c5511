"""Every command line that README and docs/ show composes and passes the checks that come before
loading.
"""

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from medexp.__main__ import COMMANDS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Commands whose config is checked like a run's; the others are about a finished run, and are
# composed alone.
OF_A_RUN = {"train", "plan", "audit"}
SWEPT = re.compile(r"=(choice|interval|range|tag|int)\(")


def documented_commands() -> list[tuple[str, str, tuple[str, ...]]]:
    """Return the page, command and words of every `python -m medexp.COMMAND ...` after a `$`."""
    found = []
    for page in PAGES:
        for line in page.read_text(encoding="utf-8").splitlines():
            if line.startswith("$ ") and (
                match := re.search(r"^[^#]*python -m medexp\.(\w+)(.*)", line)
            ):
                words = tuple(shlex.split(re.split(r" <(?= )| \|", match[2])[0], comments=True))
                found.append((page.relative_to(ROOT).as_posix(), match[1], words))
    return found


def test_there_are_commands_in_the_pages():
    assert len(documented_commands()) > 40
    assert {command for _, command, _ in documented_commands()} == set(COMMANDS)


@pytest.mark.parametrize(("page", "command", "words"), documented_commands())
def test_a_documented_command_composes(compose, resolved, large_card, page, command, words):
    """What a page shows must pass every check that needs no file, no run and no card."""
    two_cards = replace(large_card, gpus=large_card.gpus * 2)
    overrides = [word for word in words if word not in ("-m", "--help") and not SWEPT.search(word)]
    # medexp.ask takes the text of a question as it is, before Hydra sees it.
    overrides = [word for word in overrides if not word.startswith("question=")]
    if "--config-dir" in overrides:  # the folder of a finished sweep
        pytest.skip("needs a finished sweep: tests/sweep continues one")
    if command == "calibrate":
        assert not overrides
        return
    cfg = compose(*overrides, root=command)
    if command in OF_A_RUN and "experiment=from_run" not in overrides:
        own = [word for word in overrides if not word.startswith((f"{command}.", "run=", "sweep"))]
        own = [word for word in own if not word.startswith(("plan.", "audit."))]
        run = resolved(*own, on=two_cards)
        assert run.model.name == cfg.model.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_between_pages_lead_somewhere(page):
    """mkdocs checks docs/; README and CONTRIBUTING are read on their own."""
    if "docs" in page.relative_to(ROOT).parts:
        pytest.skip("mkdocs build --strict checks it")
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
