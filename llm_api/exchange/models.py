"""Which models a request may name, as `backend/model`: the backends' own lists."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from ..backends import Backend
from ..errors import LLMAPIError
from ..runtime.deadline import Deadline
from .exchange import Generator

LIST_SECONDS = 5.0


class Models:
    """Asks the backends of `generator` for their lists, all at once."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator

    def ids(self) -> list[str]:
        """Return the names. A backend that can't say is left out; raises its BackendError when none can."""
        backends = self._generator.choices
        with ThreadPoolExecutor(len(backends)) as pool:
            found = list(pool.map(_listed, backends))
        lists = [ids for ids in found if isinstance(ids, list)]
        if not lists and isinstance(found[0], LLMAPIError):
            raise found[0]
        return [name for ids in lists for name in ids]


def _listed(backend: Backend) -> list[str] | LLMAPIError:
    try:
        return [f"{backend.name}/{model}" for model in backend.list_models(Deadline(LIST_SECONDS))]
    except LLMAPIError as error:
        return error
