"""python -m medexp, or the console script `medexp`: the list of commands, and each of them by name.

medexp                                       # the commands, a line each
medexp train hardware=rtx4050_6gb            # python -m medexp.train hardware=rtx4050_6gb
"""

import runpy
import sys
from collections.abc import Sequence

from medexp.errors import nearest
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
    "clean": "list what unfinished runs have left, and remove what is old",
    "calibrate": "measure this machine's card once, for better plans",
}


def main() -> None:
    """Run the command that the first argument names, or print the commands."""
    console.prepare_streams()
    with console.quiet_when_unread():
        _run_named_command()


def _run_named_command() -> None:
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        with console.drop_on_full_disk():
            print(list_commands())
    elif name in COMMANDS:
        run_command_module(name, rest)
    else:
        hint = nearest(name, COMMANDS)
        print(f"medexp: {name} is no command{hint}; medexp lists them", file=sys.stderr)
        sys.exit(2)


def list_commands() -> str:
    """Return the commands, a line each."""
    width = max(map(len, COMMANDS))
    head = "medexp COMMAND [OVERRIDES], or python -m medexp.COMMAND; --help after any of them"
    return "\n".join([head, "", *(f"  {name:{width}}  {what}" for name, what in COMMANDS.items())])


def run_command_module(name: str, arguments: Sequence[str]) -> None:
    """Run `python -m medexp.{name} arguments...` in this process; ends it as the command does."""
    sys.argv[1:] = arguments
    runpy.run_module(f"medexp.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
