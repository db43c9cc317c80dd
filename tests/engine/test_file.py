"""Writing, reading and refusing engine files."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from support.plan_graphs import chain, residual_branches, symbolic
from support.plans import engine_of, plan_engine

from ingot.engine.bounds import check_at
from ingot.engine.describe import describe
from ingot.engine.file import EngineFile
from ingot.engine.format import ALIGN, MAGIC, PREFIX, VERSION
from ingot.engine.verify import verify
from ingot.errors import IngotError
from ingot.kernels.api import Pdl
from ingot.plan.build import build_plan
from ingot.plan.spec import Plan
from ingot.tune.hollow import hollow_choices


def small() -> EngineFile:
    lowered = residual_branches()
    return engine_of(build_plan(lowered, hollow_choices(lowered, pdl=Pdl.WAITS), "sm_90", bodies=False))


def test_round_trip(tmp_path: Path) -> None:
    engine = small()
    engine.write(tmp_path / "model.ingot")
    again = EngineFile.read(tmp_path / "model.ingot")
    assert again.plan == engine.plan and again.provenance == {"made by": "test"}
    for name in ("weights", "cubins", "models"):
        assert bytes(getattr(again, name)) == bytes(getattr(engine, name))
    assert again.to_bytes() == engine.to_bytes() == (tmp_path / "model.ingot").read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["model.ingot"], "no temporary file is left"


def test_segments_are_aligned_and_read_only(tmp_path: Path) -> None:
    small().write(tmp_path / "model.ingot")
    engine = EngineFile.read(tmp_path / "model.ingot")
    array = np.frombuffer(engine.weights, np.uint8)
    assert array.ctypes.data % ALIGN == 0 and not array.flags.writeable
    assert engine.cubin(engine.plan.steps[1].cubin) == b"conv0"


def test_provenance_order_does_not_matter() -> None:
    engine = small()
    images = {
        EngineFile(engine.plan, engine.weights, engine.cubins, engine.models, dict(items)).to_bytes()
        for items in ([("a", 1), ("b", [1, "x"])], [("b", [1, "x"]), ("a", 1)])
    }
    assert len(images) == 1


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "model.ingot"
    target.write_bytes(b"old")
    engine = small()
    broken = EngineFile(msgspec.structs.replace(engine.plan, target="riscv"), engine.weights, engine.cubins)
    with pytest.raises(IngotError, match="target"):
        broken.write(target)
    assert target.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(IngotError, match="cannot write"):
        engine.write(tmp_path / "missing" / "model.ingot")
    (tmp_path / "file").write_text("")
    with pytest.raises(IngotError, match="cannot write"):
        engine.write(tmp_path / "file" / "model.ingot")


def test_every_truncation_is_refused() -> None:
    data = small().to_bytes()
    for size in (*range(300), *range(300, len(data), 97), len(data) - 1):
        with pytest.raises(IngotError):
            EngineFile.from_bytes(data[:size])


def test_every_flipped_byte_is_refused() -> None:
    data = small().to_bytes()
    for at in (*range(400), *range(400, len(data), 53), len(data) - 1):
        altered = bytearray(data)
        altered[at] ^= 0x10
        with pytest.raises(IngotError):
            EngineFile.from_bytes(altered)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not an Ingot engine"),
        (b"\x08\x09onnx" * 100, "wrong magic"),
        (MAGIC, "truncated"),
        (PREFIX.pack(MAGIC, VERSION + 1, 0, 0, b""), f"format {VERSION + 1}"),
        (PREFIX.pack(MAGIC, VERSION, 0, 1 << 60, b""), "claims"),
        (PREFIX.pack(MAGIC, VERSION, 0, 10, b"") + b"x" * 10, "SHA-256"),
    ],
)
def test_foreign_files(data: bytes, reason: str) -> None:
    with pytest.raises(IngotError, match=reason):
        EngineFile.from_bytes(data)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[" * 100_000,
        b'{"plan":' * 50_000,
        b'{"unknown":' + b"[" * 100_000,
        b"9" * 100_000,
        b'{"plan": {"target": 1e999}}',
        b'{"plan": "\xff"}',
    ],
)
def test_hostile_headers(text: bytes) -> None:
    data = PREFIX.pack(MAGIC, VERSION, 0, len(text), hashlib.sha256(text).digest()) + text
    with pytest.raises(IngotError, match="header"):
        EngineFile.from_bytes(data)


def test_missing_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(IngotError, match="cannot read"):
        EngineFile.read(tmp_path / "none.ingot")
    (tmp_path / "empty.ingot").touch()
    with pytest.raises(IngotError, match="not an Ingot engine"):
        EngineFile.read(tmp_path / "empty.ingot")
    with pytest.raises(IngotError):
        EngineFile.read(os.fspath(tmp_path))


# -- the checks of the plan, each reached by one edit


def first(kind: str, **fields: Any) -> Callable[[dict[str, Any]], None]:
    def edit(plan: dict[str, Any]) -> None:
        plan[kind][0].update(fields)

    return edit


def step(index: int, **fields: Any) -> Callable[[dict[str, Any]], None]:
    def edit(plan: dict[str, Any]) -> None:
        plan["steps"][index].update(fields)

    return edit


def memory(name: str, **fields: Any) -> Callable[[dict[str, Any]], None]:
    def edit(plan: dict[str, Any]) -> None:
        next(v for v in plan["values"] if v["name"] == name)["memory"].update(fields)

    return edit


def value(name: str, **fields: Any) -> Callable[[dict[str, Any]], None]:
    def edit(plan: dict[str, Any]) -> None:
        next(v for v in plan["values"] if v["name"] == name).update(fields)

    return edit


EDITS: list[tuple[str, Callable[[dict[str, Any]], None]]] = [
    ("target", lambda p: p.update(target="sm_x")),
    ("arena_bytes", lambda p: p.update(arena_bytes=1 << 50)),
    ("outside arena", lambda p: p.update(arena_bytes=256)),
    ("weights segment", lambda p: p.update(weights_bytes=1)),
    ("is not a name", lambda p: p.update(profiles=[{"symbol": "a b", "min": 1, "opt": 1, "max": 1}])),
    ("profile range", lambda p: p.update(profiles=[{"symbol": "n", "min": 3, "opt": 2, "max": 4}])),
    ("outside its segment", first("cubins", offset=1 << 30)),
    ("outside its segment", first("cubins", size=-1)),
    ("two values", lambda p: p["values"].append(p["values"][0])),
    ("element type", value("a", dtype="float3")),
    ("fit together", value("a", strides=[1])),
    ("memory space", memory("a", space="moon")),
    ("no binding", memory("x", binding="z")),
    ("does not lie in it", first("inputs", value=1)),
    ("does not exist", first("inputs", value=99)),
    ("differ in type", first("outputs", dtype="int8")),
    ("not dense", value("x", strides=[512, 1, 64, 8])),
    ("negative", value("a", strides=[512, -1, 64, 8])),
    ("do not fit", memory("a", bytes=8)),
    ("outside arena", memory("a", offset=1 << 40)),
    ("multiple of the element", memory("a", offset=2)),
    ("outside weights", memory("w1", offset=1 << 20)),
    ("no input dimension", value("a", shape=[2, 8, 8, "unknown"])),
    ("has no value", value("a", strides=[512, 1, 64, "unknown"])),
    ("malformed|other than", value("a", strides=["n(", 1, 1, 1])),
    ("wrong arguments", memory("a", offset="max(1)")),
    ("region that does not exist", step(0, region=77)),
    ("earlier steps", step(0, after=[0])),
    ("earlier steps", step(4, after=[3, 2])),
    ("does not exist", step(0, reads=[-1])),
    ("read-only", lambda p: p["steps"][0].update(writes=p["steps"][0]["reads"])),
    ("kind of step", step(0, kind="dance")),
    ("machine code", step(0, cubin=50)),
    ("entry", step(0, entry="a b")),
    ("three dimensions", step(0, grid=[1, 1])),
    ("grid of 0", step(0, grid=[0, 1, 1])),
    ("grid of 70000", step(0, grid=[1, 70000, 1])),
    ("cluster", step(0, cluster=2)),
    ("cooperative", step(1, cooperative=True)),
    ("block", step(0, block=1025)),
    ("block", step(0, block=0)),
    ("shared", step(0, shared=1 << 20)),
    ("neither read nor written", step(0, arguments=[{"kind": "value", "index": 0}, {"kind": "value", "index": 6}])),
    ("kind of argument", step(0, arguments=[{"kind": "pointer"}])),
    ("number of 3 bytes", step(0, arguments=[{"kind": "dim", "dim": 1, "bytes": 3}])),
    ("does not fit in 4", step(0, arguments=[{"kind": "dim", "dim": 1 << 40, "bytes": 4}])),
    ("arguments", step(0, arguments=[{"kind": "null"}] * 600)),
    ("pdl", step(0, pdl="sometimes")),
    ("programmatic", step(4, programmatic=[2])),
    ("does not wait", step(1, pdl="none")),
    ("host model", step(0, kind="host", model=4)),
    ("one source", step(0, kind="copy", reads=[])),
    ("time of", first("regions", micros=-1.0)),
    ("negative number", first("regions", flops=-4)),
    ("body model", first("regions", body=9)),
    ("no step writes", lambda p: p["steps"].pop()),
    ("has a kernel", lambda p: p.update(target="cpu")),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "edit"), EDITS, ids=[f"{i}-{r}" for i, (r, _) in enumerate(EDITS)])
def test_invalid_plans(reason: str, edit: Callable[[dict[str, Any]], None]) -> None:
    engine = small()
    tree = json.loads(msgspec.json.encode(engine.plan))
    edit(tree)
    plan = msgspec.convert(tree, Plan)
    with pytest.raises(IngotError, match=reason):
        verify(plan, {"weights": len(engine.weights), "cubins": len(engine.cubins), "models": len(engine.models)})


def test_sizes_between_the_corners_are_checked_when_shapes_are_bound() -> None:
    """A size that is small at min, opt and max and large between them."""
    engine = plan_engine(symbolic())
    plan = json.loads(msgspec.json.encode(engine.plan))
    row = next(v for v in plan["values"] if v["name"] == "a")
    row["memory"]["bytes"] = f"{row['memory']['bytes']} + 1000000*(n-1)*(n-2)*(4-n)"
    crooked = msgspec.convert(plan, Plan)
    sizes = {"weights": len(engine.weights), "cubins": len(engine.cubins), "models": len(engine.models)}
    verify(crooked, sizes)
    with pytest.raises(IngotError, match="outside arena"):
        check_at(crooked, {"n": 3, "t": 2})


def test_description() -> None:
    engine = plan_engine(chain(2), pdl=Pdl.TRIGGERS)
    found = describe(engine)
    assert found.summary.layers == 4 and found.summary.kernels == 4 and found.summary.islands == 0
    assert found.summary.programmatic_edges == 3 and found.summary.parallel == 1
    assert found.summary.micros == pytest.approx(1 + 2 + 3 + 4) and not found.summary.measured
    conv = found.layers[0]
    assert (conv.ops, conv.kind, conv.precision, conv.steps) == (["Conv"], "conv", "float32", [0])
    assert conv.flops == 2 * 8 * 36 * 8 * 9 and conv.bytes == 4 * (2 * 8 * 36 + 8 * 8 * 9)
    rows = {row.name: row for row in found.arena}
    assert rows["c0"].first == 0 and rows["c0"].last == 1 and rows["c0"].bytes == 8 * 36 * 4
    assert msgspec.json.decode(msgspec.json.encode(found))["summary"]["target"] == "sm_90"
