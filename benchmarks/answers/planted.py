"""Would the tests notice a fault in the measures? Plants 24 of them, one at a time, and runs the
tests over each.

    python -m benchmarks.answers.planted [--only NAME ...] [--list]

A fault changes one rule of one module as it is imported: nothing on disk is touched. It is caught
when the tests named beside it fail, and survives when they pass; that they pass without a fault is
tried first. The last line says how many of how many are caught; the exit status is 0 when all are.

This module is the plugin that plants, too: pytest -p benchmarks.answers.planted with
MEDEXP_PLANTED=NAME.
"""

import argparse
import importlib.abc
import importlib.machinery
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[2]
VARIABLE = "MEDEXP_PLANTED"
PASSED, FAILED = 0, 1
NEVER = re.compile(r"(?!)")
_MEASURES = "medexp.evaluation.measures"
_TESTS = "tests/evaluation/measures"


@dataclass(frozen=True)
class Fault:
    """A fault: what is wrong in words (its name), the module that it is planted in, what is done to
    the module, and the tests that should fail.
    """

    name: str
    module: str
    plant: Callable[[Any], None]
    tests: tuple[str, ...]


def set_to(name: str, value: Any) -> Callable[[Any], None]:
    """Return what sets `name` of a module; a dotted name is one of a class.

    Raises: AttributeError if there is no such name, since the fault would be none.
    """

    def plant(module: Any) -> None:
        owner, _, attribute = name.rpartition(".")
        place = getattr(module, owner) if owner else module
        getattr(place, attribute)
        setattr(place, attribute, value)

    return plant


def wrap(name: str, make: Callable[[Any], Any]) -> Callable[[Any], None]:
    """Return what puts `make(original)` in the place of a module's `name`."""

    def plant(module: Any) -> None:
        set_to(name, make(getattr(module, name)))(module)

    return plant


def _swap_one_sided(sign_flip: Any) -> Any:
    def planted(*args: Any, **options: Any) -> Any:
        flipped = sign_flip(*args, **options)
        return replace(flipped, p_rise=flipped.p_fall, p_fall=flipped.p_rise)

    return planted


def _without_groups(compare_pairs: Any) -> Any:
    def planted(*args: Any, **options: Any) -> Any:
        return compare_pairs(*args, **{**options, "groups": None})

    return planted


def _without_red_flags(evidence: Any) -> Any:
    def planted(*args: Any) -> Any:
        known = evidence(*args)
        return replace(known, present=known.affirmed, present_stems=known.stems)

    return planted


def _turn_direction(key: str) -> Callable[[Any], None]:
    def plant(module: Any) -> None:
        measures = tuple(
            replace(measure, better=-measure.better) if measure.key == key else measure
            for measure in module.MEASURES
        )
        if measures == module.MEASURES:
            raise AttributeError(f"no measure {key} with a direction")
        module.MEASURES = measures
        module.BY_KEY = {measure.key: measure for measure in measures}

    return plant


def _detected_without_interval(self: Any, adjusted_p: float) -> bool:
    return bool(self.majority * self.change >= 0 and adjusted_p < 0.05)


def _verdict_turned(self: Any, more_is_better: bool) -> str:
    if not self.is_detected:
        return str(self.verdict_without_change("no detectable change"))
    return "worse" if (self.change > 0) == more_is_better else "improved"


FAULTS: Sequence[Fault] = (
    Fault(
        "the answer begins after the first end of thinking",
        f"{_MEASURES}.words",
        set_to("extract_answer", lambda text: text.partition("</think>")[2] or text),
        (f"{_TESTS}/test_words.py",),
    ),
    Fault(
        "a denial behind a term is not read",
        f"{_MEASURES}.clinical_terms",
        set_to("AFTER", NEVER),
        (f"{_TESTS}/test_clinical_terms.py",),
    ),
    Fault(
        "what only looks like a denial is one",
        f"{_MEASURES}.clinical_terms",
        set_to("PSEUDO", NEVER),
        (f"{_TESTS}/test_clinical_terms.py",),
    ),
    Fault(
        "a narrower finding supports a wider one no more, but the other way round",
        f"{_MEASURES}.clinical_terms",
        wrap("is_wider", lambda original: lambda wide, narrow: original(narrow, wide)),
        (f"{_TESTS}/test_clinical_terms.py", f"{_TESTS}/test_unsupported_claims.py"),
    ),
    Fault(
        "doses agree whatever their units",
        f"{_MEASURES}.quantities",
        set_to("Quantity.agrees", lambda self, other: self.bare == other.bare),
        (f"{_TESTS}/test_quantities.py",),
    ),
    Fault(
        "what may yet come is taken for a symptom",
        f"{_MEASURES}.unsupported_claims",
        wrap("read_evidence", _without_red_flags),
        (f"{_TESTS}/test_unsupported_claims.py",),
    ),
    Fault(
        "repeated headings cost nothing",
        f"{_MEASURES}.sections",
        set_to("REPEATED", 1),
        (f"{_TESTS}/test_sections.py",),
    ),
    Fault(
        "sections in another order cost nothing",
        f"{_MEASURES}.sections",
        set_to("OUT_OF_ORDER", 1),
        (f"{_TESTS}/test_sections.py",),
    ),
    Fault(
        "a section copied from another has substance",
        f"{_MEASURES}.sections",
        set_to("MAX_OVERLAP", 2),
        (f"{_TESTS}/test_sections.py",),
    ),
    Fault(
        "recall does not read polarity",
        f"{_MEASURES}.reference_recall",
        set_to("is_negated", lambda *_: False),
        (f"{_TESTS}/test_reference_recall.py",),
    ),
    Fault(
        "a question of another age limit is the patient's age",
        f"{_MEASURES}.contradictions",
        set_to("_LIMIT", NEVER),
        (f"{_TESTS}/test_contradictions.py",),
    ),
    Fault(
        "the share of new 4-grams is called repetition",
        f"{_MEASURES}.text_form",
        wrap("measure_repetition", lambda original: lambda text: 1 - original(text)),
        (f"{_TESTS}/test_text_form.py",),
    ),
    Fault(
        "claims do not read polarity",
        f"{_MEASURES}.claim_evidence",
        set_to("is_negated", lambda *_: False),
        (f"{_TESTS}/test_claims.py",),
    ),
    Fault(
        "a repeated statement counts again",
        f"{_MEASURES}.statements",
        set_to("_drop_repeats", iter),
        (f"{_TESTS}/test_claims.py",),
    ),
    Fault(
        "dismissing a case costs nothing",
        f"{_MEASURES}.claims",
        set_to(
            "ClaimCounts.balance",
            property(lambda self: (self.supported - self.errors) / max(1, self.total)),
        ),
        (f"{_TESTS}/test_claims.py",),
    ),
    Fault(
        "how often a day a dose is given is not read",
        f"{_MEASURES}.fabrications",
        set_to("_TIMES_A_DAY", ()),
        (f"{_TESTS}/test_fabrications.py",),
    ),
    Fault(
        "a hedge takes nothing back",
        f"{_MEASURES}.assertion_strength",
        set_to("HEDGE", NEVER),
        (f"{_TESTS}/test_assertion_strength.py",),
    ),
    Fault(
        "precautions are read from Red Flags",
        "medexp.evaluation.scorecard",
        wrap(
            "list_reference_items",
            lambda original: lambda reference, _section: original(reference, "red flags"),
        ),
        ("tests/evaluation/test_scorecard.py",),
    ),
    Fault(
        "reasoning that was cut off is scored as the answer",
        "medexp.evaluation.scorecard",
        set_to("end_reasoning", str),
        ("tests/evaluation/test_scorecard.py",),
    ),
    Fault(
        "more contradictions are better",
        "medexp.evaluation.scorecard",
        _turn_direction("contradictions"),
        ("tests/evaluation/test_scorecard.py",),
    ),
    Fault(
        "the interval is dropped from the verdict",
        "medexp.evaluation.paired_stats",
        set_to("PairedComparison.is_detected_at", _detected_without_interval),
        ("tests/evaluation/test_paired_stats.py",),
    ),
    Fault(
        "improved and worse are swapped",
        "medexp.evaluation.paired_stats",
        set_to("PairedComparison.verdict", _verdict_turned),
        ("tests/evaluation/test_paired_stats.py",),
    ),
    Fault(
        "a fall is tested as a rise",
        "medexp.evaluation.resampling",
        wrap("flip_signs", _swap_one_sided),
        ("tests/evaluation/test_resampling.py", "tests/evaluation/test_verdicts.py"),
    ),
    Fault(
        "runs are compared as if every case were its own group",
        "medexp.comparison.contrasts",
        wrap("compare_pairs", _without_groups),
        ("tests/comparison/test_contrasts.py",),
    ),
)


def main() -> int:
    """Plant every fault in turn, print what became of each, and return the exit status."""
    options = _parser().parse_args()
    faults = [fault for fault in FAULTS if not options.only or fault.name in options.only]
    if options.list:
        print("\n".join(f"{fault.module}: {fault.name}" for fault in faults))
        return 0
    tests = sorted({test for fault in faults for test in fault.tests})
    if run_tests(tests) != PASSED:
        print("the tests fail without a fault; nothing can be said:", *tests)
        return 1
    caught = 0
    for fault in faults:
        started = time.monotonic()
        outcome = run_tests(fault.tests, fault.name)
        caught += outcome == FAILED
        word = {FAILED: "caught", PASSED: "SURVIVED"}.get(outcome, "could not be planted")
        print(f"{word:<9} {fault.name} ({time.monotonic() - started:.0f} s)", flush=True)
    print(f"{caught} of {len(faults)}")
    return int(caught < len(faults))


def run_tests(tests: Sequence[str], planted: str = "") -> int:
    """Return pytest's exit status over `tests`, with the fault called `planted` in the way."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider"]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, VARIABLE: planted, "PYTHONPATH": path}
    done = subprocess.run(
        [*command, "-p", "benchmarks.answers.planted", *tests],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode not in (PASSED, FAILED):
        print(done.stdout[-2000:], done.stderr[-2000:])
    return done.returncode


class _PlantingFinder(importlib.abc.MetaPathFinder):
    """Finds the module of `fault` as Python does, and plants the fault when it is loaded."""

    def __init__(self, fault: Fault):
        self._fault = fault

    def find_spec(self, fullname: str, path: Any, _target: Any = None) -> Any:
        """Return the module's spec with a loader that plants; None for every other module."""
        if fullname != self._fault.module:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        assert spec is not None, f"no module {fullname}"
        assert isinstance(spec.loader, importlib.machinery.SourceFileLoader)
        spec.loader = _PlantingLoader(spec.loader.name, spec.loader.path, self._fault)
        return spec


class _PlantingLoader(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, path: str, fault: Fault):
        super().__init__(name, path)
        self._fault = fault

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, then plant."""
        super().exec_module(module)
        self._fault.plant(module)


def plant_from_environment() -> None:
    """Put the fault that the environment names in the way of its module's import."""
    name = os.environ.get(VARIABLE)
    if name:
        fault = next(fault for fault in FAULTS if fault.name == name)
        sys.meta_path.insert(0, _PlantingFinder(fault))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", help="names of faults")
    parser.add_argument("--list", action="store_true", help="print the faults, and run nothing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
else:
    plant_from_environment()
