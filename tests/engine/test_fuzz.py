"""A hundred thousand mutated engine files: each is read, or refused with an IngotError. Nothing else happens."""

from __future__ import annotations

import copy
import hashlib
import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from support.plan_graphs import residual_branches, symbolic, with_island
from support.plans import engine_of

from ingot.engine.describe import describe
from ingot.engine.file import EngineFile
from ingot.engine.format import MAGIC, PREFIX, SEGMENTS, VERSION, align
from ingot.errors import IngotError
from ingot.graph.lowered import Lowered
from ingot.kernels.api import Pdl, Workspace
from ingot.plan.build import build_plan
from ingot.tune.hollow import hollow_choices, hollow_program

FILES = 100_000
NASTY: tuple[Any, ...] = (
    -1, 0, 1, 2, 7, 255, 256, 1 << 31, (1 << 31) - 1, 1 << 63, -(1 << 63), 1 << 64, 10**40, 1.5, -0.0, 1e308,
    "", "n", "t", "x", "q", "n*t", "1/n", "n/0", "n-100", "1000-n", "n**9", "__import__('os')", "max(n)", "floor(n, 2)",
    "mod(n)", "mod(n, 0)", "((((((((n))))))))", "(" * 500 + "n" + ")" * 500, "-" * 3000 + "n", "n" + "+n" * 1500,
    "9" * 4000, "9" * 4000 + "*" + "9" * 90, "n.real", "n[0]", "lambda: 0", "n if n else t", "True", "None", "\x00",
    "\ud7ff", "a" * 5000, "arena", "weights", "persistent", "input", "output", "host", "kernel", "copy", "float16",
    "int64", "bool", "waits", "waits+triggers", "value", "dim", "null", "sm_90", "cpu", "sm_9999",
    None, True, False, [], {}, [[]], [1] * 40,
    ["n"], {"a": 1},
)  # fmt: skip


def _engine(lowered: Lowered, **programs: Any) -> bytes:
    made = build_plan(lowered, hollow_choices(lowered, pdl=Pdl.TRIGGERS, **programs), "sm_90", bodies=False)
    return engine_of(made).to_bytes()


def originals() -> list[bytes]:
    """Real engines of a few kilobytes: symbolic shapes; an island; branches, workspaces and several kernels."""
    branches = residual_branches()
    spaces = (Workspace(512), Workspace(16, zeroed=True))
    split = {i: hollow_program(branches.regions[i], 2, Pdl.WAITS, spaces) for i in (1, 2)}
    return [_engine(symbolic()), _engine(with_island()), _engine(branches, programs=split)]


def parts(data: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Header as JSON, segments by name."""
    length = PREFIX.unpack_from(data)[3]
    header = json.loads(data[PREFIX.size : PREFIX.size + length])
    rows = {row["name"]: data[row["offset"] : row["offset"] + row["size"]] for row in header["segments"]}
    return header, rows


def assemble(text: bytes, segments: dict[str, bytes]) -> bytes:
    """A file with correct digests around any header text."""
    out = PREFIX.pack(MAGIC, VERSION, 0, len(text), hashlib.sha256(text).digest()) + text
    for name in SEGMENTS:
        out = out.ljust(align(len(out)), b"\0") + segments[name]
    return out


def rebuilt(header: Any, segments: dict[str, bytes]) -> bytes:
    """A file whose segment table is right, so that the checks behind the digests are reached."""
    at = align(1 << 16)
    rows = []
    for name in SEGMENTS:
        digest = hashlib.sha256(segments[name]).hexdigest()
        rows.append({"name": name, "offset": at, "size": len(segments[name]), "sha256": digest})
        at = align(at + len(segments[name]))
    if isinstance(header, dict):
        header["segments"] = rows
    text = json.dumps(header).encode()
    return (
        assemble(text.ljust(align(1 << 16) - PREFIX.size), segments) if len(text) < 65000 else assemble(text, segments)
    )


class Mutator:
    """Seeded mutations of the originals."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.files = originals()
        self.parts = [parts(data) for data in self.files]
        self.kinds: tuple[Callable[[], bytes], ...] = (
            self.flip, self.cut, self.splice, self.field, self.field, self.field, self.fields, self.text, self.segment,
        )  # fmt: skip

    def next(self) -> bytes:
        """One mutated file."""
        return self.random.choice(self.kinds)()

    def flip(self) -> bytes:
        data = bytearray(self.random.choice(self.files))
        for _ in range(self.random.choice((1, 1, 2, 8))):
            data[self.random.randrange(len(data))] ^= 1 << self.random.randrange(8)
        return bytes(data)

    def cut(self) -> bytes:
        data = self.random.choice(self.files)
        at = self.random.choice((self.random.randrange(len(data)), self.random.randrange(80)))
        return self.random.choice((data[:at], data[at:], data + data[:at], data[:at] + bytes(at)))

    def splice(self) -> bytes:
        a, b = self.random.choice(self.files), self.random.choice(self.files)
        i, j, n = self.random.randrange(len(a)), self.random.randrange(len(b)), self.random.randrange(1, 400)
        return a[:i] + b[j : j + n] + a[i + self.random.choice((0, n)) :]

    def field(self) -> bytes:
        header, segments = self._copy()
        self._edit(header)
        return rebuilt(header, segments)

    def fields(self) -> bytes:
        header, segments = self._copy()
        for _ in range(self.random.randrange(2, 6)):
            self._edit(header)
        return rebuilt(header, segments)

    def text(self) -> bytes:
        """Damage inside the JSON, behind a correct digest."""
        header, segments = self.random.choice(self.parts)
        text = bytearray(json.dumps(header).encode())
        for _ in range(self.random.choice((1, 2, 5))):
            at = self.random.randrange(len(text))
            junk = self.random.choice(
                (b"[", b"{", b'"', b"9" * 50, b"1e999", b"\\ud800", b"\xff", b"[" * 5000, b"-", b",", b"")
            )
            text[at : at + self.random.randrange(3)] = junk
        return assemble(bytes(text), segments)

    def segment(self) -> bytes:
        header, segments = self._copy()
        name = self.random.choice(SEGMENTS)
        data = bytearray(segments[name])
        if data and self.random.random() < 0.5:
            data[self.random.randrange(len(data))] ^= 0xFF
        else:
            data = data[: self.random.randrange(len(data) + 1)] + self.random.randbytes(self.random.randrange(9))
        segments[name] = bytes(data)
        return rebuilt(header, segments)

    def _copy(self) -> tuple[Any, dict[str, bytes]]:
        header, segments = self.random.choice(self.parts)
        return copy.deepcopy(header), dict(segments)

    def _edit(self, header: Any) -> None:
        """Replaces, removes, repeats or exchanges one node of the JSON tree, usually deep inside the plan."""
        node = header["plan"] if self.random.random() < 0.95 and isinstance(header.get("plan"), dict) else header
        while True:
            keys: list[Any] = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                return
            key = self.random.choice(keys)
            inner = node[key]
            if isinstance(inner, dict | list) and inner and self.random.random() < 0.93:
                node = inner
                continue
            break
        action = self.random.random()
        if action < 0.75:
            alike = [x for x in NASTY if type(x) is type(node[key])]
            # Mostly of the same type, to get past the decoder into the checks of the plan.
            node[key] = copy.deepcopy(self.random.choice(alike if alike and self.random.random() < 0.7 else NASTY))
        elif action < 0.85:
            del node[key]
        elif isinstance(node, list):
            node.insert(self.random.randrange(len(node) + 1), copy.deepcopy(self.random.choice(node)))
        elif isinstance(node[key], int) and not isinstance(node[key], bool):
            node[key] += self.random.choice((-1, 1, 256, -256))


def read(data: bytes) -> bool:
    """Whether a file is accepted; what is accepted must also be describable and writable."""
    try:
        engine = EngineFile.from_bytes(data)
    except IngotError as error:
        assert error.reason
        return False
    describe(engine)
    engine.to_bytes()
    return True


def test_originals_are_accepted() -> None:
    for data in originals():
        assert read(data)
        header, segments = parts(data)
        assert read(rebuilt(header, segments)), "the fuzzer's own assembly must be valid, or it tests nothing"


@pytest.mark.parametrize("seed", range(10))
def test_mutated_files(seed: int) -> None:
    mutator = Mutator(seed)
    accepted = sum(read(mutator.next()) for _ in range(FILES // 10))
    assert 0 < accepted < FILES // 40, "some edits (names, notes) are harmless; most are not"
