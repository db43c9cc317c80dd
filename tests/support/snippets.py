"""Code in the documentation, cut out so that tests can run it."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def python_blocks(document: str) -> list[str]:
    """The Python blocks of ``document`` (a path below the repository's root), in order."""
    return _BLOCK.findall((ROOT / document).read_text())


def block_with(document: str, text: str) -> str:
    """The only Python block of ``document`` that contains ``text``."""
    (found,) = [block for block in python_blocks(document) if text in block]
    return found


def run_block(code: str, names: dict[str, object]) -> dict[str, object]:
    """Runs a block in ``names``, which it also returns; the caller's ``from __future__`` imports do not apply."""
    exec(compile(code, "documentation", "exec", dont_inherit=True), names)
    return names
