"""Times pairs of pointwise convolutions of ResNet-50, in a row and added: one kernel for both against two.

    PYTHONPATH=src python benchmarks/chain_layers.py --batch 8 128 --out chain_layers.jsonl

Times are the tuner's (replayed graphs, weights evicted as in the model, every variant past the numeric gate). One
JSON line for each variant.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from variants import Work, compiled, measured

from ingot.device.device import Device
from ingot.graph.region import BodyOp, Kind, Region
from ingot.graph.tensor import channels_last, spec
from ingot.kernels.api import Tactic, Target
from ingot.kernels.cuda.chain.tactic import TACTICS as CHAINS
from ingot.kernels.cuda.hopper.tactic import TACTICS as HOPPER
from ingot.tune.measure import DeviceMeasurer
from ingot.tune.setting import Setting

TACTICS: tuple[Tactic, ...] = (*CHAINS, *HOPPER)
_NHWC = channels_last(4)
_WEIGHTS = 51 << 20
"""Bytes of ResNet-50's weights."""
_AGO = 1 << 29
"""Bytes that went through the caches since the residual was written: more than they hold."""


@dataclass(frozen=True)
class Pair:
    """A convolution that widens, its residual and ReLU, and the one behind that narrows."""

    count: int
    size: int
    depth: int
    wide: int
    narrow: int

    @property
    def name(self) -> str:
        """Such as ``64->256->64 @56``."""
        return f"{self.depth}->{self.wide}->{self.narrow} @{self.size}"

    def region(self, batch: int) -> Region:
        """Both, each with its bias."""
        image = (self.size, self.size)
        broad, small = spec("float16", (batch, self.wide, *image), _NHWC), (batch, self.narrow, *image)
        values = {
            "x": spec("float16", (batch, self.depth, *image), _NHWC),
            "v": spec("float16", (self.wide, self.depth, 1, 1), _NHWC, constant=True),
            "a": spec("float16", (self.wide,), constant=True),
            "r": broad,
            "w": spec("float16", (self.narrow, self.wide, 1, 1), _NHWC, constant=True),
            "b": spec("float16", (self.narrow,), constant=True),
        }
        ops = (
            BodyOp("Conv", ("x", "v", "a"), ("acc",)),
            BodyOp("Add", ("acc", "r"), ("sum",)),
            BodyOp("Relu", ("sum",), ("y",)),
            BodyOp("Conv", ("y", "w", "b"), ("raw",)),
            BodyOp("Relu", ("raw",), ("z",)),
        )
        last = spec("float16", small, _NHWC)
        inner = {"acc": broad, "sum": broad, "y": broad, "raw": last, "z": last}
        return Region(Kind.CHAIN, self.name, tuple(values), ("y", "z"), ops, tuple({**values, **inner}.items()))

    def floor(self, batch: int, bandwidth: float) -> float:
        """Seconds that its traffic takes."""
        return 2 * batch * self.size**2 * (self.depth + 2 * self.wide + self.narrow) / bandwidth


@dataclass(frozen=True)
class Sum:
    """The end of a residual block whose other branch has a convolution of its own: both are added."""

    count: int
    size: int
    """Of the result."""
    depth: int
    other: int
    """Depth of the branch, which is read with ``stride``."""
    wide: int
    stride: int

    @property
    def name(self) -> str:
        """Such as ``128+256/2->512 @28``."""
        step = f"/{self.stride}" if self.stride > 1 else ""
        return f"{self.depth}+{self.other}{step}->{self.wide} @{self.size}"

    def region(self, batch: int) -> Region:
        """Both, each with its bias, and ReLU."""
        far = self.size * self.stride
        result = spec("float16", (batch, self.wide, self.size, self.size), _NHWC)
        values = {
            "x": spec("float16", (batch, self.depth, self.size, self.size), _NHWC),
            "v": spec("float16", (self.wide, self.depth, 1, 1), _NHWC, constant=True),
            "a": spec("float16", (self.wide,), constant=True),
            "r": spec("float16", (batch, self.other, far, far), _NHWC),
            "w": spec("float16", (self.wide, self.other, 1, 1), _NHWC, constant=True),
            "b": spec("float16", (self.wide,), constant=True),
        }
        ops = (
            BodyOp("Conv", ("x", "v", "a"), ("one",)),
            BodyOp("Conv", ("r", "w", "b"), ("two",), (("strides", (self.stride, self.stride)),)),
            BodyOp("Add", ("one", "two"), ("sum",)),
            BodyOp("Relu", ("sum",), ("y",)),
        )
        inner = dict.fromkeys(("one", "two", "sum", "y"), result)
        return Region(Kind.SUM, self.name, tuple(values), ("y",), ops, tuple({**values, **inner}.items()))

    def floor(self, batch: int, bandwidth: float) -> float:
        """Seconds that its traffic or its work takes."""
        pixels, depth = batch * self.size**2, self.depth + self.other
        return max(2 * pixels * (depth + self.wide) / bandwidth, 2 * pixels * depth * self.wide / 790e12)


PAIRS: tuple[Pair | Sum, ...] = (
    Pair(2, 56, 64, 256, 64), Pair(1, 56, 64, 256, 128), Pair(3, 28, 128, 512, 128), Pair(1, 28, 128, 512, 256),
    Sum(1, 56, 64, 64, 256, 1), Sum(1, 28, 128, 256, 512, 2),
    Sum(1, 14, 256, 512, 1024, 2), Sum(1, 7, 512, 1024, 2048, 2),
)  # fmt: skip


def variants(region: Region, target: Target, limits: dict[str, int]) -> Iterator[Work]:
    """The likeliest of both tactics."""
    for tactic in (t for t in TACTICS if region.kind in t.kinds):
        if tactic.accepts(region, target):
            for variant in tactic.variants(region, target, {})[: limits[tactic.name]]:
                yield region, tactic, variant


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 128])
    parser.add_argument("--pairs", type=int, nargs="*", help="numbers in PAIRS; all by default")
    parser.add_argument("--chain", type=int, default=20, help="variants of the one kernel")
    parser.add_argument("--pair", type=int, default=4, help="variants of the two")
    parser.add_argument("--jobs", type=int, default=12)
    parser.add_argument("--out", default="chain_layers.jsonl")
    args = parser.parse_args()
    device, target = Device.open(0), Target(90)
    measurer = DeviceMeasurer(device.info.name, Setting(0, False, _WEIGHTS))
    limits = {"cuda.chain": args.chain, "cuda.hopper": args.chain, "cuda.pair": args.pair}
    cases = [(b, p) for b in args.batch for i, p in enumerate(PAIRS) if args.pairs is None or i in args.pairs]
    each = [list(variants(pair.region(batch), target, limits)) for batch, pair in cases]
    made = iter(compiled([one for work in each for one in work], target, args.jobs))
    with Path(args.out).open("a") as file:
        for (batch, pair), work in zip(cases, each, strict=True):
            region = pair.region(batch)
            ages = tuple(_AGO if name == "r" else 0 for name in region.inputs)
            results = measured(measurer, region, {str(variant): next(made) for *_, variant in work}, ages)
            best: dict[str, float] = {}
            for text, result in results.items():
                row: dict[str, object] = {"batch": batch, "layers": pair.name, "variant": text}
                if isinstance(result, str):
                    row["failed"] = result
                else:
                    row["micros"] = round(result, 2)
                    name = text.partition("[")[0]
                    best[name] = min(best.get(name, 1e9), result)
                file.write(json.dumps(row) + "\n")
            file.flush()
            floor = 1e6 * pair.floor(batch, 4.3e12)
            print(f"{batch:4} {pair.count}x {pair.name:22} floor {floor:6.1f}", end=" ")
            print(" ".join(f"{name} {micros:6.1f}" for name, micros in best.items()), flush=True)
    measurer.close()


if __name__ == "__main__":
    main()
