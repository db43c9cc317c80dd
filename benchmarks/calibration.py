"""Times `ingot.quantize` on ResNet-50 with 500 crops of photos: calibration, alternatives, budget.

python benchmarks/calibration.py [--target auto|cuda|cpu] [--samples 500] [--json FILE]
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

import ingot
from ingot.device.device import Device
from ingot.measure.environment import Environment, environment
from ingot.precision.report import Report
from ingot.progress import Stopwatch
from ingot.zoo import datasets
from ingot.zoo.architectures import build

Array = np.ndarray[Any, Any]
RESULTS = Path(__file__).resolve().parent / "results" / "cpu" / "calibration-resnet50.json"
CPU = "CPU"
SIZE = 224
MEAN, DEVIATION = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
"""Of ImageNet's pixels."""


class Result(msgspec.Struct):
    """A run, and where the time went."""

    environment: Environment
    model: str
    samples: int
    seconds: float
    """Of the whole of `ingot.quantize`, by the clock."""
    cpu_seconds: float
    """What its threads, and processes that compile, took of all cores; with other work the clock says more."""
    stages: dict[str, float]
    """Seconds by the clock of each stage."""
    report: Report


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--target", default="auto", help="where it is calibrated: auto, cuda or cpu")
    flags = parser.parse_args()
    images, model = crops(flags.samples), build("resnet50")
    cpu, watch = processor(), Stopwatch()
    made = ingot.quantize(model, images, target=flags.target, progress=watch)
    stages, seconds = watch.seconds()
    cpu = processor() - cpu
    device = None if made.report.calibrated_on == CPU else Device.open().info
    result = Result(environment(device), "zoo:resnet50", len(images), seconds, cpu, stages, made.report)
    flags.json.write_bytes(msgspec.json.encode(result) + b"\n")
    told = ", ".join(f"{stage} {taken:.1f}" for stage, taken in stages.items())
    print(f"{seconds:.1f} s ({cpu:.1f} s of CPU) for {result.samples} samples on {made.report.calibrated_on}; {told}")


def processor() -> float:
    """Seconds of processor time that this process and its children took."""
    return sum(os.times()[:4])


def crops(count: int) -> Array:
    """Random squares of the photos, float32 [count, 3, 224, 224] with ImageNet's mean and deviation taken out."""
    from PIL import Image

    random, photos = np.random.default_rng(0), datasets.photos()
    found = np.empty((count, 3, SIZE, SIZE), np.float32)
    for index in range(count):
        photo = photos[index % len(photos)]
        size = int(random.integers(min(photo.shape[:2]) // 2, min(photo.shape[:2]) + 1))
        top, left = (int(random.integers(0, length - size + 1)) for length in photo.shape[:2])
        square = Image.fromarray(np.ascontiguousarray(photo[top : top + size, left : left + size]))
        pixels = np.asarray(square.resize((SIZE, SIZE), Image.Resampling.BILINEAR))
        found[index] = ((pixels - MEAN) / DEVIATION).transpose(2, 0, 1)
    return found


if __name__ == "__main__":
    main()
