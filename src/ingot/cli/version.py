"""``ingot --version``, without the compiler."""

from __future__ import annotations

from importlib import metadata


def version() -> str:
    """The installed version, or ``source`` for a checkout."""
    try:
        return metadata.version("ingot")
    except metadata.PackageNotFoundError:
        return "source"
