"""Times products with and without their last waves dealt out by steps (stream-K), layer by layer, as the tuner does.

    PYTHONPATH=src:tests python benchmarks/stream_layers.py --out streamk_layers.jsonl [--streams 8] [NAME ...]

The layers are convolutions of ResNet-50 at batch 128 and 8, in FP16 and INT8, and products of BERT (128 tokens) and
ViT (197) at batch 8. Every variant passes the numeric gate before it is timed. One JSON line for each variant; then
the best of both kinds are timed again, in turns (``final``). ``--twins``: each tile is also timed without.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from conv_layers import Layer
from quantized_layers import region_of
from support.regions import Op, gemm_region
from variants import compiled, measured

from ingot.builder.targets import choose_target
from ingot.graph.region import Region
from ingot.graph.tensor import spec
from ingot.kernels.api import Target, Variant
from ingot.kernels.cuda.hopper.operands import Operands, operands
from ingot.kernels.cuda.hopper.stream import streams as dealt_out
from ingot.kernels.cuda.hopper.tactic import HopperTactic
from ingot.tune.measure import DeviceMeasurer
from ingot.tune.setting import Setting

TACTIC = HopperTactic()
_CONVOLUTIONS = (
    (Layer(1, 256, 14, 256, 3), 8), (Layer(1, 512, 7, 512, 3), 8), (Layer(1, 128, 28, 128, 3), 8),
    (Layer(1, 512, 7, 2048, residual=True), 8), (Layer(1, 2048, 7, 512), 8),
    (Layer(1, 256, 14, 256, 3), 128), (Layer(1, 512, 7, 512, 3), 128), (Layer(1, 128, 28, 128, 3), 128),
    (Layer(1, 1024, 14, 512), 128), (Layer(1, 2048, 7, 512), 128), (Layer(1, 512, 7, 2048, residual=True), 128),
    (Layer(1, 256, 14, 1024, residual=True), 128),
)  # fmt: skip
_BERT, _VIT = 8 * 128, 8 * 197
"""Tokens."""


def _product(rows: int, depth: int, cols: int, last: str) -> Region:
    """Of all tokens, with what follows it in a transformer."""
    epilogue, extras = (Op("Gelu", ("acc",), "out"),), {}
    if last == "Add":
        epilogue = (Op("Add", ("acc", "residual"), "out"),)
        extras = {"residual": spec("float16", (rows, cols))}
    return gemm_region((rows, depth), (depth, cols), epilogue=epilogue, extras=extras)


LAYERS: dict[str, Region] = {
    **{
        f"{rows}x{depth}->{cols} {last} float16": _product(rows, depth, cols, last)
        for rows in (_BERT, _VIT)
        for depth, cols, last in ((768, 768, "Add"), (768, 3072, "Gelu"), (3072, 768, "Add"))
    },
    f"{_BERT}x4096->1024 Add float16": _product(_BERT, 4096, 1024, "Add"),
    f"{_VIT}x4096->1024 Add float16": _product(_VIT, 4096, 1024, "Add"),
    **{f"{layer.name} b{n} float16": region_of(layer, n, "float16") for layer, n in _CONVOLUTIONS if n == 8},
    **{f"{layer.name} b{n} int8": region_of(layer, n, "int8") for layer, n in _CONVOLUTIONS if n == 8},
    **{f"{layer.name} b{n} float16": region_of(layer, n, "float16") for layer, n in _CONVOLUTIONS if n == 128},
}


def variants(region: Region, target: Target, others: int, streams: int, twins: bool) -> list[Variant]:
    """The likeliest of both kinds, of streams at most two of one size; ``twins``: each of their tiles without, too."""
    listed = list(TACTIC.variants(region, target, {})[:others])
    o = operands(region)
    assert isinstance(o, Operands)
    seen: Counter[tuple[int, int, int, int]] = Counter()
    for tile in dealt_out(o, target, {}):
        key = tile.m, tile.n, tile.ping, tile.resident
        if seen[key] < 2 and seen.total() < streams:
            seen[key] += 1
            listed += [replace(tile, stream=way).variant(TACTIC.name) for way in ((1, 0) if twins else (1,))]
    return list(dict.fromkeys(listed))


def fastest(results: Mapping[str, float | str]) -> list[str]:
    """The fastest variant without and the fastest with streams, as far as there are any."""
    ranked = sorted((micros, text) for text, micros in results.items() if isinstance(micros, float))
    found = (next((text for _, text in ranked if ("sr=" in text) == streams), None) for streams in (False, True))
    return [text for text in found if text is not None]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="parts of layers' names; all if none")
    parser.add_argument("--others", type=int, default=8)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--twins", action="store_true", help="the tiles of streams also without")
    parser.add_argument("--out", type=Path, default=Path("streamk_layers.jsonl"))
    flags = parser.parse_args()
    began = time.monotonic()
    chosen = choose_target("cuda")
    assert chosen.target is not None and chosen.device is not None
    target, name = chosen.target, chosen.device.info.name
    layers = {n: r for n, r in LAYERS.items() if not flags.names or any(part in n for part in flags.names)}
    each = {n: variants(region, target, flags.others, flags.streams, flags.twins) for n, region in layers.items()}
    made = iter(compiled([(layers[n], TACTIC, variant) for n, found in each.items() for variant in found], target))
    print(f"compiled after {time.monotonic() - began:.1f} s", flush=True)
    measurer = DeviceMeasurer(name, Setting(chosen.device.ordinal, tf32=False, weights=0))
    with flags.out.open("a") as file:
        for layer, found in each.items():
            region, programs = layers[layer], {str(variant): next(made) for variant in found}
            results = measured(measurer, region, programs)
            for variant in found:
                row: dict[str, object] = {"layer": layer, "variant": str(variant), "device": name}
                row["predicted"] = round(TACTIC.estimate(region, variant, target, {}) * 1e6, 2)
                micros = results[str(variant)]
                row |= {"refused": micros} if isinstance(micros, str) else {"micros": round(micros, 3)}
                file.write(json.dumps(row) + "\n")
            again = measured(measurer, region, {text: programs[text] for text in fastest(results)})
            times = {text: micros for text, micros in again.items() if isinstance(micros, float)}
            for text, micros in times.items():
                row = {"layer": layer, "variant": text, "device": name, "final": round(micros, 3)}
                file.write(json.dumps(row) + "\n")
            file.flush()
            said = (f"{micros:8.2f} {text[11:]}" for text, micros in times.items())
            print(f"{time.monotonic() - began:5.1f} s {layer:34}", *said, flush=True)
    measurer.close()


if __name__ == "__main__":
    main()
