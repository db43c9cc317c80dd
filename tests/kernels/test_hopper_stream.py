"""Stream-K without a GPU: how steps are dealt out, which products it is offered for, machine code."""

from __future__ import annotations

import ctypes
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise

import pytest
from support.host_cuda import host_library, needs_compiler
from support.products import Case
from support.regions import conv_region, gemm_region
from support.streams import CASES, FLOATS, TACTIC, tiles

from ingot.graph.dims import evaluate
from ingot.graph.region import Region
from ingot.kernels.api import Target, Variant
from ingot.kernels.cuda.hopper.operands import Operands, operands
from ingot.kernels.cuda.hopper.source import ENTRY, SNAP, generate, shares
from ingot.kernels.cuda.hopper.stream import streams
from ingot.kernels.cuda.hopper.tile import HopperTile
from ingot.kernels.cuda.nvrtc import compile_cuda
from ingot.kernels.cuda.source import template

SM90 = Target(90)
PADS = (1, 1, 1, 1)
_AROUND = f"""
constexpr int kSnap = {SNAP};
constexpr int kSlice = 64, kTapsW = 3;
#ifdef INGOT_SLIDE
constexpr int kSlide = 2, kSlicesA = 1;
#else
constexpr int kSlide = 0, kSlicesA = 2;
#endif
struct Position {{ int c, s, r; }};
struct Problem {{ int channels; }};
"""
_LIST = """
extern "C" void position_of(int channels, int step, int* to) {
  const Position at = position_at(Problem{channels}, step);
  to[0] = at.c;
  to[1] = at.s;
  to[2] = at.r;
}
extern "C" int parts_of(int tiles, int steps, int blocks, int block, int* to) {
  const Deal deal = deal_of(tiles, steps, blocks);
  Walk walk = walk_of(deal, block);
  Part part;
  int count = 0;
  for (; next_part(deal, walk, part); ++count) {
    to[3 * count] = part.tile;
    to[3 * count + 1] = part.begin;
    to[3 * count + 2] = part.count;
  }
  return count;
}
"""


def dealer(slide: bool = False) -> ctypes.CDLL:
    """The kernel's own code on the host."""
    return host_library(f"{'#define INGOT_SLIDE' * slide}\n{_AROUND}{template('hopper/deal.cuh')}\n{_LIST}", ())


def parts(tiles: int, steps: int, blocks: int) -> list[list[tuple[int, int, int]]]:
    """(tile, first step, steps) of each block in the order in which it does them, by the kernel's own code."""
    library = dealer()
    memory, found = (ctypes.c_int * (3 * (tiles + 3)))(), []
    for block in range(blocks):
        count = library.parts_of(tiles, steps, blocks, block, memory)
        found.append([(memory[3 * i], memory[3 * i + 1], memory[3 * i + 2]) for i in range(count)])
    return found


SIZES = [
    (tiles, steps, blocks)
    for blocks in (1, 3, 7, 132, 264)
    for tiles in (1, 2, 5, 7, 49, 131, 133, 196, 392, 396)
    for steps in (1, 2, 3, 8, 36, 144)
    if blocks <= tiles * max(steps // 3, 1)
]


@needs_compiler
def test_every_step_is_done_once_and_blocks_end_together() -> None:
    for count, steps, blocks in SIZES:
        dealt = parts(count, steps, blocks)
        pieces: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
        for block, own in enumerate(dealt):
            for tile, begin, length in own:
                pieces[tile].append((begin, length, block))
        assert sorted(pieces) == list(range(count))
        for one in pieces.values():
            ends = [(0, 0, -1), *sorted(one)]
            assert all(a[0] + a[1] == b[0] for a, b in pairwise(ends)) and ends[-1][0] + ends[-1][1] == steps
            assert all(length > min(SNAP, steps - 1) for _, length, _ in one), "pieces that are too short"
        loads = [sum(length for *_, length in own) for own in dealt]
        assert max(loads) <= -(-count * steps // blocks) + 2 * SNAP, (count, steps, blocks)


@needs_compiler
def test_a_block_waits_only_for_what_blocks_before_it_do_first() -> None:
    for count, steps, blocks in SIZES:
        dealt = parts(count, steps, blocks)
        for block, own in enumerate(dealt):
            unfinished = [part for part in own if part[1] + part[2] < steps]
            assert unfinished in ([], own[:1]), "sums are left of one tile, the first"
            for tile, begin, _ in own:
                if begin:
                    givers = [b for b, others in enumerate(dealt) for t, at, _ in others if t == tile and at < begin]
                    assert all(giver < block and dealt[giver][0][0] == tile for giver in givers)


@needs_compiler
@pytest.mark.parametrize("slide", [False, True])
def test_a_range_begins_where_its_step_is(slide: bool) -> None:
    """Loads of 3 x 3 taps over 100 channels, two a step; sliding, one for the taps of a line."""
    slices = [(c, s, r) for r in range(3) for s in range(1 if slide else 3) for c in (0, 64)]
    memory, library = (ctypes.c_int * 3)(), dealer(slide)
    for step, first in enumerate(slices[:: 1 if slide else 2]):
        library.position_of(100, step, memory)
        assert tuple(memory) == first


def found(region: Region) -> list[HopperTile]:
    o = operands(region)
    assert isinstance(o, Operands)
    return streams(o, SM90, {})


def test_tiles() -> None:
    """There are some where whole tiles leave much of a wave empty, and none elsewhere; builds do not try them."""
    for region in (
        conv_region((8, 256, 14, 14), (256, 256, 3, 3), pads=PADS),
        conv_region((128, 2048, 7, 7), (512, 2048, 1, 1)),
        gemm_region((1024, 3072), (3072, 768)),
    ):
        listed = found(region)
        assert listed
        times = [TACTIC.estimate(region, tile.variant(TACTIC.name), SM90, {}) for tile in listed]
        assert times == sorted(times) and 0 < times[0] < 1e-3
        for tile in listed:
            assert tile.stream and tile.cluster == tile.split == 1 and not tile.keep and tile.fits(2)
            assert HopperTile.of(Variant.parse(str(tile.variant(TACTIC.name)))) == tile
        assert not any("sr=" in str(variant) for variant in TACTIC.variants(region, SM90, {}))
    assert not found(conv_region((128, 64, 56, 56), (256, 64, 1, 1))), "short depth"
    assert not found(conv_region((256, 256, 56, 56), (256, 256, 3, 3), pads=PADS)), "many waves"
    assert not found(conv_region((1, 512, 7, 7), (512, 512, 3, 3), pads=PADS)), "too many shares for one to add"


def test_grid_and_memory_follow_the_shape() -> None:
    case = CASES["batch of 3"]
    for tile in tiles(case.region, case):
        program = TACTIC.compile(case.region, tile.variant(TACTIC.name), SM90)
        (kernel,), (sums, flags) = program.kernels, program.workspaces
        assert flags.zeroed and not sums.zeroed and not kernel.cooperative
        o = operands(case.region)
        assert isinstance(o, Operands)
        for n in (1, 3, 700):
            blocks = evaluate(kernel.grid[0], {"N": n})
            assert 1 <= blocks <= 132 * tile.resident
            assert evaluate(sums.bytes, {"N": n}) == blocks * tile.m * tile.n * 4
            assert evaluate(flags.bytes, {"N": n}) == blocks * 4
        assert evaluate(kernel.grid[0], {"N": 700}) == 132 * tile.resident
        assert shares(o, tile) >= 1


@pytest.mark.parametrize("case", [*(CASES[name] for name in ("body", "odd", "product", "bytes")), FLOATS])
def test_machine_code(case: Case) -> None:
    for tile in tiles(case.region, case, 3):
        made = compile_cuda(
            TACTIC.source(case.region, tile.variant(TACTIC.name), SM90).text, ENTRY, SM90, specific=True
        )
        assert made.spills == 0 and made.registers <= tile.entry_registers


def test_large_tiles_do_not_spill() -> None:
    o = operands(Case(conv_region((128, 1024, 14, 14), (512, 1024, 1, 1))).region)
    assert isinstance(o, Operands)
    for form in ((1, 2, 0, 256), (2, 2, 0, 128), (1, 3, 0, 128), (2, 2, 1, 128)):
        for dealt in (0, 1):
            tile = HopperTile(*form, 64, 1, 3, dealt=dealt, stream=1)
            assert tile.fits(2)
            assert compile_cuda(generate(o, tile, SM90).text, ENTRY, SM90, specific=True).spills == 0
    assert "sr" not in str(replace(HopperTile(1, 2, 0, 128, 64, 1, 4), stream=0).variant("cuda.hopper"))
