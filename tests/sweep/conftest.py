"""What tests of a sweep share: settings as they are shipped, a study in a folder, and sweeps of the
tiny model.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hydra
import pytest
import yaml
from helpers.commands import TinyRuns, WarmCommand, started
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.types import HydraContext, RunMode
from omegaconf import OmegaConf

from medexp.config.registration import register_with_hydra
from medexp.config.shipped import find_conf_dir
from medexp.sweep import sweeper
from medexp.sweep.reporting import charts, results
from medexp.sweep.search.options import SweepOptions, check_options
from medexp.sweep.search.search_space import (
    FloatRange,
    IntRange,
    SearchSpace,
    parse_search_space,
    quote_value,
)
from medexp.sweep.study import storage
from medexp.sweep.study.study import Study, open_study
from medexp.sweep.study.trial_files import Ending, TrialOutcome
from medexp.system.console import Console

SPACE = SearchSpace(
    {
        "lora.r": IntRange(4, 64, log=True),
        "training.learning_rate": FloatRange(1e-5, 1e-3, log=True),
    }
)


@pytest.fixture(scope="session")
def asked() -> Callable[..., SweepOptions]:
    """asked(*overrides): the options of a sweep, as conf/hydra/sweeper/medexp.yaml and the command
    line make them.
    """

    def made(*overrides: str) -> SweepOptions:
        register_with_hydra()
        with hydra.initialize_config_dir(str(find_conf_dir()), version_base="1.3"):
            cfg = hydra.compose("train", list(overrides), return_hydra_config=True)
        options = OmegaConf.to_container(cfg.hydra.sweeper, resolve=True)
        assert isinstance(options, dict)
        return check_options(
            {str(key): value for key, value in options.items() if not str(key).startswith("_")}
        )

    return made


@pytest.fixture
def opened(tmp_path: Path, asked: Callable[..., SweepOptions]) -> Iterator[Callable[..., Study]]:
    """opened(*overrides, space=SPACE, name="s", url=...): a study on sqlite."""
    studies = []

    def made(
        *overrides: str,
        space: SearchSpace = SPACE,
        name: str = "s",
        url: str | None = None,
    ) -> Study:
        studies.append(
            open_study(name, url or storage.default_url(tmp_path), space, asked(*overrides))
        )
        return studies[-1]

    yield made
    for study in studies:
        study.close()


class Sweeps:
    """Sweeps of the tiny model, each command in its own process."""

    def __init__(self, tiny_runs: TinyRuns):
        self.tiny_runs, self.root = tiny_runs, tiny_runs.root

    def words(self, *more: str) -> list[str]:
        """The command line of a quick sweep called `s`."""
        quick = [
            *self.tiny_runs.overrides(),
            "evaluation.answers=0",
            "hydra.sweeper.study_name=s",
            "sweep.configured_first=false",
            *more,
        ]
        return ["-m", "medexp.train", "-m", *quick]

    def run(self, *more: str) -> tuple[int, str]:
        """Exit status and output of a sweep."""
        process = self.start(*more)
        output, _ = process.communicate(timeout=300)
        return process.returncode, output

    def start(self, *more: str, **environment: str) -> "subprocess.Popen[str] | WarmCommand":
        """A sweep under way."""
        return started(self.words(*more), self.root, **environment)

    def kill(self, process: "subprocess.Popen[str] | WarmCommand") -> None:
        """kill -9. What it printed is not read: its trials hold the pipe as long as they live."""
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()

    @property
    def folder(self) -> Path:
        """Where the sweep keeps everything."""
        return self.root / "multirun" / "s"

    def trials(self, url: str | None = None) -> list[Any]:
        """Optuna's trials of the study."""
        import optuna

        kept_in = storage.connect(url or storage.default_url(self.folder))
        trials = optuna.load_study(study_name="s", storage=kept_in).get_trials()
        kept_in.remove_session()
        kept_in.engine.dispose()
        return trials

    def endings(self, url: str | None = None) -> list[str]:
        """How each trial ended, by number."""
        return [trial.user_attrs.get("ending", trial.state.name) for trial in self.trials(url)]

    def pid(self, trial: int) -> int:
        """The process of a trial."""
        return int(json.loads((self.folder / str(trial) / "process.json").read_text())["pid"])

    def until(self, file: str, holds: str = "", seconds: float = 300) -> None:
        """Wait until `file` in the sweep's folder is there and holds this text."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            path = self.folder / file
            if path.exists() and holds in path.read_text():
                return
            time.sleep(0.05)
        raise TimeoutError(f"{file} never held {holds!r}")


@pytest.fixture
def sweeps(tiny_runs: TinyRuns) -> Iterator[Sweeps]:
    """Quick sweeps whose trials are ended with the test."""
    made = Sweeps(tiny_runs)
    yield made
    for file in made.folder.glob("*/process.json"):
        try:
            os.killpg(json.loads(file.read_text())["pid"], signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue


def _postgres_binaries() -> Path | None:
    return next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)), None)


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real PostgreSQL of its own, without a database's name; skips where the Debian
    package is not installed.
    """
    import pwd
    import shutil
    import socket
    import tempfile

    initdb = _postgres_binaries()
    if initdb is None:
        pytest.skip("needs PostgreSQL (Debian package postgresql)")
    pytest.importorskip("psycopg")
    folder = Path(tempfile.mkdtemp(prefix="medexp-pg-"))
    as_user: list[str] = []
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        folder.chmod(0o700)
        os.chown(folder, pwd.getpwnam("postgres").pw_uid, -1)
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def pg(tool: str, *words: str) -> None:
        subprocess.run(
            [*as_user, str(initdb.parent / tool), *words], check=True, capture_output=True, cwd="/"
        )

    pg("initdb", "-D", f"{folder}/data", "-A", "trust", "-U", "medexp", "--no-sync")
    pg(
        "pg_ctl",
        "-D",
        f"{folder}/data",
        "-w",
        "-l",
        f"{folder}/log",
        "-o",
        f"-p {port} -k {folder} -h 127.0.0.1 -F",
        "start",
    )
    yield f"postgresql+psycopg://medexp@127.0.0.1:{port}"
    pg("pg_ctl", "-D", f"{folder}/data", "-m", "immediate", "stop")
    shutil.rmtree(folder)


@pytest.fixture
def postgresql(postgres_server: str) -> str:
    """The URL of an empty database."""
    import uuid

    import psycopg

    name = f"study_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(
        f"{postgres_server.replace('+psycopg', '')}/postgres", autocommit=True
    ) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"{postgres_server}/{name}"


Ends = Callable[[dict[str, Any]], TrialOutcome]


class Stubs:
    """Sweeps in this process: everything is real but the trials, whose ends are made up, and
    MLflow.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, root: Path):
        self.root, self.started, self.said = root, [], []  # type: ignore[var-annotated]
        self.ends: Ends = lambda params: TrialOutcome(
            Ending.done, "", {"result/loss_after": 1.0 + params.get("lora.r", 0) / 100}
        )
        monkeypatch.chdir(root)
        monkeypatch.setattr(sweeper, "_make_launcher", lambda *_, **__: self)
        monkeypatch.setattr(
            results,
            "open_parent_run",
            lambda *_: nullcontext(SimpleNamespace(run_id="parent", log_folder=lambda *_: None)),
        )
        page = SimpleNamespace(refresh=lambda **_: None)
        monkeypatch.setattr(sweeper, "LivePage", lambda *_: page)
        monkeypatch.setattr(results, "log_results", lambda *_: None)
        monkeypatch.setattr(results, "register_best", lambda *_: None)
        monkeypatch.setattr(charts, "draw_charts", lambda *_: [])
        monkeypatch.setattr(Console, "info", lambda _, text, *__, **___: self.said.append(text))

    def launch(self, job_overrides: list[list[str]], initial_job_idx: int) -> list[Any]:  # noqa: ARG002
        """What a launcher does: here, the outcome is left at once."""
        given = dict(override.lstrip("+").split("=", 1) for override in job_overrides[0])
        params = {key: yaml.safe_load(value) for key, value in given.items()}
        self.started.append(params)
        outcome = self.ends(params)
        outcome.write(Path(params["hydra.sweep.dir"]) / given["hydra.sweep.subdir"])
        return []

    def run(self, *words: str) -> Study:
        """A sweep to its end; the study as it then is."""
        register_with_hydra()
        with hydra.initialize_config_dir(str(find_conf_dir()), version_base="1.3"):
            loader = GlobalHydra.instance().config_loader()
            given = [
                "hydra.sweeper.study_name=s",
                "sweep.configured_first=false",
                f"tracking.root={quote_value(str(self.root / 'mlruns'))}",
                *words,
            ]
            cfg = loader.load_configuration("train", given, run_mode=RunMode.MULTIRUN)
            options = {
                str(key): value
                for key, value in cfg.hydra.sweeper.items()
                if not str(key).startswith("_")
            }
            tasks = list(cfg.hydra.overrides.task)
            sweeper.sweep(options, tasks, cfg, HydraContext(loader, Callbacks()), lambda _: None)
            name = cfg.hydra.sweeper.study_name
            url = options["storage"] or storage.default_url(self.root / "multirun" / name)
            return open_study(
                name,
                url,
                parse_search_space(options["params"], tasks, loader, has_custom_params=True),
                check_options(options),
            )

    def points(self, key: str = "lora.r") -> list[Any]:
        """The values that were started, in order."""
        return [params[key] for params in self.started]


@pytest.fixture
def stubs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stubs:
    """Sweeps whose trials end as they are told to."""
    return Stubs(monkeypatch, tmp_path)
