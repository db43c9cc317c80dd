"""The timing database: what was measured, so that nothing is measured twice.

One JSON file of sorted entries, so that equal contents are equal bytes. An entry belongs to one Region
likeness (ops, shapes, types and layouts, but not the scales of quantized values), the values of its symbolic
dimensions, the target, the device it ran on, and the compilers with the kernel sources.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path
from typing import Literal

import msgspec

from ingot import env
from ingot.errors import IngotError
from ingot.files import write_atomically
from ingot.graph.dims import Bindings, symbols
from ingot.graph.region import Region
from ingot.kernels.api import Target

VERSION = 1
_DIGITS = 3


class Key(msgspec.Struct, frozen=True, order=True):
    """What an entry's times are valid for."""

    target: str
    """``sm_90``, or ``sm_90+tf32``."""
    signature: str
    """The Region's likeness."""
    bindings: str
    """``height=320,width=320``; empty when the Region has no symbolic dimension."""
    device: str
    """The device's own name, such as ``NVIDIA H200``."""
    compilers: str

    @staticmethod
    def of(region: Region, target: Target, bindings: Bindings, device: str, compilers: str) -> Key:
        """The key of ``region`` at the shape ``bindings``."""
        bound = ",".join(f"{name}={bindings[name]}" for name in sorted(_symbols(region) & bindings.keys()))
        return Key(target_key(target), region.likeness, bound, device, compilers)


class Entry(msgspec.Struct, frozen=True):
    """Everything known of one Region under one Key."""

    key: Key
    label: str
    """The Region's kind, for people who read the file."""
    micros: dict[str, float] = {}
    """By variant text: measured time of variants that passed the numeric gate."""
    refused: dict[str, str] = {}
    """By variant text: why it did not compile, ran wrongly or not at all."""

    @property
    def best(self) -> str | None:
        """The fastest variant; ties go to the first text."""
        return min(self.micros, key=lambda text: (self.micros[text], text), default=None)


class Verdict(msgspec.Struct, frozen=True):
    """What whole engines decided between variants that were equally fast alone: see ``contest``."""

    key: Key
    """Its signature is the graph's digest, not a Region's signature."""
    decided: dict[str, dict[str, float]]
    """By Region signature: microseconds of one run of the engine by variant text, the winner first."""


class _File(msgspec.Struct):
    format: Literal["ingot-timing"]
    version: int
    entries: list[Entry]
    verdicts: list[Verdict] = []


class Database:
    """Entries by Key, in memory. Loading and saving are explicit."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        """Later entries are merged over earlier ones of the same Key."""
        self._entries: dict[Key, Entry] = {}
        self._at: dict[tuple[str, str, str], set[Key]] = {}
        self._verdicts: dict[Key, Verdict] = {}
        for entry in entries:
            self.add(entry)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        """Entries in order of their keys."""
        return iter([self._entries[key] for key in sorted(self._entries)])

    def get(self, key: Key) -> Entry | None:
        """The entry of exactly this Key."""
        return self._entries.get(key)

    def add(self, entry: Entry) -> None:
        """Merge ``entry``: its times and refusals replace older ones of the same variants."""
        old = self._entries.get(entry.key, Entry(entry.key, entry.label))
        micros = {k: v for k, v in old.micros.items() if k not in entry.refused}
        micros |= {k: round(v, _DIGITS) for k, v in entry.micros.items()}  # as in the file: ties must not depend on it
        refused = {k: v for k, v in old.refused.items() if k not in entry.micros} | entry.refused
        self._entries[entry.key] = Entry(entry.key, entry.label, micros, refused)
        self._at.setdefault(_place(entry.key), set()).add(entry.key)

    def _alike(self, key: Key) -> list[Entry]:
        """Entries of the same Region, shape and target, in order of their keys."""
        return [self._entries[k] for k in sorted(self._at.get(_place(key), ()))]

    def merge(self, other: Iterable[Entry]) -> None:
        """Add every entry of ``other``."""
        for entry in other:
            self.add(entry)

    @property
    def verdicts(self) -> list[Verdict]:
        """Decisions between whole engines, in order of their keys."""
        return [self._verdicts[key] for key in sorted(self._verdicts)]

    def decide(self, verdict: Verdict) -> None:
        """Keep ``verdict``, in place of an earlier one of the same Key."""
        self._verdicts[verdict.key] = verdict

    def verdict(self, key: Key, *, exact: bool) -> Verdict | None:
        """The decision for this Key; if not ``exact``, one of other compilers or devices will do.

        The Key's own device is preferred, then the first in order.
        """
        if exact or key in self._verdicts:
            return self._verdicts.get(key)
        alike = [v for v in self.verdicts if _place(v.key) == _place(key)]
        return min(alike, key=lambda v: (v.key.device != key.device, v.key), default=None)

    def hints(self, key: Key) -> tuple[dict[str, float], str]:
        """Best guess at the Region's times, whatever the compilers, and the device they are from.

        The Key's own device is preferred, then the first by name: times of different
        devices do not compare. Of one variant, the time by the Key's own compilers counts.
        """
        same = [entry for entry in self._alike(key) if entry.micros]
        if not same:
            return {}, ""
        devices = {entry.key.device for entry in same}
        device = key.device if key.device in devices else min(devices)
        times: dict[str, float] = {}
        for entry in sorted(same, key=lambda e: e.key.compilers == key.compilers):
            if entry.key.device == device:
                times |= entry.micros
        return times, device

    def refusals(self, key: Key) -> dict[str, str]:
        """Variants refused for the Region on any device, when built by the same compilers."""
        refused: dict[str, str] = {}
        for entry in self._alike(key):
            if entry.key.compilers == key.compilers:
                refused |= entry.refused
        return refused

    def shortened(self, keep: int) -> Database:
        """Only the ``keep`` fastest variants of every entry and no refusals: what is worth shipping."""
        short = Database()
        for entry in self:
            best = sorted(entry.micros, key=lambda text: (entry.micros[text], text))[:keep]
            if best:
                short.add(Entry(entry.key, entry.label, {text: entry.micros[text] for text in best}))
        for verdict in self.verdicts:
            short.decide(verdict)
        return short

    def encode(self) -> bytes:
        """The file's bytes; equal contents give equal bytes."""
        sort = [Entry(e.key, e.label, dict(sorted(e.micros.items())), dict(sorted(e.refused.items()))) for e in self]
        data = msgspec.json.encode(_File("ingot-timing", VERSION, sort, self.verdicts))
        return msgspec.json.format(data, indent=1) + b"\n"

    @staticmethod
    def decode(data: bytes, name: str) -> Database:
        """The inverse of :meth:`encode`. Raises IngotError, naming the file, when ``data`` is something else."""
        fix = "delete the file, or name another with --timing-db"
        try:
            head = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
            if "format" not in head or msgspec.json.decode(head["format"]) != "ingot-timing":
                raise IngotError("is not a timing database", node=name, fix=fix)
            version = msgspec.json.decode(head.get("version", msgspec.Raw(b"0")))
            if version != VERSION:
                raise IngotError(f"timing database of version {version}, this is version {VERSION}", node=name, fix=fix)
            file = msgspec.json.decode(data, type=_File)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise IngotError(f"damaged timing database: {error}", node=name, fix=fix) from None
        database = Database(file.entries)
        for verdict in file.verdicts:
            database.decide(verdict)
        return database

    @staticmethod
    def load(path: Path) -> Database:
        """The database at ``path``, empty when there is no such file. Raises IngotError when it is damaged."""
        try:
            data = path.read_bytes()
            return Database.decode(gzip.decompress(data) if path.suffix == ".gz" else data, str(path))
        except FileNotFoundError:
            return Database()
        except (OSError, EOFError) as error:
            raise IngotError(f"timing database cannot be read: {error}", node=str(path)) from None

    def save(self, path: Path) -> None:
        """Write to ``path`` (compressed if it ends in ``.gz``), whole or not at all."""
        data = self.encode()
        write_atomically(path, gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def record_merge(path: Path, entries: Iterable[Entry], verdicts: Iterable[Verdict] = ()) -> Database:
    """Merge what is new into the file at ``path`` as it is now (another build may have added to it); returns it."""
    database = Database.load(path)
    database.merge(entries)
    for verdict in verdicts:
        database.decide(verdict)
    database.save(path)
    return database


def publish(user: Path, shipped: Path, compilers: str, keep: int = 8) -> int:
    """Put what ``user`` holds by these ``compilers`` into the ``shipped`` file; returns the entries there.

    The digest of Ingot's kernels is dropped from the keys: shipped times are hints, and newer ones
    replace older ones. Only the ``keep`` fastest variants of an entry are kept.
    """
    database, measured = Database.load(shipped), Database.load(user)
    versions = " ".join(word for word in compilers.split() if not word.startswith("kernels-"))
    for entry in measured:
        if entry.key.compilers == compilers:
            key = msgspec.structs.replace(entry.key, compilers=versions)
            database.add(Entry(key, entry.label, entry.micros))
    for verdict in measured.verdicts:
        if verdict.key.compilers == compilers:
            database.decide(Verdict(msgspec.structs.replace(verdict.key, compilers=versions), verdict.decided))
    short = database.shortened(keep)
    short.save(shipped)
    return len(short)


def user_path(target: Target, timing_db: Path | None) -> Path:
    """Where measurements for ``target`` are kept: ``--timing-db``, or a file in the cache folder."""
    return timing_db or env.cache_dir() / "timing" / f"{target.name}.json"


def recorded(target: Target) -> Database:
    """The database shipped with Ingot for ``target``, empty where there is none."""
    folder = resources.files("ingot.tune") / "recorded"
    for name in (f"{target.name}.json.gz", f"{target.name}.json"):
        file = folder / name
        if file.is_file():
            data = file.read_bytes()
            return Database.decode(gzip.decompress(data) if name.endswith(".gz") else data, name)
    return Database()


def target_key(target: Target) -> str:
    """``sm_90``, with ``+tf32`` where FP32 products may be TF32: other variants are allowed then."""
    return target.name + ("+tf32" if target.tf32 else "")


def _place(key: Key) -> tuple[str, str, str]:
    return key.target, key.signature, key.bindings


def _symbols(region: Region) -> set[str]:
    found: set[str] = set()
    for _, tensor in region.values:
        for dim in (*tensor.shape, *tensor.strides):
            found |= symbols(dim)
    return found
