"""Mutated files are imported or refused with an IngotError; nothing else happens, in native code neither."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.mutations import attempt, mutated, originals

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
