"""One run on the device, between its parts: what was passed in, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ingot.runtime.dlpack import View
from ingot.runtime.feeds import Array
from ingot.runtime.open_program import OpenProgram
from ingot.runtime.program import Program


@dataclass(frozen=True)
class Job:
    """One run: a Program and what goes through it."""

    program: Program | OpenProgram
    arrays: Mapping[str, Array]
    """Inputs on the host."""
    copies: tuple[tuple[int, int, int], ...]
    """(to, from, bytes): inputs on the device that are not where a kernel may read them."""
    views: tuple[View, ...]
    """Keeps the caller's device arrays alive."""
    targets: Mapping[str, Any]
    """Outputs that the caller wants written into arrays of his own."""
    placed: Mapping[str, View]
    """Those among the targets that lie in CUDA memory."""
    device_results: bool
