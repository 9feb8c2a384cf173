"""The service, as in e2e."""

from e2e.conftest import serve  # noqa: F401  (a fixture)
