"""Python functions on the stream, on the driver written for tests: it needs no GPU, only a C compiler."""

from __future__ import annotations

from pathlib import Path

from support.stand_in import pass_on_stand_in


def test_calls_pass_on_the_stand_in_driver(tmp_path: Path) -> None:
    pass_on_stand_in(tmp_path, "plugins/test_on_stream.py")
