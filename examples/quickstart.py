"""The Python API from the first run to a comparison.

    python examples/quickstart.py [OVERRIDE ...]

Overrides are those of `python -m medexp.train`; without any, the embedded model learns from the
shipped cases on a CPU, twice, in some ten minutes.
"""

import sys

import medexp


def main(overrides: list[str]) -> None:
    """Train two adapters, ask the first one, and compare both."""
    # What a run on a small card would take is arithmetic: no card and no model are needed.
    plan = medexp.compose("hardware=rtx4050_6gb", "lora.r=8").plan()
    print(f"the 8B on a 6 GB card: {plan.budget.peak_bytes / 2**30:.2f} GiB at its peak")

    experiment = medexp.compose(*overrides)
    result = experiment.train()
    print(f"held-out loss {result.outcome.loss_before:.3f} -> {result.outcome.loss_after:.3f}")

    run = medexp.load_run(result.run_id)
    question = "A 54-year-old man has crushing chest pain and sweats. What now?"
    print("tuned:", run.ask(question).answer)
    print("base: ", run.ask(question, base=True).answer)

    scorecard = run.evaluate("evaluate.rescore=true")
    structure = scorecard.find_result("structure")
    print(f"four sections: {structure.before} -> {structure.after}")
    print("exported to", run.export("adapter"))

    other = medexp.compose(*overrides, "training.learning_rate=1e-3").train()
    comparison = medexp.compare_runs([result.run_id, other.run_id])
    print(f"{comparison.num_comparisons} measures compared; settings that differ:")
    for setting, values in comparison.differences.items():
        print(f"  {setting}: {values}")


if __name__ == "__main__":
    main(sys.argv[1:])
