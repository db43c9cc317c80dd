"""The order in which a stem's window is multiplied: which pairs of elements the lanes of a quad hold together.

A row of the window is a run of 32-bit words, two 16-bit elements each. A tensor-core instruction takes sixteen
elements of the depth as two groups of four words, one word for each of the quad's lanes. The depth may have any order,
so a group may be four words of a row, one word of four rows, or two words of two rows; groups are chosen
so that few cover the window and that the eight quads of a warp meet few banks of shared memory twice.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

Cell = tuple[int, int]
"""(row, word) of the window."""
FORMS: dict[str, tuple[Cell, ...]] = {
    "across": ((0, 0), (0, 1), (0, 2), (0, 3)),
    "down": ((0, 0), (1, 0), (2, 0), (3, 0)),
    "square": ((0, 0), (0, 1), (1, 0), (1, 1)),
}
"""Cells of a group, by lane of the quad, relative to its first."""
_PITCHES = range(0, 32, 4)
"""Row pitches, modulo the number of banks, that keep rows aligned to 16 bytes."""


@dataclass(frozen=True)
class Group:
    """Four words that the lanes of a quad hold."""

    form: str
    row: int
    word: int

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Where they lie in the window, by lane."""
        return tuple((self.row + row, self.word + word) for row, word in FORMS[self.form])


@dataclass(frozen=True)
class Depth:
    """Groups that cover a window, two a step, and the row pitch that suits them."""

    groups: tuple[Group, ...]
    pitch: int
    """Words between rows of the image, modulo 32."""
    passes: int
    """Passes over shared memory that loading one row of every quad takes, all groups."""

    @property
    def steps(self) -> int:
        """Instructions along the depth."""
        return len(self.groups) // 2

    @property
    def extent(self) -> Cell:
        """Rows and words that are read, beyond the window's own where a group overhangs."""
        cells = [cell for group in self.groups for cell in group.cells]
        return max(row for row, _ in cells) + 1, max(word for _, word in cells) + 1

    def owners(self) -> list[Cell | None]:
        """For each word of the depth, in the order of multiplication, its cell; None for the second of a cell."""
        seen: set[Cell] = set()
        owned: list[Cell | None] = []
        for group in self.groups:
            for cell in group.cells:
                owned.append(None if cell in seen else cell)
                seen.add(cell)
        return owned


@lru_cache(maxsize=256)
def arrange(rows: int, words: int, step: int, dilation: int) -> Depth:
    """Groups for a window of ``rows`` x ``words`` whose quads stand ``step`` words apart."""
    orders = (("across", "square", "down"), ("square", "across", "down"), ("across", "down", "square"))
    covers = {_cover(rows, words, order) for order in orders}
    found = [
        Depth(groups, pitch, sum(_passes(group, step, pitch * dilation) for group in groups))
        for groups in covers
        for pitch in _PITCHES
    ]
    return min(found, key=lambda d: (len(d.groups), d.passes, d.pitch, str(d.groups)))


def _cover(rows: int, words: int, order: tuple[str, ...]) -> tuple[Group, ...]:
    """Greedy: always the group that covers most of what is left, forms in ``order`` first; an even number."""
    left = {(row, word) for row in range(rows) for word in range(words)}
    groups: list[Group] = []
    while left:
        choices = (Group(form, row, word) for form in order for row, word in sorted(left))
        best = max(choices, key=lambda group: len(left.intersection(group.cells)))
        left.difference_update(best.cells)
        groups.append(best)
    if len(groups) % 2:
        groups.append(groups[0])
    return tuple(groups)


def _passes(group: Group, step: int, pitch: int) -> int:
    """Most different words that one bank is asked for when eight quads load the group."""
    asked = {(row, step * quad + word) for quad in range(8) for row, word in group.cells}
    return max(Counter((row * pitch + word) % 32 for row, word in asked).values())
