from __future__ import annotations

import os
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from support.tuning import Fake, doubling

from ingot.graph.region import Region
from ingot.kernels import store
from ingot.kernels.api import Input, Kernel, Null, Output, Pdl, Program, Scratch, Target, Value, Workspace
from ingot.tune import library, program_cache
from ingot.tune.database import Database, Entry, Key

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
    described = program_cache.describe(path)
    assert described is not None
    assert (described.target, described.kind, described.variant) == ("sm_90", "map", "t[a=1]")
    assert described.codes == tuple(store.digest(kernel.cubin) for kernel in FULL.kernels)


def test_the_path_depends_on_everything_that_decides_the_code() -> None:
    paths = {
        program_cache.path_of(region, variant, target, compilers)
        for region in (doubling(4), doubling(5))
        for variant in ("t[a=1]", "t[a=2]")
        for target in (TARGET, Target(80), Target(90, tf32=True))
        for compilers in ("c1", "c2")
    }
    assert len(paths) == 24


def test_code_compiled_without_a_gpu_fits_the_card_that_is_found() -> None:
    found = replace(Target(90), bandwidth=4.1e12, flops=700e12, flops_fp32=50e12)
    assert program_cache.path_of(doubling(4), "t[]", found, "c") == program_cache.path_of(
        doubling(4), "t[]", TARGET, "c"
    )


def test_damage_is_a_miss_and_never_another_program() -> None:
    path = program_cache.path_of(doubling(4), "t[]", TARGET, "c")
    program_cache.save(path, FULL, doubling(4), "t[]", TARGET)
    good = path.read_bytes()
    for position in range(len(good)):
        path.write_bytes(good[:position])
        assert program_cache.load(path) is None
        path.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
        assert program_cache.load(path) in (None, FULL)  # a misspelt field with its default value changes nothing


def test_code_is_kept_once_compressed_and_checked() -> None:
    code = b"machine code " * 1000
    name = store.put(code)
    assert store.put(bytes(code)) == name and len(list(store.folder().rglob("*.code"))) == 1
    assert store.get(name) == code and 0 < store.stored_bytes(name) < len(code) // 10
    path = store.path_of(name)
    for damaged in (path.read_bytes()[:-3], zlib.compress(b"other")):
        path.write_bytes(damaged)
        assert store.get(name) is None and not path.exists()
        assert store.put(code) == name and store.get(name) == code
    assert store.get("0" * 64) is None and store.stored_bytes("0" * 64) == 0


def test_programs_without_their_code_are_missing() -> None:
    path = program_cache.path_of(doubling(4), "t[]", TARGET, "c")
    program_cache.save(path, FULL, doubling(4), "t[]", TARGET)
    store.path_of(store.digest(FULL.kernels[1].cubin)).unlink()
    assert program_cache.load(path) is None


def asked(*actions: str) -> list[library.Planned]:
    regions: list[tuple[Region, dict[str, int]]] = [
        (doubling(4), {}),
        (doubling(4, name="same"), {}),
        (doubling("n"), {"n": 8}),
    ]
    return library.planned(regions, TARGET, [Fake(actions=actions)])


def test_several_builds_ask_for_each_variant_once_best_first() -> None:
    work = library.distinct([asked(), asked()])
    assert [item.rank for item in work] == [0, 0, 1, 1, 2, 2]
    assert len({(item.task.region.signature, str(item.task.variant)) for item in work}) == 6


def test_the_likeliest_of_each_layer_those_with_known_times_first() -> None:
    regions: list[tuple[Region, dict[str, int]]] = [(doubling(4), {}), (doubling("n"), {"n": 8})]

    def texts(per_layer: int | None, known: Database | None = None) -> list[str]:
        work = library.planned(regions, TARGET, [Fake()], known=known, per_layer=per_layer)
        return [str(item.task.variant) for item in work]

    assert texts(1) == ["fake[x=1]"] * 2
    assert texts(2) == ["fake[x=1]", "fake[x=2]"] * 2
    assert texts(None) == texts(3) == ["fake[x=1]", "fake[x=2]", "fake[x=0]"] * 2
    times = {"fake[x=0]": 2.0, "fake[x=2]": 3.0, "fake[x=7]": 1.0}
    known = Database([Entry(Key.of(regions[1][0], TARGET, {"n": 8}, "a GPU", "c"), "map", times)])
    assert texts(None, known) == ["fake[x=1]", "fake[x=2]", "fake[x=0]", "fake[x=0]", "fake[x=2]", "fake[x=1]"]
    assert texts(1, known) == ["fake[x=1]", "fake[x=0]"]


def test_the_time_limit_leaves_the_rest_and_the_next_build_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_ROUND", 2)
    now = iter([0.0, 1.0, 2.0, 99.0, 100.0])
    work = library.distinct([asked()])
    made = library.build(work, TARGET, jobs=1, limit=10, clock=lambda: next(now))
    assert (made.variants, made.left, made.seconds) == (4, 2, 100.0)
    rest = library.build(work, TARGET, jobs=1)
    assert (rest.variants, rest.present, rest.compiled, rest.left, rest.jobs) == (6, 4, 2, 0, 1)
    assert sum(group.variants for group in library.contents()) == 6


def test_build_lists_and_prunes() -> None:
    first = library.build(asked("ok", "raise", "ok"), TARGET, jobs=1)
    assert (first.variants, first.compiled, first.codes, first.left) == (4, 4, 4, 0)
    assert first.families == {"pointwise and moves": 4} and first.tactics == {"map fake": 4}
    assert len(first.failed) == 2 and "does not fit" in first.failed[0]
    second = library.build(asked("ok", "raise", "ok"), TARGET, jobs=1)
    assert (second.variants, second.compiled, second.bytes) == (4, 0, first.bytes)
    (group,) = library.contents()
    assert (group.target, group.kind, group.tactic, group.variants) == ("sm_90", "map", "fake", 4)
    assert group.bytes == sum(path.stat().st_size for path in store.folder().glob("*/*"))
    files = sorted(store.folder().glob("*/*"))
    for age, path in enumerate(files):
        os.utime(path, (1000 - age, 1000 - age))
    keep = files[0].stat().st_size
    count, freed = library.prune(keep)
    assert count == 7 and freed == group.bytes - keep
    assert list(store.folder().glob("*/*")) == [files[0]]
    assert library.prune(keep) == (0, 0)
