"""Times kernels of quantized layers one by one, as the tuner does: checked by the numeric gate, then replayed.

    PYTHONPATH=src:tests python benchmarks/byte_layers.py --out byte_layers.jsonl [--variants 5] [NAME ...]

The layers are sums of two pointwise convolutions (ResNet-50) and convolutions over few channels (YOLOv8n at 640²,
with SiLU), each with the tactics that take it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from support.narrow import PADS, with_silu
from support.quantized import quantized_conv, quantized_sum
from variants import compiled, measured

from ingot.builder.targets import choose_target
from ingot.graph.region import Region
from ingot.kernels.table import TACTICS
from ingot.tune.candidates import Candidate, candidates
from ingot.tune.measure import DeviceMeasurer
from ingot.tune.setting import Setting

LAYERS: dict[str, Region] = {
    **{f"sum 64+64->256 @56 b{n}": quantized_sum((n, 64, 56, 56), 64, 256) for n in (8, 128)},
    **{f"sum 256+128->512 @28 b{n}": quantized_sum((n, 256, 56, 56), 128, 512, stride=2) for n in (8, 128)},
    **{f"sum 1024+512->2048 @7 b{n}": quantized_sum((n, 1024, 14, 14), 512, 2048, stride=2) for n in (8, 128)},
    "3x3/2 16->32 @160 b8": with_silu(
        quantized_conv((8, 16, 320, 320), (32, 16, 3, 3), pads=PADS, strides=(2, 2), bias=True, offset=None)
    ),
    "3x3 16->16 @160 b8": with_silu(
        quantized_conv((8, 16, 160, 160), (16, 16, 3, 3), pads=PADS, bias=True, offset=None)
    ),
    "3x3 32->32 @80 b8": with_silu(
        quantized_conv((8, 32, 80, 80), (32, 32, 3, 3), pads=PADS, bias=True, offset=None)
    ),
}  # fmt: skip


def shortlist(found: tuple[Candidate, ...], count: int) -> list[Candidate]:
    """The likeliest ``count`` of each tactic."""
    names = dict.fromkeys(c.tactic.name for c in found)
    return [c for name in names for c in [c for c in found if c.tactic.name == name][:count]]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="parts of layers' names; all if none")
    parser.add_argument("--variants", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("byte_layers.jsonl"))
    flags = parser.parse_args()
    chosen = choose_target("cuda")
    assert chosen.target is not None and chosen.device is not None
    layers = {n: r.canonical for n, r in LAYERS.items() if not flags.names or any(part in n for part in flags.names)}
    each = {
        name: shortlist(candidates(region, chosen.target, {}, TACTICS).ranked, flags.variants)
        for name, region in layers.items()
    }
    work = [(layers[name], c.tactic, c.variant) for name, found in each.items() for c in found]
    made = iter(compiled(work, chosen.target))
    measurer = DeviceMeasurer(chosen.device.info.name, Setting(chosen.device.ordinal, tf32=False, weights=0))
    with flags.out.open("a") as file:
        for name, found in each.items():
            results = measured(measurer, layers[name], {c.text: next(made) for c in found})
            for text, result in results.items():
                row: dict[str, object] = {"layer": name, "variant": text, "device": chosen.device.info.name}
                row |= {"refused": result} if isinstance(result, str) else {"micros": round(result, 3)}
                file.write(json.dumps(row) + "\n")
            file.flush()
    measurer.close()


if __name__ == "__main__":
    main()
