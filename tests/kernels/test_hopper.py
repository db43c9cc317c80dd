"""Hopper products without a GPU: what is refused, the copy engine's view of the operands, and machine code."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.regions import Op, conv_region, gemm_region, random_inputs, reference, refused
from support.strided import bound, scatter
from support.tma import Loader

from ingot.graph.dims import evaluate
from ingot.graph.region import Region
from ingot.graph.tensor import TensorSpec, spec
from ingot.kernels.api import Target, TensorMap, Variant
from ingot.kernels.cuda.hopper.operands import Operands, operands
from ingot.kernels.cuda.hopper.source import ENTRY, generate, tile_counts
from ingot.kernels.cuda.hopper.tactic import HopperTactic, candidates
from ingot.kernels.cuda.hopper.tile import HopperTile
from ingot.kernels.cuda.nvrtc import compile_cuda
from ingot.tune import program_cache

SM90 = Target(90)
NHWC = (0, 2, 3, 1)
RELU = (Op("Relu", ("acc",), "out"),)
TACTIC = HopperTactic()
RESIDUAL = (Op("Add", ("acc", "residual"), "sum"), Op("Relu", ("sum",), "out"))
BODY = conv_region((128, 256, 14, 14), (256, 256, 3, 3), pads=(1, 1, 1, 1), epilogue=RELU)
EXPAND = conv_region(
    (128, 64, 56, 56),
    (256, 64, 1, 1),
    epilogue=RESIDUAL,
    extras={"residual": spec("float16", (128, 256, 56, 56), NHWC)},
)


def test_refusals() -> None:
    def reason(region: Region, target: Target = SM90) -> str:
        return refused(TACTIC, region, target)

    plain = dict(x=(1, 64, 14, 14), w=(64, 64, 3, 3))
    assert "not sm_90" in reason(conv_region(**plain), Target(100))  # type: ignore[arg-type]
    assert "float32" in reason(conv_region(**plain, dtype="float32"))  # type: ignore[arg-type]
    assert "grouped" in reason(conv_region((1, 64, 14, 14), (64, 16, 3, 3), group=4))
    assert "transposed" in reason(conv_region((1, 64, 14, 14), (64, 64, 2, 2), strides=(2, 2), transpose=True))
    assert "aligned" in reason(conv_region((1, 36, 14, 14), (64, 36, 3, 3)))
    assert "innermost" in reason(conv_region(**plain, x_order=(0, 1, 2, 3)))  # type: ignore[arg-type]
    assert "innermost" in reason(conv_region(**plain, y_order=(0, 1, 2, 3)))  # type: ignore[arg-type]
    assert "stride above" in reason(conv_region((1, 64, 40, 40), (64, 64, 1, 1), strides=(9, 9)))
    assert "too far" in reason(conv_region((1, 64, 400, 400), (64, 64, 3, 3), dilations=(130, 1)))
    assert "contiguous" in reason(gemm_region((96, 64), (64, 80), a_order=(1, 0), constant_b=False))
    assert "aligned" in reason(gemm_region((3, 53), (53, 41)))


def product(o: Operands, tile: HopperTile, inputs: list[np.ndarray], bindings: dict[str, int]) -> np.ndarray:
    """The bare product [rows, cols] as the kernel computes it: the same loads, the same tiles, the same sums."""
    a_map, b_map = o.maps(tile)
    memory = [scatter(np.asarray(x), bound(s, bindings)) for x, s in zip(inputs, o.region.input_specs, strict=True)]
    a, b = Loader(a_map, memory[a_map.tensor.index], bindings), Loader(b_map, memory[b_map.tensor.index], bindings)
    positions, width = (evaluate(d, bindings) for d in o.positions(tile))
    rows, height = evaluate(o.rows, bindings), evaluate(o.output[0], bindings)
    channels, f = evaluate(o.channels, bindings), o.filter
    tiles_m, tiles_n, _ = (evaluate(d, bindings) for d in tile_counts(o, tile))
    out = np.full((rows, o.cols), np.nan)
    for m, n in np.ndindex(tiles_m, tiles_n):
        sums = np.zeros((tile.m, tile.n))
        row, col = m * tile.m, n * tile.n
        line = row // width
        w, h, image = row % width * f.stride[1] - f.pad[1], line % height * f.stride[0] - f.pad[0], line // height
        for r in range(f.taps[0]):
            for c in range(0, channels, tile.slice):
                slab = None
                for s in range(f.taps[1]):
                    if not o.gather:
                        part = a.tile((c, row, 0))[0]
                    elif tile.slide:
                        slab = a.pixels((c, w, h, image), (0, r * f.dilation[0])) if slab is None else slab
                        part = slab[s * f.dilation[1] :][: tile.m]
                    else:
                        part = a.pixels((c, w, h, image), (s * f.dilation[1], r * f.dilation[0]))
                    if o.columns_inner:
                        weights = np.concatenate([b.tile((col + j, c, 0))[0].T for j in range(0, tile.n, 64)])
                    elif tile.dealt:
                        tap = r * f.taps[1] + s
                        chunk = 32 * tile.dealt
                        eights = b.tile((tap * o.tap_step + c, 0, 0, 0, col // chunk))  # [chunk, eight, lane, pair]
                        weights = eights.transpose(0, 2, 1, 3, 4).reshape(tile.n, tile.slice)
                    elif len(b_map.dims) == 4:
                        weights = b.tile((c, s, r, col))[:, 0, 0]
                    else:
                        weights = b.tile((c, col, 0))[0]
                    sums += part @ weights.T
        for i in range(min(tile.m, positions - row)):
            line, at = divmod(row + i, width) if tile.slide else (0, row + i)
            result = line * evaluate(o.output[1], bindings) + at if tile.slide else at
            if not tile.slide or at < evaluate(o.output[1], bindings):
                out[result, col : col + tile.n] = sums[i, : max(o.cols - col, 0)]
    return out


GEOMETRIES = {
    "padded": (conv_region((2, 16, 5, 6), (24, 16, 3, 3), bias=False, pads=(1, 1, 1, 1)), {}),
    "one sided": (conv_region((2, 16, 6, 7), (8, 16, 3, 2), bias=False, pads=(0, 1, 2, 0), strides=(2, 1)), {}),
    "strided": (conv_region((1, 24, 7, 9), (8, 24, 3, 3), bias=False, pads=(1, 1, 1, 1), strides=(2, 3)), {}),
    "dilated": (conv_region((1, 8, 9, 8), (8, 8, 3, 3), bias=False, pads=(2, 2, 2, 2), dilations=(1, 2)), {}),
    "pointwise": (conv_region((2, 40, 5, 5), (16, 40, 1, 1), bias=False), {}),
    "pointwise strided": (conv_region((2, 16, 5, 5), (16, 16, 1, 1), bias=False, strides=(2, 2)), {}),
    "1-D": (conv_region((2, 16, 19), (8, 16, 5), bias=False, pads=(2, 2)), {}),
    "symbolic batch": (conv_region(("N", 16, 5, 4), (8, 16, 3, 3), bias=False, pads=(1, 1, 1, 1)), {"N": 3}),
    "dealt": (conv_region((1, 64, 4, 5), (32, 64, 3, 3), bias=False, pads=(1, 1, 1, 1)), {}),
    "dealt, pointwise": (conv_region((1, 24, 4, 5), (96, 24, 1, 1), bias=False), {}),
    "dealt, tall": (conv_region((1, 64, 5, 3), (32, 64, 3, 1), bias=False, pads=(1, 0, 1, 0)), {}),
    "product": (gemm_region((3, 7, 24), (24, 40)), {}),
    "product, dealt": (gemm_region((30, 24), (24, 64), b_order=(1, 0)), {}),
    "product, depth inner": (gemm_region((30, 24), (24, 40), b_order=(1, 0)), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", GEOMETRIES)
def test_operands_through_the_copy_engine(name: str) -> None:
    region, bindings = GEOMETRIES[name]
    o = operands(region)
    assert isinstance(o, Operands)
    inputs = random_inputs(region, bindings)
    (want,) = reference(region, inputs, bindings)
    want = np.moveaxis(want, 1, -1).reshape(-1, o.cols) if o.region.kind.value == "conv" else want.reshape(-1, o.cols)
    tiles = [t for t in candidates(o, bindings) if t.m == 64 and t.cluster == t.split == 1 and not t.ping and t.n <= 64]
    forms = {(t.slide, t.slice, t.dealt): t for t in tiles}
    assert ("dealt" in name) == any(t.dealt for t in tiles)
    assert (o.halo > 0 and o.channels != 8) == any(t.slide for t in forms.values())
    for tile in forms.values():
        got = product(o, tile, inputs, bindings)
        np.testing.assert_allclose(got, want.astype(np.float64), atol=2e-2 * want.std(), rtol=2e-3)


def test_maps_survive_the_program_cache(tmp_path: object) -> None:
    variant = TACTIC.variants(BODY, SM90, {})[0]
    program = TACTIC.compile(BODY, variant, SM90)
    assert sum(isinstance(a, TensorMap) for a in program.kernels[0].arguments) == 2
    path = program_cache.path_of(BODY, str(variant), SM90, "test")
    program_cache.save(path, program, BODY, str(variant), SM90)
    assert program_cache.load(path) == program


MAIN = {
    "192 x 128": HopperTile(1, 3, 0, 128, 64, 1, 4),
    "256 x 128": HopperTile(2, 2, 0, 128, 64, 1, 4),
    "128 x 256": HopperTile(1, 2, 0, 256, 64, 1, 4),
    "64 x 128 in turns": HopperTile(1, 2, 1, 128, 64, 1, 6),
    "128 x 128 in turns": HopperTile(2, 2, 1, 128, 64, 1, 5),
    "64 x 64, two blocks": HopperTile(1, 2, 1, 64, 64, 1, 5, resident=2),
    "shared depth": HopperTile(1, 1, 0, 64, 64, 1, 6, split=4, persistent=0),
    "cluster": HopperTile(1, 2, 0, 128, 64, 1, 6, cluster=2),
}


@pytest.mark.parametrize("region", [BODY, EXPAND], ids=["body", "expand"])
@pytest.mark.parametrize("name", MAIN)
def test_main_tiles_compile_without_spills(name: str, region: Region) -> None:
    tile, o = MAIN[name], operands(region)
    assert isinstance(o, Operands) and tile.fits(2)
    compiled = compile_cuda(generate(o, tile, SM90).text, ENTRY, SM90, specific=True)
    assert compiled.spills == 0 and compiled.registers <= tile.entry_registers


def test_sliding_tile_compiles() -> None:
    o = operands(BODY)
    assert isinstance(o, Operands)
    tile = HopperTile(2, 2, 1, 128, 64, 3, 3, slide=2)
    assert compile_cuda(generate(o, tile, SM90).text, ENTRY, SM90, specific=True).spills == 0


def test_variants() -> None:
    for region in (BODY, EXPAND, gemm_region((300, 768), (768, 3072))):
        variants = TACTIC.variants(region, SM90, {})
        assert 10 <= len(variants) == len(set(variants))
        times = [TACTIC.estimate(region, v, SM90, {}) for v in variants]
        assert times == sorted(times) and 0 < times[0] < 1e-3
        for variant in variants:
            assert Variant.parse(str(variant)) == variant and HopperTile.of(variant).fits(2)


def test_depth_is_shared_only_where_tiles_are_few() -> None:
    small = conv_region((1, 512, 7, 7), (512, 512, 3, 3), pads=(1, 1, 1, 1))
    assert HopperTile.of(TACTIC.variants(small, SM90, {})[0]).split > 1
    assert all(HopperTile.of(v).split == 1 for v in TACTIC.variants(BODY, SM90, {}))


def test_symbolic_rows_become_a_grid() -> None:
    x = TensorSpec("float16", ("N", 64, 14, 14), (14 * 14 * 64, 1, 14 * 64, 64))
    region = conv_region(("N", 64, 14, 14), (64, 64, 3, 3), pads=(1, 1, 1, 1)).with_specs({"x": x})
    kernel = TACTIC.compile(region, TACTIC.variants(region, SM90, {"N": 1})[0], SM90).kernels[0]
    for n in (1, 7, 900):
        assert 1 <= evaluate(kernel.grid[0], {"N": n}) <= 132 * 2 * kernel.cluster


def test_kept_columns() -> None:
    """Tiles that keep their part of B: all tiles of a block have the same columns, and shared memory holds them."""
    o = operands(EXPAND)
    assert isinstance(o, Operands)
    kept = [tile for tile in candidates(o, {}) if tile.keep]
    assert kept and all(tile.keep == o.steps(tile) and tile.cluster == tile.split == 1 for tile in kept)
    for tile in kept:
        grid, (_, columns, _) = generate(o, tile, SM90).grid, tile_counts(o, tile)
        assert isinstance(grid, int) and isinstance(columns, int)
        assert grid % columns == 0 and 0 < grid <= 132 * tile.resident
        alike = replace(tile, keep=0)
        saved = tile.stages * (alike.stage_bytes(2) - tile.stage_bytes(2))
        assert alike.shared_with(2, 32) - tile.shared_with(2, 32) == saved - tile.kept_bytes(2)
    assert not any(tile.keep for tile in candidates(o_of_one_tile(), {})), "nothing is read twice"


def o_of_one_tile() -> Operands:
    o = operands(conv_region((1, 64, 8, 8), (64, 64, 1, 1)))
    assert isinstance(o, Operands)
    return o


def test_older_variants_keep_their_names() -> None:
    tile = HopperTile(1, 2, 1, 64, 64, 1, 8)
    assert "kb" not in str(tile.variant("cuda.hopper"))
    assert HopperTile.of(Variant.parse(str(tile.variant("cuda.hopper")))) == tile
    kept = replace(tile, keep=1)
    assert str(kept.variant("cuda.hopper")).endswith("kb=1]")
    assert HopperTile.of(Variant.parse(str(kept.variant("cuda.hopper")))) == kept


@pytest.mark.parametrize("region", [EXPAND, conv_region((128, 64, 56, 56), (64, 64, 3, 3), pads=(1, 1, 1, 1))])
def test_machine_code_of_kept_columns(region: Region) -> None:
    tile = next(t for t in map(HopperTile.of, TACTIC.variants(region, SM90, {})) if t.keep)
    made = compile_cuda(TACTIC.source(region, tile.variant(TACTIC.name), SM90).text, ENTRY, SM90, specific=True)
    assert made.spills == 0
