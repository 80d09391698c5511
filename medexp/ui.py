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
from medexp.config.command_options import UiOptions
from medexp.config.invocation import Invocation
from medexp.config.schema import RunConfig
from medexp.system.console import NOTE, Console
from medexp.system.ports import choose_usual_port
from medexp.system.private_names import VIEWS, untested
from medexp.tracking import server as pages
from medexp.tracking.links import links
from medexp.training import leftovers


def ui(run: RunConfig, options: UiOptions, console: Console) -> None:
    """Serve until Ctrl-C.

    Raises: RunError without a store; MachineError if the server cannot be started.
    """
    port = options.port or choose_usual_port()
    log = Path(tempfile.mkdtemp(prefix="medexp-ui-")) / "server.log"
    with suppress(KeyboardInterrupt), ExitStack() as serving:
        with console.status("starting MLflow's server (some 15 s)"):
            address = serving.enter_context(pages.serving(run.tracking, port, log))
        for sentence in untested(("mlflow",)):
            console.info(f"{sentence}: {VIEWS.without}", NOTE)
        found = links(run.tracking, address)
        for each in found:
            console.result(f"{each.title}\n  {each.url}")
        if left := leftovers.summarise_leftovers(run.tracking):
            console.info(left, NOTE)
        console.info("Ctrl-C ends it")
        if options.open:
            webbrowser.open(found[0].url)
        while True:
            time.sleep(3600)


def _door(run: RunConfig, invocation: Invocation) -> float:
    options = invocation.options
    assert isinstance(options, UiOptions)
    ui(run, options, Console())
    return 0.0


if __name__ == "__main__":
    run_command(_door, "ui", needs_card=False)
