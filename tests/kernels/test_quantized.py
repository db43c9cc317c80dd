"""Kernels for quantized tensors without a GPU: scalar ops on the CPU, the copy engine's view, machine code."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from support.host_cuda import needs_compiler, run_on_host
from support.quantized import FLOAT8, assert_quantized, quantized_conv, quantized_inputs, quantized_matmul
from support.regions import build_region
from support.strided import bound, scatter
from support.tma import Loader

from ingot.graph.reference import run_region
from ingot.graph.region import BodyOp, Kind, Region
from ingot.graph.tensor import TensorSpec, channels_last, spec
from ingot.kernels.api import Kernel, Tactic, Target
from ingot.kernels.cuda.hopper.operands import Operands, operands
from ingot.kernels.cuda.hopper.source import ENTRY, generate
from ingot.kernels.cuda.hopper.tactic import HopperTactic, candidates
from ingot.kernels.cuda.hopper.tile import HopperTile
from ingot.kernels.cuda.map import TACTICS as MAPS
from ingot.kernels.cuda.nvrtc import compile_cuda
from ingot.kernels.cuda.pool import TACTICS as POOLS
from ingot.kernels.cuda.product import quick_math
from ingot.kernels.cuda.stem.tactic import TACTICS as STEMS
from ingot.kernels.cuda.stem.tile import StemTile
from ingot.kernels.triton.conv import ConvTactic
from ingot.kernels.triton.depthwise import DepthwiseTactic
from ingot.kernels.triton.gemm import GemmTactic

SM90 = Target(90)
HOPPER = HopperTactic()


def there_and_back(dtype: str, zero: int, scale: float) -> Region:
    """float32 -> quantized (an output) -> float32 (an output)."""
    names = ("scale", "zero") if dtype != FLOAT8 else ("scale",)
    ops = [
        BodyOp("QuantizeLinear", ("x", *names), ("q",)),
        BodyOp("DequantizeLinear", ("y", *names), ("z",)),
    ]
    literals = {"scale": scale} | ({"zero": zero} if dtype != FLOAT8 else {})
    inputs = {"x": spec("float32", (3, 50)), "y": spec(dtype, (3, 50))}
    return build_region(
        Kind.MAP, inputs, ops, {"q": spec(dtype, (3, 50)), "z": spec("float32", (3, 50))}, ["q", "z"], literals
    )


SCALES = [("int8", 0, 0.125), ("int8", -7, 0.1), ("uint8", 0, 0.1), ("uint8", 128, 0.03), ("int16", 5, 0.001),
          ("uint16", 999, 0.002), (FLOAT8, 0, 0.05)]  # fmt: skip


@needs_compiler
@pytest.mark.parametrize(("dtype", "zero", "scale"), SCALES)
def test_quantization_in_maps(dtype: str, zero: int, scale: float) -> None:
    region = there_and_back(dtype, zero, scale)
    tactic = MAPS[0]
    assert tactic.accepts(region, SM90)
    variant = tactic.variants(region, SM90, {})[0]
    rng = np.random.default_rng(3)
    x = (rng.standard_normal((3, 50)) * 9).astype(np.float32)
    x[0, :8] = [0.0, 1e9, -1e9, 0.0625, -0.0625, 3.0625, scale / 2, -1e-6]
    y = (x[:, ::-1] / scale).astype(ml_dtypes.float8_e4m3fn) if dtype == FLOAT8 else rng.integers(0, 100, (3, 50))
    inputs = [x, y.astype(region.spec_of["y"].dtype if dtype != FLOAT8 else ml_dtypes.float8_e4m3fn)]
    source = tactic.source(region, variant, SM90)  # type: ignore[attr-defined]
    got = run_on_host(source, tactic.compile(region, variant, SM90), region, inputs)
    want = run_region(region, dict(zip(region.inputs, inputs, strict=True)), {})
    np.testing.assert_array_equal(got[0].view(np.uint8), want["q"].view(np.uint8))
    np.testing.assert_allclose(got[1], want["z"], rtol=1e-6)


def test_float8_rounds_as_ml_dtypes() -> None:
    """All bit patterns, and what lies at and around the middle between two of them; also where no store rounds them."""
    every = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    finite = np.sort(every[np.isfinite(every)])
    middles = (finite[1:] + finite[:-1]) / 2
    x = np.concatenate(
        [finite, middles, np.nextafter(middles, np.float32(1e9)), np.nextafter(middles, np.float32(-1e9))]
    )
    region = build_region(
        Kind.MAP, {"x": spec("float32", x.shape)},
        [BodyOp("QuantizeLinear", ("x", "one"), ("q",)), BodyOp("DequantizeLinear", ("q", "one"), ("again",))],
        {"q": spec(FLOAT8, x.shape), "again": spec("float32", x.shape)}, ["q", "again"], {"one": 1.0},
    )  # fmt: skip
    variant = MAPS[0].variants(region, SM90, {})[0]
    source = MAPS[0].source(region, variant, SM90)  # type: ignore[attr-defined]
    want = x.astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
    for got in run_on_host(source, MAPS[0].compile(region, variant, SM90), region, [x]):
        np.testing.assert_array_equal(got.astype(np.float32), want)


# -- Hopper


BODY = quantized_conv((128, 256, 14, 14), (256, 256, 3, 3), pads=(1, 1, 1, 1), residual=True)
SMALL = {
    "padded": quantized_conv((2, 32, 5, 6), (24, 32, 3, 3), pads=(1, 1, 1, 1)),
    "strided": quantized_conv((1, 48, 7, 9), (8, 48, 3, 3), pads=(1, 1, 1, 1), strides=(2, 3)),
    "pointwise": quantized_conv((2, 80, 5, 5), (16, 80, 1, 1), x_type="uint8"),
    "product": quantized_matmul((3, 7, 48), (48, 40)),
    "float8": quantized_conv((2, 32, 5, 6), (24, 32, 3, 3), x_type=FLOAT8, out=FLOAT8, pads=(1, 1, 1, 1)),
}


@pytest.mark.parametrize("name", SMALL)
def test_operands_through_the_copy_engine(name: str) -> None:
    """Loads find the elements where the specs say they are, and fill whole rows of a swizzle."""
    region = SMALL[name]
    o = operands(region)
    assert isinstance(o, Operands) and HOPPER.accepts(region, SM90)
    inputs = quantized_inputs(region)
    memory = [scatter(np.asarray(x), bound(s, {})) for x, s in zip(inputs, o.region.input_specs, strict=True)]
    tile = next(t for t in candidates(o, {}) if t.m == 64 and not t.slide)
    a_map, b_map = o.maps(tile)
    a, b = Loader(a_map, memory[0]), Loader(b_map, memory[1])
    assert a_map.box[0] == b_map.box[0] == tile.slice and tile.slice in (16, 32, 64, 128)
    x, w = inputs[0].astype(np.float32), inputs[1].astype(np.float32)
    if region.kind is Kind.GEMM:
        np.testing.assert_array_equal(a.tile((0, 0, 0))[0][:21, :48], x.reshape(21, 48))
        np.testing.assert_array_equal(b.tile((0, 0, 0))[0][:40, :48], w.T[: tile.n])
        return
    channels = x.shape[1]
    if o.gather:
        corner = a.pixels((0, -o.filter.pad[1], -o.filter.pad[0], 0), (o.filter.pad[1], o.filter.pad[0]))[0]
    else:
        corner = a.tile((0, 0, 0))[0][0]
    np.testing.assert_array_equal(corner[:channels], x[0, :, 0, 0])
    np.testing.assert_array_equal(b.tile((0, 0, 0, 0))[: w.shape[0], 0, 0, :channels], w[: tile.n, :, 0, 0])


def test_refusals() -> None:
    assert "aligned" in str(HOPPER.accepts(quantized_conv((1, 24, 9, 9), (32, 24, 1, 1)), SM90))
    narrow = quantized_conv((1, 24, 9, 9), (32, 24, 3, 3))
    rows = {"x": TensorSpec("int8", (1, 24, 9, 9), (81 * 32, 1, 9 * 32, 32))}
    weights = {"w": TensorSpec("int8", (32, 24, 3, 3), (9 * 32, 1, 3 * 32, 32), constant=True)}
    assert "no multiple" in str(HOPPER.accepts(narrow.with_specs(rows | weights), SM90))
    turned = quantized_matmul((64, 64), (64, 64), b_order=(0, 1))
    assert "depth is not contiguous" in str(HOPPER.accepts(turned, SM90))
    assert "no FP8" in str(GemmTactic().accepts(quantized_matmul((64, 64), (64, 64), a_type=FLOAT8), Target(80)))


TILES = {
    "128 x 128 in turns": HopperTile(2, 2, 1, 128, 128, 1, 5),
    "192 x 128": HopperTile(1, 3, 0, 128, 128, 1, 4),
    "shared depth": HopperTile(1, 1, 0, 64, 128, 1, 6, split=4, persistent=0),
    "sliding": HopperTile(2, 2, 1, 128, 128, 3, 3, slide=2),
}


@pytest.mark.parametrize("name", TILES)
def test_hopper_tiles_compile(name: str) -> None:
    for x_type, out in (("int8", "int8"), ("uint8", "uint8"), (FLOAT8, FLOAT8)):
        o = operands(quantized_conv((8, 256, 14, 14), (256, 256, 3, 3), pads=(1, 1, 1, 1), x_type=x_type, out=out))
        assert isinstance(o, Operands) and TILES[name].fits(1)
        compiled = compile_cuda(generate(o, TILES[name], SM90).text, ENTRY, SM90, specific=True)
        assert compiled.spills <= 64


def test_bytes_are_predicted_to_be_faster() -> None:
    from support.regions import conv_region

    half = conv_region((128, 256, 14, 14), (256, 256, 3, 3), pads=(1, 1, 1, 1))
    times = [HOPPER.estimate(r, HOPPER.variants(r, SM90, {})[0], SM90, {}) for r in (half, BODY)]
    assert times[1] < 0.75 * times[0]


# -- other architectures


PORTABLE: dict[str, tuple[Tactic, Region]] = {
    "convolution": (ConvTactic(), quantized_conv((8, 64, 14, 14), (64, 64, 3, 3), pads=(1,) * 4, residual=True)),
    "unsigned": (ConvTactic(), quantized_conv((1, 64, 9, 9), (64, 64, 1, 1), x_type="uint8", out="uint8", zero=3)),
    "image": (ConvTactic(), quantized_conv((8, 3, 30, 30), (64, 3, 3, 3), pads=(1,) * 4)),
    "product": (GemmTactic(), quantized_matmul((300, 256), (256, 320), out="float16")),
    "depthwise": (DepthwiseTactic(), quantized_conv((8, 64, 14, 14), (64, 1, 3, 3), pads=(1,) * 4, group=64)),
    "float8": (GemmTactic(), quantized_matmul((300, 256), (256, 320), a_type=FLOAT8, out=FLOAT8)),
}


def compiles(cc: int) -> None:
    for name, (tactic, region) in PORTABLE.items():
        target = Target(cc)
        if name == "float8" and cc < 89:
            continue
        assert tactic.accepts(region, target), name
        program = tactic.compile(region, tactic.variants(region, target, {})[0], target)
        assert program.kernels[0].cubin


@pytest.mark.parametrize("cc", [80, 90, 120])
def test_triton_compiles(cc: int) -> None:
    compiles(cc)


@pytest.mark.nightly
@pytest.mark.parametrize("cc", [86, 89, 100])
def test_triton_compiles_elsewhere(cc: int) -> None:
    compiles(cc)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_pooling_of_bytes_compiles(dtype: str) -> None:
    x, y = (spec(dtype, (2, 64, n, n), channels_last(4)) for n in (14, 7))
    op = BodyOp("MaxPool", ("x",), ("y",), (("kernel_shape", (2, 2)), ("strides", (2, 2))))
    region = build_region(Kind.POOL, {"x": x}, [op], {"y": y}, ["y"])
    assert POOLS[0].accepts(region, SM90)
    variant = POOLS[0].variants(region, SM90, {})[0]
    inputs = [np.random.default_rng(0).integers(0, 120, (2, 64, 14, 14)).astype(dtype)]
    source = POOLS[0].source(region, variant, SM90)
    (got,) = run_on_host(source, POOLS[0].compile(region, variant, SM90), region, inputs)
    np.testing.assert_array_equal(got, run_region(region, {"x": inputs[0]}, {})["y"])


@needs_compiler
@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize("dtype", ["int8", "uint8", FLOAT8])
def test_stems_quantize_their_results(dtype: str, pooled: bool) -> None:
    """A first convolution of 16-bit floats, its pooling, and quantization in one kernel."""
    last = channels_last(4)
    small = (1, 16, 8, 9) if pooled else (1, 16, 16, 18)
    inner = {"acc": spec("float16", (1, 16, 16, 18), last), "relu": spec("float16", (1, 16, 16, 18), last)}
    ops = [
        BodyOp("Conv", ("x", "w"), ("acc",), (("pads", (1, 1, 1, 1)), ("strides", (2, 2)))),
        BodyOp("Relu", ("acc",), ("relu",)),
    ]
    if pooled:
        window = (("kernel_shape", (3, 3)), ("pads", (1, 1, 1, 1)), ("strides", (2, 2)))
        ops.append(BodyOp("MaxPool", ("relu",), ("pooled",), window))
        inner["pooled"] = spec("float16", small, last)
    names = ("scale", "zero") if dtype != FLOAT8 else ("scale",)
    ops.append(BodyOp("QuantizeLinear", (ops[-1].outputs[0], *names), ("q",)))
    inputs = {
        "x": spec("float16", (1, 3, 32, 36)),
        "w": spec("float16", (16, 3, 3, 3), (2, 3, 1, 0), constant=True),
    }
    literals = {"scale": 0.03} | ({"zero": 1 if dtype == "uint8" else 0} if dtype != FLOAT8 else {})
    region = build_region(Kind.STEM, inputs, ops, inner | {"q": spec(dtype, small, last)}, ["q"], literals)
    tactic = STEMS[0]
    answer = tactic.accepts(region, SM90)
    assert answer, answer
    rng = np.random.default_rng(4)
    arrays = [rng.standard_normal((1, 3, 32, 36)), rng.standard_normal((16, 3, 3, 3)) / 5]
    arrays = [array.astype(np.float16) for array in arrays]
    variant = tactic.variants(region, SM90, {})[0]
    assert tactic.compile(region, variant, SM90).kernels[0].cubin
    source = tactic.source(region, variant, Target(80))  # the same but for the multiplication
    kernel = Kernel("ingot_stem", b"", (source.grid, 1, 1), StemTile.of(variant).threads, 0, source.arguments)
    (got,) = run_on_host(source.text, kernel, region, arrays)
    want = run_region(region, dict(zip(region.inputs, arrays, strict=True)), {})["q"]
    if dtype == FLOAT8:
        assert_quantized(got, want)
    else:  # sums and poolings of 16-bit floats are near a half more often
        off = np.abs(got.astype(int) - want.astype(int))
        assert off.max() <= 1 and np.mean(off) < 0.03


def test_arithmetic_is_quick_where_bytes_are_made_of_it() -> None:
    region = quantized_conv((1, 64, 8, 8), (64, 64, 1, 1))
    assert "--ftz=true" in quick_math(region)
    halves = quantized_conv((1, 64, 8, 8), (64, 64, 1, 1), out="float16")
    (result,) = halves.outputs
    assert quick_math(halves) == quick_math(region)
    wide = halves.with_specs({result: replace(halves.spec_of[result], dtype="bfloat16")})
    assert quick_math(wide) == ("--prec-div=false",), "its least numbers are float32's"
    assert not quick_math(quantized_conv((1, 64, 8, 8), (64, 64, 1, 1), out="float32"))
    assert not quick_math(replace(region, outputs=("sums", *region.outputs)))
