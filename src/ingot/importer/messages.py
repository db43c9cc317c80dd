"""What libraries say: their errors in one line, their warnings not at all."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

_LONGEST = 200


def first_line(error: Exception) -> str:
    """The first line of what ``error``, or the error that caused it, says."""
    cause = error.__cause__ or error
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0][:_LONGEST]


@contextmanager
def quiet(name: str) -> Iterator[None]:
    """Without the warnings of the library that logs as ``name``."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
