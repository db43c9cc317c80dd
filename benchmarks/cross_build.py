"""How much slower kernels chosen without a GPU are than measured ones, by recorded times.

    python benchmarks/cross_build.py --truth ~/.cache/ingot/timing/sm_90.json [--batch 1 --batch 8] [NAME ...]

``--truth`` is the database of builds that measured (``ingot library record``); for each network the sum over its
layers is compared between the fastest variants there and what a build would choose from the database that Ingot
ships, and from the cost model alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ingot.builder.api import lower_model
from ingot.builder.targets import gpu_target
from ingot.errors import No
from ingot.kernels.table import TACTICS
from ingot.tune.database import Database, recorded
from ingot.tune.regret import Layer, Regret, regret
from ingot.zoo import standard

_MOST_WRONG = 8
"""Wrongly chosen layers that are named, those that cost most first."""
_SLOWER = 0.002
"""Share of the network's time that a wrong choice costs at least to be named."""


def rows(truth: Database, shipped: Database, arch: str, setups: tuple[standard.Setup, ...]) -> Iterator[dict[str, Any]]:
    """One record for each network of which ``truth`` knows something."""
    target = gpu_target(arch)
    for setup in setups:
        model, shapes = standard.model_of(setup)
        lowered = lower_model(model, target, standard.options_of(setup, arch, shapes, 2))
        if isinstance(lowered, No):
            continue
        ways = {"shipped": shipped, "model": None}
        found = {way: regret(lowered, target, TACTICS, truth, known) for way, known in ways.items()}
        if found["model"].layers:
            yield {"network": str(setup), **{way: _figures(made) for way, made in found.items()}}


def _figures(made: Regret) -> dict[str, Any]:
    timed = sorted((layer for layer in made.layers if layer.ratio), key=_lost, reverse=True)
    return {
        "layers": len(made.layers),
        "untimed": made.untimed,
        "recorded": sum(layer.recorded for layer in made.layers),
        "best_us": round(made.best, 1),
        "chosen_us": round(made.chosen, 1),
        "ratio": round(made.chosen / made.best, 3) if made.best else None,
        "unknown": round(made.unknown, 3),
        "wrong": [
            f"{layer.count}x {layer.label}: {layer.variant} {layer.micros:.2f} us, {layer.fastest} {layer.best:.2f} us"
            for layer in timed[:_MOST_WRONG]
            if _lost(layer) > _SLOWER * made.best
        ],
    }


def _lost(layer: Layer) -> float:
    """Microseconds that a better choice would save in the whole network."""
    return 0.0 if layer.micros is None else layer.count * (layer.micros - layer.best)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="architectures; the standard ones if none")
    parser.add_argument("--truth", type=Path, required=True, help="a database with measured times")
    parser.add_argument("--shipped", type=Path, help="in place of the database that Ingot ships")
    parser.add_argument("--arch", default="sm_90")
    parser.add_argument("--batch", type=int, action="append", help="1, 8 and 32 if left out")
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    truth = Database.load(flags.truth)
    shipped = Database.load(flags.shipped) if flags.shipped else recorded(gpu_target(flags.arch))
    setups = standard.setups(flags.names, flags.batch or standard.BATCHES, fp32=False)
    made = []
    for row in rows(truth, shipped, flags.arch, setups):
        made.append(row)
        parts = [
            f"{way} {row[way]['ratio']} (of {row[way]['layers']} timed layers, {row[way]['untimed']} without times, "
            f"{100 * row[way]['unknown']:.0f} % never measured)"
            for way in ("shipped", "model")
        ]
        print(f"{row['network']}: " + "; ".join(parts), flush=True)
    if flags.json:
        flags.json.write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
