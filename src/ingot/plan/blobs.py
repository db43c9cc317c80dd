"""Pieces of a segment, one after another."""

from __future__ import annotations

import hashlib


class Blobs:
    """Equal pieces are stored once, each at a multiple of ``align`` bytes."""

    def __init__(self, align: int) -> None:
        self.data = bytearray()
        self._align = align
        self._stored: dict[bytes, int] = {}

    def add(self, content: bytes | memoryview) -> int:
        """Offset of ``content``."""
        digest = hashlib.sha256(content).digest()
        if digest not in self._stored:
            self.pad()
            self._stored[digest] = len(self.data)
            self.data.extend(content)
        return self._stored[digest]

    def pad(self) -> None:
        """Zeros up to where the next piece would start."""
        self.data.extend(bytes(-len(self.data) % self._align))
