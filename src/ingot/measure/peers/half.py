"""The same model built otherwise by this program: in FP16, for 8-bit engines to be compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ingot.measure.peers.offer import Offer, Peer
from ingot.runtime.device_context import DeviceContext
from ingot.runtime.engine import load

Array = np.ndarray[Any, Any]


def offer(build: Callable[[], Path], feeds: Mapping[str, Array]) -> Offer:
    """The engine at the path that ``build`` gives, with its inputs in place."""
    return Offer("ingot", "fp16", lambda: _peer(build(), feeds))


def _peer(path: Path, feeds: Mapping[str, Array]) -> Peer:
    context = load(path).context()

    def outputs() -> dict[str, Array]:
        return {name: np.asarray(array) for name, array in context.run(feeds).items()}

    outputs()
    if not isinstance(context, DeviceContext):
        return Peer(lambda: context.run(feeds), outputs)
    context.bind(inputs=feeds)

    def run() -> None:
        context.enqueue()
        context.synchronize()

    return Peer(run, outputs)
