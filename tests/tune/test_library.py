from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.tuning import Fake, doubling

from ingot.kernels.api import Input, Kernel, Null, Output, Pdl, Program, Scratch, Target, Value, Workspace
from ingot.tune import library, program_cache

TARGET = Target(90)
_ARGUMENTS = (Input(0), Scratch(0), Value("n", 8), Null())
FULL = Program(
    (
        Kernel("a", b"\x7fELF\n1", ("ceil((n)/(128))", 2, 1), 128, 4096, _ARGUMENTS, Pdl.WAITS, 2),
        Kernel("b", b"other\n", (1, 1, 1), 32, 0, (Scratch(0), Output(1))),
    ),
    (Workspace("4*n", True), Workspace(16)),
    deterministic=False,
)


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("INGOT_CACHE", str(tmp_path))


def test_programs_come_back_as_they_were() -> None:
    region = doubling("n")
    path = program_cache.path_of(region, "t[a=1]", TARGET, "c")
    assert program_cache.load(path) is None
    program_cache.save(path, FULL, region, "t[a=1]", TARGET)
    assert program_cache.load(path) == FULL
    assert program_cache.describe(path) == ("sm_90", "map", "t[a=1]")


def test_the_path_depends_on_everything_that_decides_the_code() -> None:
    paths = {
        program_cache.path_of(region, variant, target, compilers)
        for region in (doubling(4), doubling(5))
        for variant in ("t[a=1]", "t[a=2]")
        for target in (TARGET, Target(80), Target(90, tf32=True))
        for compilers in ("c1", "c2")
    }
    assert len(paths) == 24


def test_damage_is_a_miss_and_never_another_program() -> None:
    path = program_cache.path_of(doubling(4), "t[]", TARGET, "c")
    program_cache.save(path, FULL, doubling(4), "t[]", TARGET)
    good = path.read_bytes()
    for position in range(len(good)):
        path.write_bytes(good[:position])
        assert program_cache.load(path) is None
        path.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
        assert program_cache.load(path) in (None, FULL)  # a misspelt field with its default value changes nothing


def test_build_lists_and_prunes() -> None:
    regions = [(doubling(4), {}), (doubling(4, name="same"), {}), (doubling("n"), {"n": 8})]
    tactic = Fake(actions=("ok", "raise", "ok"))
    first = library.build(regions, TARGET, [tactic], jobs=1)
    assert (first.variants, first.compiled) == (4, 4)
    assert len(first.failed) == 2 and "does not fit" in first.failed[0]
    second = library.build(regions, TARGET, [tactic], jobs=1)
    assert (second.variants, second.compiled, second.bytes) == (4, 0, first.bytes)
    (group,) = library.contents()
    assert (group.target, group.kind, group.tactic, group.variants) == ("sm_90", "map", "fake", 4)
    files = sorted(library.folder().glob("*/*"))
    for age, path in enumerate(files):
        os.utime(path, (1000 - age, 1000 - age))
    keep = files[0].stat().st_size
    count, freed = library.prune(keep)
    assert count == 3 and freed == group.bytes - keep
    assert list(library.folder().glob("*/*")) == [files[0]]
    assert library.prune(keep) == (0, 0)
