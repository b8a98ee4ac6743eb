"""Skip, with the reason, where the programs of a cluster are not there and cannot be built."""

import contextlib
from collections.abc import Iterator

import pytest

from tests.apiserver.binaries import UnavailableError


@contextlib.contextmanager
def skipping_if_unavailable() -> Iterator[None]:
    """Turn an UnavailableError within into a skip."""
    try:
        yield
    except UnavailableError as reason:
        pytest.skip(str(reason))
