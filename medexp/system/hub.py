"""The one way to the Hugging Face Hub: which commit a name stands for, and fetching small files
and tables.

Asks the Hub once, with a short timeout, before anything downloads: its own client retries an
unreachable host for half a minute a file. What lies in the local cache is used when the Hub does
not answer.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medexp.errors import OutputError, first_line
from medexp.system import disk_space

# its weights, configuration and tokenizer
_OF_A_MODEL = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"]


class HubError(Exception):
    """One line: why the Hub did not give what was asked."""


@contextmanager
def translate_hub_errors(*refusals: type[Exception]) -> Iterator[None]:
    """What the Hub's clients say of the Hub, of the way to it, and of `refusals` becomes one line.
    Everything else is a defect or this machine's, and stays what it is.

    Raises: HubError; OutputError where the disk is full.
    """
    try:
        yield
    except Exception as error:
        if (full := disk_space.find_disk_full_error(error)) is not None:
            from huggingface_hub import constants

            place = f"the Hub's cache in {constants.HF_HOME} cannot be written"
            raise OutputError(f"{place} ({full}); make room, or set HF_HOME=FOLDER") from error
        if isinstance(error, refusals) or _is_of_the_hub(error):
            raise HubError(_describe_refusal(error)) from error
        raise


def _describe_refusal(error: Exception) -> str:
    """What the Hub said in one line, and of a gated model what to do."""
    from huggingface_hub.errors import GatedRepoError

    if not isinstance(error, GatedRepoError):
        return first_line(error)[:200]
    # .../api/models/OWNER/NAME/..., or .../OWNER/NAME/resolve/COMMIT/FILE
    address = str(error.response.url).partition("/resolve/")[0].replace("/api/models/", "/")
    return f"access is gated: accept the terms on {address} and set HF_TOKEN in .env"


def _is_of_the_hub(error: Exception) -> bool:
    import httpx
    from huggingface_hub import errors

    if isinstance(
        error,
        httpx.HTTPError
        | httpx.InvalidURL
        | ConnectionError
        | TimeoutError
        | errors.HFValidationError,
    ):
        return True
    if isinstance(error, errors.EntryNotFoundError | errors.RevisionResolutionError):
        return True
    # the clients' own; those of the system have a number
    return isinstance(error, OSError) and error.errno is None


def find_commit(kind: str, repo: str, revision: str | None) -> str:
    """The commit that `revision` (default: the main branch) of `repo` is at, in the local cache
    where the Hub does not answer.

    `kind` is "model" or "dataset". Raises: HubError if it does not exist, is gated, or is neither
    reachable nor cached.
    """
    import httpx
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        return _find_cached_commit(kind, repo, revision, "HF_HUB_OFFLINE is set")
    try:
        with translate_hub_errors():
            info = HfApi().repo_info(repo, repo_type=kind, revision=revision, timeout=10)
    except HubError as error:
        if not isinstance(error.__cause__, httpx.TransportError):
            raise
        found = _find_cached_commit(kind, repo, revision, f"no connection ({error})")
        _go_offline()
        return found
    return str(info.sha)


def _find_cached_commit(kind: str, repo: str, revision: str | None, why: str) -> str:
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = [
            cached
            for cached in scan_cache_dir().repos
            if cached.repo_id == repo and cached.repo_type == kind
        ]
    except CacheNotFound:
        repos = []
    snapshots = [snapshot for cached in repos for snapshot in cached.revisions]
    for snapshot in snapshots:
        if (revision or "main") in (snapshot.commit_hash, *snapshot.refs):
            return str(snapshot.commit_hash)
    if revision is None and snapshots:
        # Files that were fetched at a commit, as they all are here, leave no word of the branch.
        return str(max(snapshots, key=lambda snapshot: snapshot.last_modified).commit_hash)
    raise HubError(f"{why}, and it is not in the local cache")


def _go_offline() -> None:
    from huggingface_hub import constants

    os.environ["HF_HUB_OFFLINE"] = "1"
    constants.HF_HUB_OFFLINE = True


def fetch(repo: str, name: str, revision: str | None) -> Path:
    """Return the local path of file `name` of model `repo`.

    Raises: HubError.
    """
    from huggingface_hub import hf_hub_download

    # The Hub's Xet client raises a RuntimeError for whatever goes wrong.
    with translate_hub_errors(RuntimeError):
        return Path(hf_hub_download(repo, name, revision=revision))


def download(repo: str, revision: str | None) -> Path:
    """Bring the weights and tokenizer of model `repo` into the local cache, with progress bars; the
    folder. Raises: HubError.
    """
    from huggingface_hub import snapshot_download

    with translate_hub_errors(RuntimeError):
        return Path(snapshot_download(repo, revision=revision, allow_patterns=_OF_A_MODEL))


def find_downloaded(repo: str, revision: str | None) -> Path:
    """Return the folder of model `repo` in the local cache, without asking the Hub. Raises:
    HubError if it is not there.
    """
    from huggingface_hub import snapshot_download

    with translate_hub_errors(RuntimeError):
        return Path(
            snapshot_download(
                repo, revision=revision, allow_patterns=_OF_A_MODEL, local_files_only=True
            )
        )


def push(
    folder: Path, repo: str, token: str, private: bool, message: str, leave_out: Sequence[str]
) -> str:
    """Upload what is in `folder`, save `leave_out`, to model `repo`, made where it is not there;
    the address of the commit.

    Large files go first, with progress bars; what is visible changes in one commit at the end.
    Raises: HubError.
    """
    from huggingface_hub import HfApi

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)
    # A ValueError says what the Hub's storage refused.
    with translate_hub_errors(RuntimeError, ValueError):
        api.create_repo(repo, repo_type="model", private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            repo_type="model",
            commit_message=message,
            ignore_patterns=list(leave_out),
        )
    return str(done.commit_url)


def load_table(repo: str, config: str | None, revision: str | None) -> list[dict[str, Any]]:
    """Every row of the train split of dataset `repo`. Raises: HubError."""
    import datasets

    datasets.disable_progress_bars()
    # ValueError: no such config, no such split
    with translate_hub_errors(RuntimeError, ValueError, datasets.exceptions.DatasetsError):
        return list(datasets.load_dataset(repo, config, revision=revision, split="train").to_list())
