"""Source of a Triton kernel that a plugin has written as a function."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from typing import Any

_HEADER = "import triton\nimport triton.language as tl\n\n\n"


def source_of(function: Callable[..., Any]) -> str:
    """A module that holds ``function`` (decorated with ``triton.jit`` or not), which uses ``tl`` alone."""
    plain = getattr(function, "fn", function)
    text = textwrap.dedent(inspect.getsource(plain))
    body = text[text.index("def ") :]
    return f"{_HEADER}@triton.jit\n{body}"
