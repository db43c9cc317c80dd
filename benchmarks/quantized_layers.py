"""Times ResNet-50's convolutions on the Hopper kernel in FP16, INT8 and FP8, with the epilogues of a quantized network.

    PYTHONPATH=src:tests python benchmarks/quantized_layers.py --batch 1 8 128 --out quantized_layers.jsonl

Times are medians over replays of a CUDA graph of many launches on random data, over several sets of buffers. Every
variant of an INT8 layer must give the bits of the first. Whether these are right, the device tests of the kernels say.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from conv_layers import LAYERS, Bench, Layer, compiled, device_target
from support.quantized import FLOAT8, quantized_conv

from ingot.graph.region import Region
from ingot.graph.tensor import TensorSpec
from ingot.kernels.cuda.hopper.tactic import HopperTactic

TYPES = ("float16", "int8", FLOAT8)


def region_of(layer: Layer, batch: int, dtype: str) -> Region:
    """The layer's Region: in FP16 that of an FP16 network, else with scales, and results of the operands' type."""
    if dtype == "float16":
        return layer.region(batch)
    pad = layer.kernel // 2
    return quantized_conv(
        (batch, layer.c, layer.size, layer.size), (layer.k, layer.c, layer.kernel, layer.kernel),
        x_type=dtype, out=dtype, residual=layer.residual, offset=None, bias=True,
        strides=(layer.stride,) * 2, pads=(pad,) * 4,
    )  # fmt: skip


class Buffers(Bench):
    """Random tensors of one Region on the device, several sets of them."""

    def __init__(self, region: Region, batch: int) -> None:
        import torch

        self.torch, self.region, self.kept = torch, region, []
        self.sets = 2 if int(region.input_specs[0].elements) > 1 << 22 else 8
        self.tensors = {
            name: [self._random(region.spec_of[name], name) for _ in range(self.sets)]
            for name in (*region.inputs, *region.outputs)
        }
        for name in region.inputs[1:]:
            self.tensors[name] = [self.tensors[name][0].clone() for _ in range(self.sets)]

    def _random(self, tensor: TensorSpec, name: str) -> Any:
        torch, count = self.torch, int(tensor.elements)
        if tensor.dtype in ("int8", "uint8"):
            return torch.randint(0, 256, (count,), dtype=torch.uint8, device="cuda")
        if tensor.dtype == "int32":
            return torch.randint(-9999, 9999, (count,), dtype=torch.int32, device="cuda")
        values = torch.randn(count, device="cuda") * (1e-4 if name == "scale" else 1.0)
        return values.to({"float32": torch.float32, "float16": torch.float16}.get(tensor.dtype, torch.float8_e4m3fn))

    def tensor(self, name: str, i: int) -> Any:
        """See :meth:`Bench.tensor`."""
        return self.tensors[name][i]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 128])
    parser.add_argument("--variants", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=14)
    parser.add_argument("--out", default="quantized_layers.jsonl")
    args = parser.parse_args()
    tactic = HopperTactic()
    totals: dict[tuple[int, str], float] = {}
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool, Path(args.out).open("a") as file:
        target = device_target()
        keys = [(batch, layer, dtype) for batch in args.batch for layer in LAYERS for dtype in TYPES]
        texts = {
            key: [str(v) for v in tactic.variants(region_of(key[1], key[0], key[2]), target, {})[: args.variants]]
            for key in keys
        }
        futures = {
            (key, text): pool.submit(compiled, "hopper", region_of(key[1], key[0], key[2]), text, target, 0)
            for key in keys
            for text in texts[key]
        }
        for key in keys:
            batch, layer, dtype = key
            region = region_of(layer, batch, dtype)
            buffers, best, first = Buffers(region, batch), (float("inf"), ""), None
            for text in texts[key]:
                program = futures[key, text].result()
                if isinstance(program, str):
                    print(f"failed {layer.name} {dtype} {text}: {program}", flush=True)
                    continue
                run = buffers.program(region, program)
                run(0)
                result = buffers.tensors[region.outputs[0]][0].clone()
                first = result if first is None else first
                if dtype == "int8" and not buffers.torch.equal(result, first):
                    print(f"differs {layer.name} {text}", flush=True)
                micros = buffers.micros(run, 8 if batch >= 64 else 40)
                best = min(best, (micros, text))
                row = {"batch": batch, "layer": layer.name, "type": dtype, "variant": text, "micros": micros}
                file.write(json.dumps(row) + "\n")
            totals[batch, dtype] = totals.get((batch, dtype), 0.0) + layer.count * best[0]
            print(f"{batch:4} {layer.count}x {layer.name:24} {dtype:14} {best[0]:7.2f} {best[1][11:]}", flush=True)
    for (batch, dtype), micros in totals.items():
        print(f"batch {batch} {dtype}: {micros:.1f} us for all layers", flush=True)


if __name__ == "__main__":
    main()
