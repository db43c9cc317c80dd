"""Cases for the map kernels: Regions of index maps and scalar ops, run and compared with the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from support.host_cuda import run_on_host
from support.regions import assert_close, build_region, random_inputs

from ingot.graph.dims import Bindings, Shape
from ingot.graph.reference import region_model, run_model, run_region
from ingot.graph.region import Attr, BodyOp, Kind, Literal, Region
from ingot.graph.tensor import Order, TensorSpec, spec
from ingot.kernels.api import Program, Target, Variant
from ingot.kernels.cuda.map import TACTICS

MAP = TACTICS[0]


@dataclass(frozen=True)
class Case:
    """A Region, values of its symbols, and inputs that must not be random, by name."""

    name: str
    region: Region
    bindings: Bindings = field(default_factory=dict)
    feeds: Mapping[str, np.ndarray] = field(default_factory=dict)
    depth: int = 4
    precision: str = ""
    """Type whose rounding the comparison allows, when it is not the output's."""

    def inputs(self, seed: int = 0) -> list[np.ndarray]:
        """Arrays for the Region's inputs."""
        made = random_inputs(self.region, self.bindings, seed)
        found = []
        for name, array in zip(self.region.inputs, made, strict=True):
            array = self.feeds.get(name, array).astype(array.dtype)
            for axis, stride in enumerate(self.region.spec_of[name].strides):
                if stride == 0 and array.size:
                    array = np.repeat(array.take([0], axis), array.shape[axis], axis)
            found.append(array)
        return found

    def check(self, actual: Sequence[np.ndarray], inputs: Sequence[np.ndarray]) -> None:
        """Compares every output with the reference."""
        feeds = dict(zip(self.region.inputs, inputs, strict=True))
        with np.errstate(all="ignore"):
            wanted = run_region(self.region, feeds, self.bindings, high_precision=True)
        for name, have in zip(self.region.outputs, actual, strict=True):
            dtype = self.region.spec_of[name].dtype
            want = wanted[name].reshape(have.shape) if wanted[name].size == have.size else wanted[name]
            assert_close(have, want, dtype=self.precision or dtype, depth=self.depth)


def one_op(
    op: str,
    inputs: Mapping[str, TensorSpec],
    *,
    literals: Mapping[str, Literal] | None = None,
    operands: Sequence[str] = (),
    dtype: str = "",
    shape: Shape | None = None,
    order: Order | None = None,
    outputs: Sequence[str] = ("y",),
    bindings: Bindings | None = None,
    feeds: Mapping[str, np.ndarray] | None = None,
    extra: Mapping[str, Attr] | None = None,
    **attrs: Attr,
) -> Case:
    """A Region of one op; the result's shape comes from the reference when it is not given.

    ``operands`` orders inputs and literals ("" is absent); left out, the inputs come first. ``extra`` are
    attributes that are named like a parameter of this function.
    """
    literals, bindings, feeds = dict(literals or {}), dict(bindings or {}), dict(feeds or {})
    names = tuple(operands) or (*inputs, *literals)
    body = BodyOp(op, names, tuple(outputs), tuple(sorted({**attrs, **(extra or {})}.items())))
    kind = dtype or next(iter(inputs.values())).dtype
    results = {name: spec(kind, ()) for name in outputs}
    region = build_region(Kind.MAP, inputs, [body], results, outputs, literals)
    if shape is None or len(outputs) > 1:
        shapes = _shapes(Case("", region, bindings, feeds))
        results = {name: spec(kind, shapes[name], order) for name in outputs}
    else:
        results = {name: spec(kind, shape, order) for name in outputs}
    region = build_region(Kind.MAP, inputs, [body], results, outputs, literals)
    said = " ".join(f"{key}={value}" for key, value in {**literals, **attrs}.items())
    layout = " ".join(f"{s.dtype}{s.shape}" for s in inputs.values())
    return Case(f"{op} {layout} {said}".replace("'", ""), region, bindings, feeds)


def _shapes(case: Case) -> dict[str, Shape]:
    """Shapes of the outputs, by running the reference."""
    model = region_model(case.region, case.bindings, wide=True)
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    feeds = {
        name: array.astype(np.float32) if array.dtype.name in ("float16", "bfloat16") else array
        for name, array in zip(case.region.inputs, case.inputs(), strict=True)
    }
    made = run_model(model, feeds, case.region.outputs)
    return {name: tuple(array.shape) for name, array in zip(case.region.outputs, made, strict=True)}


def shortlist(case: Case, target: Target) -> list[Variant]:
    """The variants that differ most: the widest vectors (two a thread) and single elements."""
    answer = MAP.accepts(case.region, target)
    assert answer, str(answer)
    widths = {v["vector"] for v in MAP.variants(case.region, target, case.bindings)}
    widest = max(widths)
    found = [Variant(MAP.name, (("vector", widest), ("each", 2), ("block", 128)))]
    if widest > 1:
        found.append(Variant(MAP.name, (("vector", 1), ("each", 1), ("block", 128))))
    return found


def check_on_host(case: Case, variants: Sequence[Variant] | None = None) -> None:
    """Runs variants of the case on the CPU and compares."""
    target = Target(80)
    inputs = case.inputs()
    for variant in variants or shortlist(case, target):
        program: Program = MAP.compile(case.region, variant, target)
        source = MAP.source(case.region, variant, target)
        case.check(run_on_host(source, program, case.region, inputs, case.bindings), inputs)


def strided(like: TensorSpec, strides: Shape, align: int = 256) -> TensorSpec:
    """The same tensor elsewhere in memory."""
    return replace(like, strides=strides, align=align)
