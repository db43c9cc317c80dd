"""Mutated files are imported or refused with an IngotError; nothing else happens, in native code neither."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from onnx import parser
from support.mutations import attempt, mutated, originals, through_build

from ingot.errors import IngotError
from ingot.importer.load import import_model

PROGRAM = Path(__file__).parents[1] / "support" / "mutations.py"


def fuzz(seed: int, count: int, tmp_path: Path, *way: str) -> None:
    """``way``: ``build`` for the whole way to an engine."""
    progress = tmp_path / "file in hand"
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(seed), str(count), str(progress), *way],
        capture_output=True,
        text=True,
        timeout=60 + count / (2 if way else 10),
        check=False,
    )
    assert done.returncode == 0, (
        f"at {progress.read_text()}: {done.returncode}\n{done.stdout[-5000:]}{done.stderr[-2000:]}"
    )


def test_originals_are_imported() -> None:
    for model in originals():
        assert import_model(model, any_size=True).model.graph


def test_mutations_are_repeatable_and_differ() -> None:
    models = originals()
    assert mutated(1, 2, models) == mutated(1, 2, models)
    assert len({mutated(1, number, models) for number in range(50)}) > 45


def test_the_fuzzer_sees_what_is_wrong() -> None:
    def broken(content: bytes, *, any_size: bool) -> None:
        raise KeyError(content)

    assert "KeyError" in attempt(b"x", True, broken)


def test_two_thousand_files(tmp_path: Path) -> None:
    fuzz(0, 2000, tmp_path)


def test_a_size_beyond_64_bits_is_refused() -> None:
    text = '<ir_version: 8, opset_import: ["" : 7]> g (float[2, 3, 9223372036854775807, 5] x) => (y) { y = Softmax(x) }'
    with pytest.raises(IngotError, match="would have the shape"):
        import_model(parser.parse_model(text))


def test_a_bias_of_no_type_goes_to_the_host() -> None:
    """Its elements are known, so that it passes for a parameter."""
    text = """<ir_version: 10, opset_import: ["" : 21]> g (float[1, 3, 8, 8] x, float[4] b) => (float[n, c, h, w] y)
        <float[4] b = {1, 2, 3, 4}, float[4, 3, 1, 1] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}>
        { c = Conv(x, w, b) y = Relu(c) }"""
    model = parser.parse_model(text)
    model.graph.input[1].type.tensor_type.elem_type = 0
    assert not attempt(model.SerializeToString(), False, through_build)


@pytest.mark.parametrize(
    "file", [(200, 45), (200, 629), (201, 185), (203, 71), (203, 639), (204, 13)], ids=lambda f: f"{f[0]}-{f[1]}"
)
def test_what_such_files_have_shown(file: tuple[int, int]) -> None:
    """Outputs of no type, constants of two types, operands of the wrong rank or missing, sizes near 64 bits."""
    seed, number = file
    assert not attempt(mutated(seed, number, originals()), number % 2 == 0, through_build)


def test_builds_of_mutated_files(tmp_path: Path) -> None:
    fuzz(7, 120, tmp_path, "build")


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(200, 205))
def test_many_builds_of_mutated_files(seed: int, tmp_path: Path) -> None:
    fuzz(seed, 2_000, tmp_path, "build")


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(100, 105))
def test_many_files(seed: int, tmp_path: Path) -> None:
    fuzz(seed, 20_000, tmp_path)
