"""What commands take on this processor before there is anything to wait for: refusals, plans, the
frontier, the imports of a run.

    python benchmarks/start/measure.py

Each is started five times beside an import of Hydra, the peer of every command that Hydra composes;
the quickest counts, and so does the smallest ratio: a busy neighbour slows what runs beside it.
"""

import resource
import subprocess
import sys
import tempfile

TIMES = 5
HYDRA = ["-c", "import hydra, omegaconf"]
COMMANDS = {
    "a refused run": ["-m", "medexp.train", "lora.r=0"],
    "a plan": ["-m", "medexp.plan", "hardware=rtx4050_6gb"],
    "a frontier of 54 cells, drawn": [
        "-m",
        "medexp.plan",
        "hardware=rtx4050_6gb",
        "plan.frontier=true",
    ],
    "what a run imports": [
        "-c",
        "import transformers.trainer, trl.trainer.sft_trainer, peft, datasets, mlflow",
    ],
}


def processor_s(words: list[str], folder: str) -> float:
    """User seconds of `python words...`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, check=False)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before


def main() -> None:
    """Print a Markdown table."""
    print("| | processor seconds | x Hydra's import |\n| --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for name, words in COMMANDS.items():
            processor_s(words, folder)  # compiles what is not yet
            pairs = [(processor_s(HYDRA, folder), processor_s(words, folder)) for _ in range(TIMES)]
            print(
                f"| {name} | {min(took for _, took in pairs):.2f} |"
                f" {min(took / hydra for hydra, took in pairs):.1f} |"
            )


if __name__ == "__main__":
    main()
