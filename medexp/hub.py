"""The one door to the Hugging Face Hub: which commit a name stands for, and fetching small files and tables.

Asks the Hub once, with a short timeout, before anything downloads: its own client retries an unreachable host for half a
minute a file. What lies in the local cache is used when the Hub does not answer.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medexp.errors import first_line


class HubError(Exception):
    """One line: why the Hub did not give what was asked."""


def commit_of(kind: str, repo: str, revision: str | None) -> str:
    """The commit that `revision` (default: the main branch) of `repo` is at, in the local cache where the Hub does not answer.

    `kind` is "model" or "dataset". Raises: HubError if it does not exist, is gated, or is neither reachable nor cached.
    """
    import httpx
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    if constants.HF_HUB_OFFLINE:
        return _cached(kind, repo, revision, "HF_HUB_OFFLINE is set")
    try:
        info = HfApi().repo_info(repo, repo_type=kind, revision=revision, timeout=10)
        return str(info.sha)
    except httpx.TransportError as error:
        found = _cached(kind, repo, revision, f"no connection ({error})")
        _go_offline()
        return found
    except GatedRepoError as error:
        raise HubError("access is gated: ask for it on its page and set HF_TOKEN in .env") from error
    except HfHubHTTPError as error:
        raise HubError(first_line(error)[:200]) from error


def _cached(kind: str, repo: str, revision: str | None, why: str) -> str:
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = [each for each in scan_cache_dir().repos if each.repo_id == repo and each.repo_type == kind]
    except CacheNotFound:
        repos = []
    for kept in (each for one in repos for each in one.revisions):
        if (revision or "main") in (kept.commit_hash, *kept.refs):
            return str(kept.commit_hash)
    raise HubError(f"{why}, and it is not in the local cache")


def _go_offline() -> None:
    from huggingface_hub import constants

    os.environ["HF_HUB_OFFLINE"] = "1"
    constants.HF_HUB_OFFLINE = True


def fetch(repo: str, name: str, revision: str | None) -> Path:
    """The local path of file `name` of model `repo`. Raises: HubError."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repo, name, revision=revision))
    except Exception as error:  # the client raises a dozen kinds; the caller needs one sentence
        raise HubError(first_line(error)[:200]) from error


def download(repo: str, revision: str | None) -> Path:
    """Bring the weights and tokenizer of model `repo` into the local cache, with progress bars; the folder. Raises: HubError."""
    from huggingface_hub import snapshot_download

    try:
        files = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"]
        found = snapshot_download(repo, revision=revision, allow_patterns=files)
    except Exception as error:  # as above
        raise HubError(first_line(error)[:200]) from error
    return Path(found)


def push(folder: Path, repo: str, token: str, private: bool, message: str, leave_out: Sequence[str]) -> str:
    """Upload what is in `folder`, save `leave_out`, to model `repo`, made where it is not there; the address of the commit.

    Large files go first, with progress bars; what is visible changes in one commit at the end. Raises: HubError.
    """
    from huggingface_hub import HfApi

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)
    try:
        api.create_repo(repo, repo_type="model", private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=repo, folder_path=folder, repo_type="model", commit_message=message, ignore_patterns=list(leave_out)
        )
    except Exception as error:  # as above
        raise HubError(first_line(error)[:200]) from error
    return str(done.commit_url)


def load_table(repo: str, config: str | None, revision: str | None) -> list[dict[str, Any]]:
    """Every row of the train split of dataset `repo`. Raises: HubError."""
    import datasets

    datasets.disable_progress_bars()
    try:
        return list(datasets.load_dataset(repo, config, revision=revision, split="train").to_list())
    except Exception as error:  # as above
        raise HubError(first_line(error)[:200]) from error
