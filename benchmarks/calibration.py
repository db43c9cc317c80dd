"""Times `ingot.quantize` on ResNet-50 with 500 crops of photos, on the CPU: calibration, alternatives, budget.

python benchmarks/calibration.py [--samples 500] [--json FILE]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

import ingot
from ingot.measure.environment import Environment, environment
from ingot.precision.report import Report
from ingot.zoo import datasets
from ingot.zoo.architectures import build

Array = np.ndarray[Any, Any]
RESULTS = Path(__file__).resolve().parent / "results" / "cpu" / "calibration-resnet50.json"
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
    """What its threads took of all cores; on a machine with other work the clock says more."""
    reached: dict[str, float]
    """Seconds from the start until each stage last told of its progress."""
    report: Report


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--json", type=Path, default=RESULTS)
    flags = parser.parse_args()
    images = crops(flags.samples)
    start, cpu, reached = time.perf_counter(), time.process_time(), dict[str, float]()

    def progress(stage: str, done: int, total: int) -> None:
        del done, total
        reached[stage] = round(time.perf_counter() - start, 3)

    made = ingot.quantize(build("resnet50"), images, progress=progress)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    result = Result(environment(None), "zoo:resnet50", len(images), seconds, cpu, reached, made.report)
    flags.json.write_bytes(msgspec.json.encode(result) + b"\n")
    print(f"{seconds:.1f} s ({cpu:.1f} s of CPU) for {result.samples} samples; {reached}")


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
