"""The bytes of an engine file: a prefix, a JSON header, and aligned segments.

========  =====  ==========================================================
offset    bytes  what
========  =====  ==========================================================
0         8      magic ``\\x89INGOT\\r\\n`` (a text-mode transfer breaks it)
8         4      format version, little-endian
12        4      zero
16        8      bytes of the header, little-endian
24        32     SHA-256 of the header
56        8      zero
64        n      header: :class:`Header` as JSON
...              segments, each at a multiple of 256 bytes, zeros between
========  =====  ==========================================================

The file ends with its last segment. No clock, path or host name is in it: equal content, equal bytes.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from ingot.errors import IngotError
from ingot.plan.spec import Plan

MAGIC: Final = b"\x89INGOT\r\n"
VERSION: Final = 3
ALIGN: Final = 256
"""Segments start at multiples of this, so that arrays in a mapped file are aligned for every dtype."""
PREFIX: Final = struct.Struct("<8sIIQ32s8x")
SEGMENTS: Final = ("weights", "cubins", "models")
"""Every file has these segments, in this order; an empty one has size 0."""
_MAX_HEADER: Final = 1 << 28
_REBUILD: Final = "build the engine again with this version of Ingot"
_COPY: Final = "copy the file again or rebuild it"

Scalar = str | int | float | bool | None
Provenance = dict[str, Scalar | list[Scalar] | dict[str, Scalar]]
"""Where an engine comes from: model, options, compiler versions. Plain JSON, at most two levels."""


class Segment(msgspec.Struct, frozen=True):
    """One segment: ``size`` bytes at ``offset`` of the file, with its digest in hexadecimal."""

    name: str
    offset: int
    size: int
    sha256: str


class Header(msgspec.Struct, frozen=True):
    """Everything but the segments."""

    plan: Plan
    provenance: Provenance
    segments: list[Segment]
    others: list[Plan] = []
    """Plans of the same model for further optimization profiles."""


_ENCODER = msgspec.json.Encoder(order="sorted")
_DECODER = msgspec.json.Decoder(Header)


def encode(
    plans: Sequence[Plan], provenance: Provenance, segments: Mapping[str, memoryview]
) -> list[bytes | memoryview]:
    """The file as pieces to be written one after another. ``segments`` holds every name of SEGMENTS."""
    # Offsets stand in the header whose length they depend on: the length is fixed by padding it
    # with spaces (JSON allows them) to a bound computed with the largest offsets.
    sizes = {name: segments[name].nbytes for name in SEGMENTS}
    digests = {name: hashlib.sha256(segments[name]).hexdigest() for name in SEGMENTS}

    def header(start: int) -> bytes:
        rows, at = [], start
        for name in SEGMENTS:
            rows.append(Segment(name, at, sizes[name], digests[name]))
            at = align(at + sizes[name])
        return _ENCODER.encode(Header(plans[0], provenance, rows, list(plans[1:])))

    length = len(header(1 << 40)) + 8
    start = align(PREFIX.size + length)
    text = header(start).ljust(length)
    pieces: list[bytes | memoryview] = [
        PREFIX.pack(MAGIC, VERSION, 0, length, hashlib.sha256(text).digest()),
        text,
    ]
    at = PREFIX.size + length
    for name in SEGMENTS:
        pieces.extend((bytes(align(at) - at), segments[name]))
        at = align(at) + sizes[name]
    return pieces


def decode(data: memoryview) -> tuple[Header, dict[str, memoryview]]:
    """Header and segments of a file's bytes, digests checked. Raises IngotError for anything wrong.

    What the header *means* is checked by :func:`ingot.engine.verify.verify`.
    """
    text = _header_text(data)
    try:
        header = _DECODER.decode(text)
    except (msgspec.MsgspecError, ValueError, OverflowError) as error:
        raise IngotError(f"the engine's header is malformed: {error}", fix=_REBUILD) from None
    except (RecursionError, MemoryError):
        raise IngotError("the engine's header is nested too deeply or too large", fix=_REBUILD) from None
    return header, _segments(data, header.segments, PREFIX.size + len(text))


def align(offset: int) -> int:
    """The next multiple of ALIGN."""
    return -(-offset // ALIGN) * ALIGN


def _header_text(data: memoryview) -> memoryview:
    if data.nbytes < PREFIX.size:
        if bytes(data[: len(MAGIC)]) == MAGIC[: data.nbytes] and data.nbytes:
            raise IngotError(f"the engine file is truncated: it has only {data.nbytes} bytes", fix=_COPY)
        raise IngotError("this is not an Ingot engine file (too short)", fix="give a file made by ingot build")
    magic, version, zero, length, digest = PREFIX.unpack_from(data)
    if magic != MAGIC:
        raise IngotError("this is not an Ingot engine file (wrong magic)", fix="give a file made by ingot build")
    if version != VERSION:
        raise IngotError(f"engine format {version} is not format {VERSION} of this version of Ingot", fix=_REBUILD)
    if zero or any(data[PREFIX.size - 8 : PREFIX.size]):
        raise IngotError("the engine file was altered: reserved bytes are not zero", fix=_COPY)
    if length > _MAX_HEADER:
        raise IngotError(f"the engine's header claims {length} bytes; at most {_MAX_HEADER} are allowed", fix=_COPY)
    if PREFIX.size + length > data.nbytes:
        raise IngotError("the engine file is truncated inside its header", fix=_COPY)
    text = data[PREFIX.size : PREFIX.size + length]
    if hashlib.sha256(text).digest() != digest:
        raise IngotError("the engine file was altered: its header does not match its SHA-256", fix=_COPY)
    return text


def _segments(data: memoryview, rows: list[Segment], end: int) -> dict[str, memoryview]:
    if tuple(row.name for row in rows) != SEGMENTS:
        raise IngotError(f"the engine must have the segments {', '.join(SEGMENTS)}", fix=_REBUILD)
    found: dict[str, memoryview] = {}
    for row in rows:
        if row.size < 0 or row.offset != align(end):
            raise IngotError(f"segment {row.name} is not where it belongs", fix=_REBUILD)
        if row.offset + row.size > data.nbytes:
            raise IngotError(f"the engine file is truncated inside segment {row.name}", fix=_COPY)
        if any(data[end : row.offset]):
            raise IngotError(f"the engine file was altered before segment {row.name}", fix=_COPY)
        found[row.name] = data[row.offset : row.offset + row.size]
        if hashlib.sha256(found[row.name]).hexdigest() != row.sha256:
            raise IngotError(f"the engine file was altered: segment {row.name} does not match its SHA-256", fix=_COPY)
        end = row.offset + row.size
    if end != data.nbytes:
        raise IngotError(f"the engine file has {data.nbytes - end} bytes after its end", fix=_COPY)
    return found
