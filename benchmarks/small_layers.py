"""Times what a network does on few numbers: classifiers, and blocks of layers in one kernel or several.

    PYTHONPATH=src python benchmarks/small_layers.py --batch 1 8 --out small_layers.jsonl
    PYTHONPATH=src python benchmarks/small_layers.py --only inverted --most 4 --whole 32 --out inverted_layers.jsonl

Blocks are squeeze-and-excitation of EfficientNet-B0 and the inverted residuals of MobileNetV2.

Times are the tuner's (replayed graphs, weights evicted as in the model, every variant past the numeric gate). One
JSON line for each variant, one printed line for each Region with the best of each tactic.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from variants import Work, compiled, measured

from ingot.device.device import Device
from ingot.errors import No
from ingot.graph.region import BodyOp, Kind, Region
from ingot.graph.tensor import TensorSpec, channels_last, spec
from ingot.kernels.api import Target
from ingot.kernels.cuda.inverted.plan import parts_of
from ingot.kernels.table import TACTICS
from ingot.tune.measure import DeviceMeasurer
from ingot.tune.setting import Setting

_NHWC = channels_last(4)
_WEIGHTS = 10 << 20
"""Bytes of EfficientNet-B0's weights."""
BLOCKS = (
    (32, 8, 112), (96, 4, 56), (144, 6, 56), (144, 6, 28), (240, 10, 28), (240, 10, 14), (480, 20, 14), (672, 28, 14),
    (672, 28, 7), (1152, 48, 7),
)  # fmt: skip
"""Channels, hidden channels and size of EfficientNet-B0's images."""
INVERTED = (
    (32, 32, 16, 112, 1), (16, 96, 24, 112, 2), (24, 144, 24, 56, 1), (24, 144, 32, 56, 2), (32, 192, 32, 28, 1),
    (32, 192, 64, 28, 2), (64, 384, 64, 14, 1), (64, 384, 96, 14, 1), (96, 576, 96, 14, 1), (96, 576, 160, 14, 2),
    (160, 960, 160, 7, 1), (160, 960, 320, 7, 1),
)  # fmt: skip
"""Channels, hidden channels, output channels, size and stride of MobileNetV2's blocks.

As many hidden channels as before: there is no first convolution. As many output channels: the input is added."""
CLASSIFIERS = ((2048, 1000), (1280, 1000), (768, 768), (4096, 4096))


def _region(
    kind: Kind, name: str, values: dict[str, TensorSpec], ops: Sequence[BodyOp], made: dict[str, TensorSpec]
) -> Region:
    return Region(kind, name, tuple(values), (ops[-1].outputs[0],), tuple(ops), tuple({**values, **made}.items()))


def classifier(batch: int, depth: int, cols: int) -> Region:
    """Gemm with its bias, into float32."""
    values = {
        "x": spec("float16", (batch, depth)),
        "w": spec("float16", (cols, depth), constant=True),
        "b": spec("float16", (cols,), constant=True),
    }
    ops = [
        BodyOp("Gemm", ("x", "w", "b"), ("y",), (("transB", 1),)),
        BodyOp("Cast", ("y",), ("z",), (("to", 1),)),
    ]
    made = {"y": spec("float16", (batch, cols)), "z": spec("float32", (batch, cols))}
    return _region(Kind.GEMM, f"{depth}->{cols}", values, ops, made)


def block(batch: int, channels: int, hidden: int, size: int) -> tuple[Region, list[Region]]:
    """All of a squeeze-and-excitation block, and the same as four Regions."""
    x, mean, small = (
        spec("float16", shape, _NHWC)
        for shape in ((batch, channels, size, size), (batch, channels, 1, 1), (batch, hidden, 1, 1))
    )
    weights = {
        "w1": spec("float16", (hidden, channels, 1, 1), _NHWC, constant=True),
        "b1": spec("float16", (hidden,), constant=True),
        "w2": spec("float16", (channels, hidden, 1, 1), _NHWC, constant=True),
        "b2": spec("float16", (channels,), constant=True),
    }
    ops = [
        BodyOp("GlobalAveragePool", ("x",), ("m",)),
        BodyOp("Conv", ("m", "w1", "b1"), ("h",)),
        BodyOp("Sigmoid", ("h",), ("s",)),
        BodyOp("Mul", ("h", "s"), ("a",)),
        BodyOp("Conv", ("a", "w2", "b2"), ("o",)),
        BodyOp("Sigmoid", ("o",), ("g",)),
        BodyOp("Mul", ("g", "x"), ("y",)),
    ]
    made = {"m": mean, "h": small, "s": small, "a": small, "o": mean, "g": mean, "y": x}
    name = f"{channels}->{hidden} @{size}"
    parts = []
    for kind, first, last in ((Kind.REDUCE, 0, 1), (Kind.CONV, 1, 4), (Kind.CONV, 4, 6), (Kind.MAP, 6, 7)):
        own = ops[first:last]
        inside = {op.outputs[0] for op in own}
        read = dict.fromkeys(n for op in own for n in op.inputs if n not in inside)
        known = {"x": x, **weights, **made}
        values = {n: known[n] for n in read}
        parts.append(_region(kind, f"{name} {kind.value} {first}", values, own, {n: made[n] for n in inside}))
    return _region(Kind.EXCITE, f"{name} excite", {"x": x, **weights}, ops, made), parts


def inverted(batch: int, channels: int, hidden: int, cols: int, size: int, stride: int) -> tuple[Region, list[Region]]:
    """All of an inverted residual block with ReLU6, and its convolutions as Regions of their own."""
    last = (size - 1) // stride + 1
    x, wide, middle, result = (
        spec("float16", (batch, count, edge, edge), _NHWC)
        for count, edge in ((channels, size), (hidden, size), (hidden, last), (cols, last))
    )
    values = {
        "x": x,
        "we": spec("float16", (hidden, channels, 1, 1), _NHWC, constant=True),
        "be": spec("float16", (hidden,), constant=True),
        "wd": spec("float16", (hidden, 1, 3, 3), (1, 2, 3, 0), constant=True),
        "bd": spec("float16", (hidden,), constant=True),
        "wp": spec("float16", (cols, hidden, 1, 1), _NHWC, constant=True),
        "bp": spec("float16", (cols,), constant=True),
    }
    attrs = (("group", hidden), ("pads", (1, 1, 1, 1)), ("strides", (stride, stride)))
    ops = [
        BodyOp("Conv", ("x", "we", "be"), ("e",)),
        BodyOp("Clip", ("e", "low", "high"), ("ea",)),
        BodyOp("Conv", ("x" if hidden == channels else "ea", "wd", "bd"), ("d",), attrs),
        BodyOp("Clip", ("d", "low", "high"), ("da",)),
        BodyOp("Conv", ("da", "wp", "bp"), ("p",)),
    ]
    made = {"e": wide, "ea": wide, "d": middle, "da": middle, "p": result}
    if hidden == channels:
        ops, values = ops[2:], {name: value for name, value in values.items() if name not in ("we", "be")}
        made = {name: value for name, value in made.items() if name not in ("e", "ea")}
    if channels == cols and stride == 1:
        ops.append(BodyOp("Add", ("x", "p"), ("y",)))
        made["y"] = result
    whole = _region(Kind.INVERTED, f"{channels}->{hidden}->{cols} @{size}/{stride}", values, ops, made)
    whole = replace(whole, literals=(("low", 0.0), ("high", 6.0)))
    parts = parts_of(whole)
    assert not isinstance(parts, No), parts
    return whole, [replace(part, name=f"{whole.name} {i}") for i, part in enumerate(parts)]


def layers(batches: Sequence[int], only: str | None, *, parts: bool) -> list[tuple[int, Region]]:
    """Batch and Region of all that is measured."""
    found: list[tuple[int, Region]] = []
    for batch in batches:
        if only in (None, "classifiers"):
            found += [(batch, classifier(batch, *sizes)) for sizes in CLASSIFIERS]
        blocks = [block(batch, *sizes) for sizes in BLOCKS] if only in (None, "excite") else []
        blocks += [inverted(batch, *sizes) for sizes in INVERTED] if only in (None, "inverted") else []
        for whole, pieces in blocks:
            found += [(batch, whole), *((batch, piece) for piece in pieces if parts)]
    return found


def _work(region: Region, target: Target, args: argparse.Namespace) -> list[Work]:
    """The likeliest variants of every tactic that takes the Region."""
    most = args.whole if region.kind in (Kind.EXCITE, Kind.INVERTED) else args.most
    tactics = [t for t in TACTICS if region.kind in t.kinds and t.accepts(region, target)]
    return [(region, t, variant) for t in tactics for variant in t.variants(region, target, {})[:most]]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--most", type=int, default=5, help="variants of each tactic")
    parser.add_argument("--whole", type=int, default=12, help="variants of what does a whole block")
    parser.add_argument("--only", choices=("classifiers", "excite", "inverted"))
    parser.add_argument("--no-parts", action="store_true", help="blocks, not their layers one by one")
    parser.add_argument("--jobs", type=int, default=14)
    parser.add_argument("--out", default="small_layers.jsonl")
    args = parser.parse_args()
    device, target = Device.open(0), Target(90)
    measurer = DeviceMeasurer(device.info.name, Setting(0, False, _WEIGHTS))
    regions = layers(args.batch, args.only, parts=not args.no_parts)
    each = [_work(region, target, args) for _, region in regions]
    made = iter(compiled([one for work in each for one in work], target, args.jobs))
    with Path(args.out).open("a") as file:
        for (batch, region), work in zip(regions, each, strict=True):
            results = measured(measurer, region, {str(variant): next(made) for *_, variant in work})
            best: dict[str, tuple[float, str]] = {}
            for text, result in results.items():
                row: dict[str, object] = {"batch": batch, "layer": region.name, "variant": text}
                if isinstance(result, str):
                    row["failed"] = result
                else:
                    row["micros"] = round(result, 2)
                    name = text.partition("[")[0]
                    best[name] = min(best.get(name, (1e9, "")), (result, text))
                file.write(json.dumps(row) + "\n")
            file.flush()
            print(
                f"{batch:4} {region.name:22}", " ".join(f"{us:6.2f} {t}" for us, t in sorted(best.values())), flush=True
            )
    measurer.close()


if __name__ == "__main__":
    main()
