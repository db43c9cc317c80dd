"""Machine code on disk, by what it is: one compressed file for each distinct cubin, however many variants share it."""

from __future__ import annotations

import contextlib
import hashlib
import zlib
from pathlib import Path

from ingot import env
from ingot.files import write_atomically

SUFFIX = ".code"
_LEVEL = 6


def folder() -> Path:
    """Where compiled kernels lie: code, and under other suffixes what refers to it."""
    return env.cache_dir() / "cubin"


def path_of(name: str, suffix: str = SUFFIX) -> Path:
    """File of the code with this digest, or of what is kept under another suffix by a digest of its own."""
    return folder() / name[:2] / f"{name}{suffix}"


def stored_bytes(name: str) -> int:
    """Size of the file with this code; 0 when there is none."""
    try:
        return path_of(name).stat().st_size
    except OSError:
        return 0


def digest(code: bytes) -> str:
    """What names ``code``."""
    return hashlib.sha256(code).hexdigest()


def put(code: bytes) -> str:
    """Keep ``code``; returns its digest, by which :func:`get` finds it."""
    name = digest(code)
    path = path_of(name)
    if not path.is_file():
        write_atomically(path, zlib.compress(code, _LEVEL))
    return name


def get(name: str) -> bytes | None:
    """The code; None when it is not here. Marks it as used for pruning. A damaged file is deleted."""
    path = path_of(name)
    try:
        data = path.read_bytes()
    except OSError:
        return None
    code = _decompressed(data)
    if code is None or digest(code) != name:
        path.unlink(missing_ok=True)
        return None
    with contextlib.suppress(OSError):  # a pruning beside this deleted it
        path.touch()
    return code


def _decompressed(data: bytes) -> bytes | None:
    try:
        return zlib.decompress(data)
    except zlib.error:
        return None
