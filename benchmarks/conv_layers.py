"""Times every convolution of ResNet-50: Ingot's Hopper and Triton kernels, and cuDNN's fused ones through PyTorch.

    PYTHONPATH=src python benchmarks/conv_layers.py --batch 1 8 128 --out layers.jsonl

Each time is the median over replays of a CUDA graph of many launches on random data, over several sets of
buffers. Every variant's result is compared with PyTorch's float32 convolution before it is timed. One JSON line per
measurement; a line with ``start`` precedes each variant, so that a run with the same ``--out`` goes on after
whatever crashed the one before.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ingot.graph.region import BodyOp, Kind, Region
from ingot.graph.tensor import TensorSpec, channels_last, spec
from ingot.kernels.api import Input, Output, Pdl, Program, Scratch, Tactic, Target, TensorMap, Value, Variant
from ingot.kernels.cuda.hopper import source
from ingot.kernels.cuda.hopper.tactic import HopperTactic
from ingot.kernels.triton.conv import ConvTactic

_NHWC = channels_last(4)
_TACTICS: dict[str, Tactic] = {"hopper": HopperTactic(), "triton": ConvTactic()}


@dataclass(frozen=True)
class Layer:
    """One convolution and how often ResNet-50 has it."""

    count: int
    c: int
    size: int
    k: int
    kernel: int = 1
    stride: int = 1
    residual: bool = False

    @property
    def name(self) -> str:
        """Such as ``3x3/2 128->128 @56``."""
        step = f"/{self.stride}" if self.stride > 1 else ""
        return f"{self.kernel}x{self.kernel}{step} {self.c}->{self.k} @{self.size}{' +res' if self.residual else ''}"

    @property
    def out(self) -> int:
        """Height and width of the result."""
        return (self.size - 1) // self.stride + 1

    def region(self, batch: int) -> Region:
        """Convolution, bias, residual, ReLU."""
        x, y = (batch, self.c, self.size, self.size), (batch, self.k, self.out, self.out)
        result = spec("float16", y, _NHWC)
        values: dict[str, TensorSpec] = {
            "x": spec("float16", x, _NHWC),
            "w": spec("float16", (self.k, self.c, self.kernel, self.kernel), _NHWC, constant=True),
            "b": spec("float16", (self.k,), constant=True),
        }
        pad = self.kernel // 2
        ops = [BodyOp("Conv", ("x", "w", "b"), ("acc",), (("pads", (pad,) * 4), ("strides", (self.stride,) * 2)))]
        last = "acc"
        if self.residual:
            values["r"] = result
            ops.append(BodyOp("Add", ("acc", "r"), ("sum",)))
            last = "sum"
        ops.append(BodyOp("Relu", (last,), ("y",)))
        inputs = tuple(values)
        values |= {name: result for op in ops for name in op.outputs}
        return Region(Kind.CONV, self.name, inputs, ("y",), tuple(ops), tuple(values.items()))

    def floor(self, batch: int, bandwidth: float, flops: float) -> float:
        """Seconds that no kernel beats: bytes over bandwidth or operations over rate."""
        pixels = batch * self.out**2
        moved = batch * self.size**2 * self.c / (self.stride**2 if self.kernel == 1 else 1)
        moved += pixels * self.k * (2 if self.residual else 1) + self.k * self.c * self.kernel**2
        return max(2 * moved / bandwidth, 2 * pixels * self.k * self.c * self.kernel**2 / flops)


LAYERS = (
    Layer(1, 64, 56, 64), Layer(2, 256, 56, 64), Layer(3, 64, 56, 64, 3), Layer(3, 64, 56, 256, residual=True),
    Layer(1, 64, 56, 256),
    Layer(1, 256, 56, 128), Layer(1, 128, 56, 128, 3, 2), Layer(3, 512, 28, 128), Layer(3, 128, 28, 128, 3),
    Layer(4, 128, 28, 512, residual=True), Layer(1, 256, 56, 512, 1, 2),
    Layer(1, 512, 28, 256), Layer(1, 256, 28, 256, 3, 2), Layer(5, 1024, 14, 256), Layer(5, 256, 14, 256, 3),
    Layer(6, 256, 14, 1024, residual=True), Layer(1, 512, 28, 1024, 1, 2),
    Layer(1, 1024, 14, 512), Layer(1, 512, 14, 512, 3, 2), Layer(2, 2048, 7, 512), Layer(2, 512, 7, 512, 3),
    Layer(3, 512, 7, 2048, residual=True), Layer(1, 1024, 14, 2048, 1, 2),
)  # fmt: skip


class Bench:
    """Tensors of one layer on the device, several sets of them."""

    def __init__(self, layer: Layer, batch: int) -> None:
        import torch

        self.torch, self.layer, self.batch = torch, layer, batch
        self.kept: list[Any] = []  # a module unloaded during a capture spoils it; graphs do not own memory
        last = dict(device="cuda", dtype=torch.float16, memory_format=torch.channels_last)

        def random(*shape: int, scale: float = 1.0) -> Any:
            return (torch.randn(shape, device="cuda") * scale).to(**last)

        pixels = batch * layer.size**2 * layer.c
        self.sets = 2 if pixels > 1 << 22 else 8
        fan = layer.c * layer.kernel**2
        shape = (batch, layer.k, layer.out, layer.out)
        self.x = [random(batch, layer.c, layer.size, layer.size) for _ in range(self.sets)]
        self.w = [random(layer.k, layer.c, layer.kernel, layer.kernel, scale=fan**-0.5) for _ in range(self.sets)]
        self.w = [self.w[0], *(w.copy_(self.w[0]) for w in self.w[1:])]
        self.b = torch.randn(layer.k, device="cuda", dtype=torch.float16)
        self.r = [random(*shape) for _ in range(self.sets)] if layer.residual else None
        self.y = [torch.empty(shape, **last) for _ in range(self.sets)]
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = True
        want = torch.nn.functional.conv2d(
            self.x[0].float(), self.w[0].float(), self.b.float(), layer.stride, layer.kernel // 2
        )
        want = want + self.r[0].float() if self.r else want
        self.want = torch.relu(want)

    def error(self, y: Any) -> float:
        """Relative error of a result of the first set."""
        error = (y.float() - self.want).norm() / self.want.norm()
        return float(error) if bool(self.torch.isfinite(y).all()) else float("inf")

    def cudnn(self, i: int) -> Any:
        """cuDNN's fused kernel on set ``i``."""
        layer, ops = self.layer, self.torch.ops.aten
        shape = [layer.stride] * 2, [layer.kernel // 2] * 2, [1, 1], 1
        if self.r:
            return ops.cudnn_convolution_add_relu(self.x[i], self.w[i], self.r[i], 1.0, self.b, *shape)
        return ops.cudnn_convolution_relu(self.x[i], self.w[i], self.b, *shape)

    def tensor(self, name: str, i: int) -> Any:
        """The tensor of the layer's Region that is called ``name``, of set ``i``."""
        return {"x": self.x[i], "w": self.w[i], "b": self.b, "r": self.r[i] if self.r else None, "y": self.y[i]}[name]

    def program(self, region: Region, program: Program) -> Callable[[int], None]:
        """A function that launches ``program`` on set ``i`` in PyTorch's current stream."""
        from types import SimpleNamespace

        from cuda.bindings import driver

        from ingot.device.launch import KernelArgs, launch
        from ingot.device.module import Module
        from ingot.device.tensor_map import encoded

        functions = [Module(k.cubin).function(k.entry, k.shared, k.cluster) for k in program.kernels]
        scratch = [self.torch.zeros(int(w.bytes), dtype=self.torch.uint8, device="cuda") for w in program.workspaces]

        def argument(a: Any, i: int) -> Any:
            match a:
                case Input(index):
                    return self.tensor(region.inputs[index], i).data_ptr(), 8
                case Output(index):
                    return self.tensor(region.outputs[index], i).data_ptr(), 8
                case Scratch(index):
                    return scratch[index].data_ptr(), 8
                case Value(dim, width):
                    return int(dim), width
                case TensorMap(tensor=tensor):
                    return encoded(a, argument(tensor, i)[0], {})
            return 0, 8

        self.kept += [functions, scratch]
        packed = [[KernelArgs([argument(a, i) for a in k.arguments]) for k in program.kernels]
                  for i in range(self.sets)]  # fmt: skip

        def run(i: int) -> None:
            stream: Any = SimpleNamespace(handle=driver.CUstream(self.torch.cuda.current_stream().cuda_stream))
            for kernel, function, args in zip(program.kernels, functions, packed[i], strict=True):
                grid: Any = tuple(int(d) for d in kernel.grid)
                launch(function, grid, kernel.block, args, stream, pdl=kernel.pdl is not Pdl.NONE)

        return run

    def micros(self, run: Callable[[int], Any], launches: int, replays: int = 7) -> float:
        """Median microseconds of one launch."""
        torch = self.torch
        graph = torch.cuda.CUDAGraph()
        gc.collect()
        with torch.cuda.graph(graph):
            for i in range(launches):
                run(i % self.sets)
        graph.replay()
        times = []
        for _ in range(replays):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) * 1000 / launches)
        return statistics.median(times)


def compiled(name: str, region: Region, text: str, target: Target, spin: int) -> Program | str:
    """One variant's Program, or why it has none."""
    source.SPIN_LIMIT = spin
    try:
        return _TACTICS[name].compile(region, Variant.parse(text), target)
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:300]}"


def tasks(args: argparse.Namespace, target: Target) -> Iterator[tuple[Layer, int, str, str]]:
    """Everything to measure: layer, batch, tactic, variant."""
    extra: dict[int, list[str]] = {}
    for line in Path(args.extra).read_text().splitlines() if args.extra else []:
        number, _, text = line.partition(" ")
        extra.setdefault(int(number), []).append(text)
    for batch, (number, layer) in itertools.product(args.batch, enumerate(LAYERS)):
        if args.layers and number not in args.layers:
            continue
        region = layer.region(batch)
        for name, limit in (("hopper", args.hopper), ("triton", args.triton)):
            if limit and _TACTICS[name].accepts(region, target):
                likely = [str(v) for v in _TACTICS[name].variants(region, target, {})][:limit]
                for text in dict.fromkeys([*likely, *(extra.get(number, []) if name == "hopper" else [])]):
                    yield layer, batch, name, text


def device_target() -> Target:
    """The Target of the first GPU, with its measured bandwidth."""
    import torch

    cc = torch.cuda.get_device_capability()
    a = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    b = torch.empty_like(a)
    b.copy_(a)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(5):
        b.copy_(a)
    end.record()
    end.synchronize()
    sms = torch.cuda.get_device_properties(0).multi_processor_count
    return Target(cc[0] * 10 + cc[1], sms=sms, bandwidth=5 * 2 * a.numel() / (begin.elapsed_time(end) / 1000))


def measure(args: argparse.Namespace, target: Target, rows: list[dict[str, Any]], pool: ProcessPoolExecutor) -> None:
    """Runs what ``rows`` does not have yet and writes each result to ``--out``."""
    done = {(r["batch"], r["layer"], r["variant"]) for r in rows}
    todo = [t for t in tasks(args, target) if (t[1], t[0].name, t[3]) not in done]
    futures: dict[tuple[Layer, int, str, str], Future[Program | str]] = {
        t: pool.submit(compiled, t[2], t[0].region(t[1]), t[3], target, args.spin) for t in todo
    }
    groups = [(batch, layer) for batch in args.batch for i, layer in enumerate(LAYERS)
              if not args.layers or i in args.layers]  # fmt: skip
    with Path(args.out).open("a") as file:

        def write(**row: Any) -> None:
            file.write(json.dumps(row) + "\n")
            file.flush()
            rows.append(row)

        for batch, layer in groups:
            mine = [t for t in todo if t[0] == layer and t[1] == batch]
            key = {"batch": batch, "layer": layer.name}
            bench = Bench(layer, batch)
            launches = 8 if batch >= 64 else 40
            if (batch, layer.name, "cudnn") not in done:
                bench.cudnn(0)
                micros = bench.micros(bench.cudnn, launches)
                write(**key, variant="cudnn", micros=micros, error=bench.error(bench.cudnn(0)))
            for task in mine:
                program = futures[task].result()
                if isinstance(program, str):
                    write(**key, variant=task[3], failed=program)
                    continue
                write(**key, variant=task[3], start=True)
                run = bench.program(layer.region(batch), program)
                bench.y[0].fill_(float("nan"))
                try:
                    run(0)
                    bench.torch.cuda.synchronize()
                except Exception as crash:  # the context is lost: another run goes on from here
                    write(**key, variant=task[3], failed=str(crash).splitlines()[0])
                    raise SystemExit(3) from None
                error = bench.error(bench.y[0])
                if error > 2e-3:
                    write(**key, variant=task[3], failed=f"error {error}")
                    continue
                try:
                    micros = bench.micros(run, launches)
                except Exception as crash:
                    write(**key, variant=task[3], failed=f"in a graph: {str(crash).splitlines()[0]}")
                    raise SystemExit(3) from None
                write(**key, variant=task[3], micros=micros, error=error)
            summary(rows, batch, layer, target)


def best(rows: Sequence[dict[str, Any]], batch: int, layer: Layer, prefix: str) -> tuple[float, str]:
    """Least microseconds of a tactic's variants, and which."""
    found = [(r["micros"], r["variant"]) for r in rows if r["batch"] == batch and r["layer"] == layer.name
             and "micros" in r and r["variant"].startswith(prefix)]  # fmt: skip
    return min(found, default=(float("nan"), ""))


def summary(rows: Sequence[dict[str, Any]], batch: int, layer: Layer, target: Target) -> None:
    """One line of the table."""
    ours, variant = best(rows, batch, layer, "cuda.hopper")
    triton, cudnn = best(rows, batch, layer, "triton")[0], best(rows, batch, layer, "cudnn")[0]
    floor = layer.floor(batch, target.bandwidth, target.flops) * 1e6
    bad = sum("failed" in r and r["layer"] == layer.name and r["batch"] == batch for r in rows)
    tile = variant.partition("[")[2]
    print(f"{batch:4} {layer.count}x {layer.name:24} ours {ours:7.1f} triton {triton:7.1f} cudnn {cudnn:7.1f} "
          f"ratio {cudnn / ours:5.2f} floor {floor:6.1f} failed {bad} {tile}", flush=True)  # fmt: skip


def totals(rows: Sequence[dict[str, Any]], batch: int, target: Target) -> None:
    """Sums over the network."""
    line = [f"batch {batch}, sum of {sum(layer.count for layer in LAYERS)} layers (us):"]
    for prefix in ("cuda.hopper", "triton", "cudnn"):
        line.append(f"{prefix} {sum(layer.count * best(rows, batch, layer, prefix)[0] for layer in LAYERS):.0f}")
    line.append(f"floor {sum(x.count * x.floor(batch, target.bandwidth, target.flops) for x in LAYERS) * 1e6:.0f}")
    print(" ".join(line), flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 128])
    parser.add_argument("--layers", type=int, nargs="*", help="numbers in LAYERS; all by default")
    parser.add_argument("--hopper", type=int, default=12, help="variants of the Hopper kernel per layer")
    parser.add_argument("--triton", type=int, default=8, help="variants of the Triton kernel per layer")
    parser.add_argument("--extra", help="file of further Hopper variants, a layer's number and the text on each line")
    parser.add_argument("--jobs", type=int, default=12)
    parser.add_argument("--spin", type=int, default=0, help="tries of a barrier until a kernel traps")
    parser.add_argument("--out", default="conv_layers.jsonl")
    args = parser.parse_args()
    path = Path(args.out)
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    began = time.time()
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        target = device_target()
        print(f"{target.sms} SMs, copy {target.bandwidth / 1e12:.2f} TB/s", flush=True)
        measure(args, target, rows, pool)
    for batch in args.batch:
        totals(rows, batch, target)
    print(f"{time.time() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
