"""The arguments and options that several commands share."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand


class OptionalValues(TyperCommand):
    """Lets ``--report`` and ``--json`` stand without a value: then they mean the standard output."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Puts ``-`` behind such an option where another option or nothing follows."""
        whole: list[str] = []
        for word, after in zip_longest(args, args[1:], fillvalue="--"):
            whole.append(word)
            if word in ("--report", "--json") and after.startswith("-") and after != "-":
                whole.append("-")
        return super().parse_args(ctx, whole)


Model = Annotated[str, typer.Argument(help="An ONNX file or zoo:NAME.", metavar="MODEL")]
Runnable = Annotated[str, typer.Argument(help="An engine, an ONNX file or zoo:NAME.", metavar="ENGINE|MODEL")]
EnginePath = Annotated[Path, typer.Argument(help="An engine file.", metavar="ENGINE", exists=True, dir_okay=False)]
TargetName = Annotated[str, typer.Option("--target", help="auto, cuda, cpu, or sm_75 ... sm_120.")]
Fp16 = Annotated[bool, typer.Option("--fp16", help="Compute in float16 where that is safe.")]
Tf32 = Annotated[bool, typer.Option("--tf32", help="Let float32 products round their operands to TF32.")]
Bf16 = Annotated[bool, typer.Option("--bf16", help="On the CPU: let OpenVINO compute in bfloat16.")]
ShapeTexts = Annotated[
    list[str] | None,
    typer.Option("--shapes", help="x=1x3x224x224, or x=MIN:OPT:MAX with three such shapes. Repeatable."),
]
ProfileTexts = Annotated[
    list[str] | None,
    typer.Option(
        "--profile", help="NAME:x=MIN:OPT:MAX: a range with kernels of its own. Repeat for inputs and ranges."
    ),
]
OptLevel = Annotated[int, typer.Option("--opt-level", min=0, max=5, help="How much to search: 0 to 5.")]
TimingDb = Annotated[Path | None, typer.Option("--timing-db", help="Timing database to read and to extend.")]
Unroll = Annotated[int, typer.Option("--unroll", min=0, help="Nodes that unrolled loops may make in all.")]
Strict = Annotated[bool, typer.Option("--strict", help="Refuse a build of which a part would stay on the host.")]
Json = Annotated[str | None, typer.Option("--json", help="JSON: to this file, or printed.")]
Seed = Annotated[int, typer.Option("--seed", help="Of the random inputs.")]
Inputs = Annotated[Path | None, typer.Option("--input", help="Inputs by name, as .npz; random ones without it.")]
Tolerance = Annotated[
    float | None, typer.Option("--tolerance", help="Largest relative error; by precision if left out.")
]
Calibration = Annotated[
    str | None,
    typer.Option("--calibration", help="Data to calibrate with: a folder, an .npz file, or module:function."),
]
CalibrationCache = Annotated[
    Path | None, typer.Option("--calibration-cache", help="What calibration saw: read if it is there, else written.")
]
Budget = Annotated[str, typer.Option("--accuracy-budget", help="Loss that is allowed, such as 0.5%; or none.")]
Metric = Annotated[str, typer.Option("--metric", help="What the loss is of: cosine, top1 or module:function.")]
Method = Annotated[str, typer.Option("--method", help="auto, minmax, moving_average, percentile, mse or entropy.")]
Rounding = Annotated[str, typer.Option("--rounding", help="Of weights: nearest or adaround.")]
Pixels = Annotated[
    str | None, typer.Option("--pixels", help="Pictures become numbers as: unit, signed, raw, raw_bgr or imagenet.")
]
Samples = Annotated[int | None, typer.Option("--samples", min=1, help="Calibration samples to use at most.")]
LayerReport = Annotated[
    str | None,
    typer.Option(
        "--report", help="Every layer and reason, times and memory: to this file (JSON if *.json), or printed."
    ),
]
Keep = Annotated[list[str] | None, typer.Option("--keep", help="A node that is not quantized. Repeatable.")]
Int8 = Annotated[bool, typer.Option("--int8", help="8-bit layers, as far as the accuracy budget allows.")]
Fp8 = Annotated[bool, typer.Option("--fp8", help="8-bit layers in FP8 (E4M3).")]
Against = Annotated[
    str | None, typer.Option("--against", help="Peers: onnxruntime, torch, torch.compile, fp16; with commas.")
]
Best = Annotated[
    bool, typer.Option("--best", help="Each layer in the fastest of FP16, INT8 and FP8, within the budget.")
]
Transfers = Annotated[bool, typer.Option("--transfers/--no-transfers", help="Also time copies from and to the host.")]
