"""python -m medexp: the commands, a line each."""

from medexp.system import console

COMMANDS = {
    "train": "train an adapter, answer held-out questions before and after; with -m a sweep",
    "plan": "what a run would take of the card and the host, and whether it fits",
    "audit": "look at the cases before training",
    "evaluate": "measure a finished run again, or more of it",
    "compare": "finished runs side by side",
    "ask": "ask a tuned model, and its base",
    "export": "the adapter, merged weights, GGUF, Ollama, vLLM, a model registry, the Hub",
    "ui": "MLflow's pages over the runs of this folder",
    "calibrate": "measure this machine's card once, for better plans",
}


def main() -> None:
    """Print the commands."""
    width = max(map(len, COMMANDS))
    print("python -m medexp.COMMAND [OVERRIDES]; --help after any of them\n")
    for name, what in COMMANDS.items():
        print(f"  medexp.{name:{width}}  {what}")


if __name__ == "__main__":
    with console.quiet_when_unread():
        main()
