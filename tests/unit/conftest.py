"""A far end that is mocked, for the tests of what goes out to providers."""

from collections.abc import Iterator

import pytest
from providers import FarEnd


@pytest.fixture
def far_end() -> Iterator[FarEnd]:
    with FarEnd() as mock:
        yield mock
