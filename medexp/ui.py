"""python -m medexp.ui: MLflow's pages over the runs that were made here, and the links worth
following.

    # port 5000 or a free one, the browser opened, Ctrl-C ends it
    python -m medexp.ui
    python -m medexp.ui ui.port=5000 ui.open=false
"""

import tempfile
import time
import webbrowser
from contextlib import ExitStack, suppress
from pathlib import Path

from medexp.cli.app import run_command
from medexp.cli.composition import CommandSpec
from medexp.config.command_options import UiOptions
from medexp.config.invocation import Invocation
from medexp.config.schema import RunConfig
from medexp.system.console import NOTE, Console
from medexp.system.ports import choose_usual_port
from medexp.system.private_names import VIEWS, list_untested_libraries
from medexp.tracking import server
from medexp.tracking.links import list_links
from medexp.training import leftovers


def ui(config: RunConfig, options: UiOptions, console: Console) -> None:
    """Serve until Ctrl-C.

    Raises: RunError without a store; MachineError if the server cannot be started.
    """
    port = options.port or choose_usual_port()
    log = Path(tempfile.mkdtemp(prefix="medexp-ui-")) / "server.log"
    with suppress(KeyboardInterrupt), ExitStack() as serving:
        with console.status("starting MLflow's server (some 15 s)"):
            address = serving.enter_context(server.serve_mlflow(config.tracking, port, log))
        for sentence in list_untested_libraries(("mlflow",)):
            console.info(f"{sentence}: {VIEWS.without}", NOTE)
        links = list_links(config.tracking, address)
        for link in links:
            console.result(f"{link.title}\n  {link.url}")
        if left := leftovers.summarise_leftovers(config.tracking):
            console.info(left, NOTE)
        console.info("Ctrl-C ends it")
        if options.open:
            webbrowser.open(links[0].url)
        while True:
            time.sleep(3600)


def _run(config: RunConfig, invocation: Invocation[UiOptions, None]) -> float:
    ui(config, invocation.options, Console())
    return 0.0


COMMAND: CommandSpec[UiOptions, None] = CommandSpec("ui", UiOptions, needs_card=False)


def main() -> None:
    """Run the command that the command line describes; ends the process."""
    run_command(_run, COMMAND)


if __name__ == "__main__":
    main()
