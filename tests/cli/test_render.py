"""Numbers, tables and the arena's picture as text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ingot.cli import render
from ingot.cli.files import read_arrays, write_arrays, write_text
from ingot.cli.inspect import picture
from ingot.engine.describe import ArenaRow, Description, Summary
from ingot.errors import IngotError


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1, "1.00"), (12.345, "12.3"), (1234.5, "1234"), (0.0012345, "0.00123"), (1e-7, "1.00e-07"),
     (-3.14159, "-3.14"), (3e9, "3.00e+09")],
)  # fmt: skip
def test_numbers(value: float, text: str) -> None:
    assert render.number(value) == text


def test_sizes_and_shapes() -> None:
    assert [render.size(n) for n in (0, 1023, 1536, 5 << 20, 3 << 30)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "5.0 MiB",
        "3.0 GiB",
    ]
    assert render.shape([1, "n", 3]) == "1xnx3" and render.shape([]) == "()"
    assert render.percent(0.123) == "12.3 %" and render.percent(0) == "–"
    assert render.shorten("a\n b   c", 10) == "a b c" and render.shorten("abcdef", 4) == "abc…"


def test_progress_is_a_line_per_stage_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with render.build_progress() as progress:
        for done in range(3):
            progress("compile", done, 3)
        progress("plan", 0, 1)
    assert capsys.readouterr().err.splitlines() == ["compiling candidates (3)", "planning memory"]


def description(arena: list[ArenaRow], total: int) -> Description:
    summary = Summary("sm_90", 1, 0, 1, 0, 1, 0, 0.0, False, 0, 0, 0, total, 0, 0, 0)
    return Description(summary, [], [], [], [], arena, [], {})


def test_picture_of_the_arena() -> None:
    rows = [ArenaRow("a", 0, 512, 0, 1), ArenaRow("b", 512, 512, 1, 2), ArenaRow("c", 0, 256, 2, 3)]
    assert picture(description(rows, 1024)).splitlines() == [
        "arena: 1.0 KiB, steps 0 to 3 from left to right",
        "       0 B |AACC|",
        "     256 B |AA..|",
        "     512 B |.BB.|",
        "     768 B |.BB.|",
    ]
    assert picture(description([], 0)) == "the arena is empty"


def test_large_pictures_are_bounded() -> None:
    rows = [ArenaRow(str(i), 1024 * (i % 7), 1024, i, i + 3) for i in range(5000)]
    lines = picture(description(rows, 7168)).splitlines()
    assert len(lines) <= 25 and all(len(line) < 120 for line in lines)


def test_arrays_of_any_name_and_type(tmp_path: Path) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    arrays = {
        "file": np.arange(3), "a/b:0": np.float16([[1.5]]), '"json"': np.array(True),
        "half": np.array([1.0, 2.0], ml_dtypes.bfloat16), "empty": np.zeros((0, 2), np.int8),
    }  # fmt: skip
    write_arrays(tmp_path / "x.npz", arrays)
    found = read_arrays(tmp_path / "x.npz")
    assert list(found) == list(arrays)
    assert all(np.array_equal(found[k], arrays[k].astype(found[k].dtype)) for k in arrays)
    assert found["half"].dtype == np.float32 and found["empty"].shape == (0, 2) and found['"json"'].shape == ()
    assert [p.name for p in tmp_path.iterdir()] == ["x.npz"]


def test_text_goes_to_files_in_one_step(tmp_path: Path) -> None:
    write_text(str(tmp_path / "new" / "x.json"), b"{}")
    assert (tmp_path / "new" / "x.json").read_text() == "{}"
    (tmp_path / "plain").write_text("")
    with pytest.raises(IngotError, match="cannot write"):
        write_text(str(tmp_path / "plain" / "x.json"), b"{}")
