"""One run of an engine, for ``account.py`` to watch by ``ncu``: ``python account_run.py ENGINE FEEDS.npz``."""

from __future__ import annotations

import sys

import numpy as np

from ingot.runtime.engine import load


def main() -> None:
    """Runs the graph once; the arrays of FEEDS are on the device before."""
    engine, feeds = sys.argv[1:]
    context = load(engine).context()
    with np.load(feeds, allow_pickle=False) as arrays:
        context.bind(inputs=dict(arrays))
    context.enqueue()
    context.synchronize()


if __name__ == "__main__":
    main()
