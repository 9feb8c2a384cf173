"""The service and its far ends, as in e2e."""

from e2e.conftest import behind, llama_server, ollama_server, serve, smollm2  # noqa: F401  (fixtures)
