"""Models by name: what HF_MODEL=owner/name names on Hugging Face's hub, fetched in the engine's process.

huggingface_hub does the work: its own cache, a lock for each file, a connection that breaks is gone on with, sizes are
checked. Nothing else here imports it.
"""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, errors, snapshot_download
from huggingface_hub.file_download import repo_folder_name
from tqdm import tqdm

from ...errors import LLMAPIError
from .model import chosen, found, require_engine

PROGRESS_SECONDS = 5
# A download that is going on writes all the time.
LEFT_SECONDS = 3600
# What transformers reads beside the weights; nothing that would be executed.
CONFIGURATION = (".json", ".model", ".txt", ".jinja")


class CantFetch(Exception):
    """The model can't be had; the argument says why, and what to do."""


def fetch(named: str, tell: Callable[[str], None]) -> dict[str, Any]:
    """Return what `found` says of the model, when it is on this machine. `tell` is told how far it is.

    Raises CantFetch.
    """
    repository, _, wanted = named.partition(":")
    _sweep(repository)
    try:
        names = _names(repository)
        files = chosen(names, wanted)
        require_engine(files)
        beside = [name for name in names if name.endswith(CONFIGURATION) and "/" not in name]
        needed = [*files.weights, *filter(None, [files.projector]), *([] if files.main else beside)]
        folder = snapshot_download(repository, allow_patterns=list(map(glob.escape, needed)), tqdm_class=_bar(tell))
        return found(Path(folder), files)
    except LookupError as error:
        raise CantFetch(f"{repository}: {error}") from None
    except LLMAPIError as error:
        raise CantFetch(error.message) from None
    except Exception as error:  # its own, its HTTP library's, the system's
        raise CantFetch(_why(repository, error)) from error


def _names(repository: str) -> list[str]:
    try:
        # not list_repo_files, which tries for 24 s where there is no network
        return sorted(file.rfilename for file in HfApi().model_info(repository).siblings or ())
    except (errors.RepositoryNotFoundError, errors.GatedRepoError):
        raise
    except Exception as error:
        with suppress(errors.LocalEntryNotFoundError):
            folder = Path(snapshot_download(repository, allow_patterns=[], local_files_only=True))
            return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
        raise error from None


def _sweep(repository: str) -> None:
    """Remove what killed downloads have left: the library begins such a file again, under another name."""
    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model")
    for part in folder.glob("blobs/*.incomplete"):
        with suppress(OSError):  # others sweep too, and a cache may be only to read
            if time.time() - part.stat().st_mtime > LEFT_SECONDS:
                part.unlink()


def _why(repository: str, error: Exception) -> str:
    if isinstance(error, errors.GatedRepoError):
        return f"{repository} is gated: accept its terms on the hub, then set HF_API_KEY (or HF_TOKEN) to your token"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"the hub has no {repository}, or it is private: then set HF_API_KEY (or HF_TOKEN) to a token for it"
    if isinstance(error, errors.OfflineModeIsEnabled) or os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        return f"{repository} is not in the cache, and HF_HUB_OFFLINE forbids to fetch it"
    cause = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ else error
    said = (str(cause).splitlines() or [""])[0]
    return f"{repository} can't be fetched, and is not in the cache: {type(cause).__name__}: {said}"


def _bar(tell: Callable[[str], None]) -> type[tqdm]:
    class Bar(tqdm):  # type: ignore[misc]  # untyped
        """tqdm, which shows its progress to `tell`."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs | {"mininterval": PROGRESS_SECONDS, "maxinterval": 2 * PROGRESS_SECONDS})

        def display(self, msg: str | None = None, pos: int | None = None) -> bool:
            if self.unit == "B" and self.total:
                tell(f"{self.n / 1e6:,.0f} of {self.total / 1e6:,.0f} MB are fetched")
            return True

    return Bar
