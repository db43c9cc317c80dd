"""Every environment switch of Ingot, in one place."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """Folder of compiled kernels, timings and fetched models: ``INGOT_CACHE`` or ``~/.cache/ingot``."""
    return Path(os.environ.get("INGOT_CACHE", Path.home() / ".cache" / "ingot"))


def compile_jobs() -> int:
    """Processes that compile kernels in parallel: ``INGOT_JOBS`` or the number of cores."""
    return int(os.environ.get("INGOT_JOBS", os.cpu_count() or 1))
