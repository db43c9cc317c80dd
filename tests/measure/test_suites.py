"""The written suites name models and inputs that exist."""

from __future__ import annotations

import dataclasses
from functools import cache

import pytest

from ingot.errors import IngotError
from ingot.measure.suites import SUITES, Row, suite
from ingot.options import parse_shapes
from ingot.zoo import architectures, fetch

ROWS = [row for rows in SUITES.values() for row in rows]


SMALL = {"layers": 1, "hidden": 64, "vocabulary": 100, "inner": 64, "growth": 1, "stem": 8, "width": 32}
"""Sizes that change no input, for models that are quick to make."""


@cache
def inputs_of(name: str) -> dict[str, int]:
    """Rank by input of an architecture."""
    known = {field.name for field in dataclasses.fields(architectures.sizes_of(name))}
    fewer = {key: value for key, value in SMALL.items() if key in known}
    if name == "shufflenet_v2":
        fewer = {}
    model = architectures.build(name, **fewer)
    return {value.name: len(value.type.tensor_type.shape.dim) for value in model.graph.input}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_rows_name_models_and_their_inputs(row: Row) -> None:
    name = row.model.removeprefix("zoo:")
    given = dict(parse_shapes(row.shapes))
    if name in architectures.names():
        if not given:
            return
        known = inputs_of(name)
    else:
        known = {tensor: len(shape) for tensor, shape in fetch.find(name).shapes}
    assert {tensor: len(ranges) for tensor, ranges in given.items()}.items() <= known.items()


@pytest.mark.parametrize("rows", SUITES.values(), ids=SUITES)
def test_names_are_unique_and_fit_file_names(rows: tuple[Row, ...]) -> None:
    names = [row.name for row in rows]
    assert len(set(names)) == len(names)
    assert all(name.replace("_", "").replace("-", "").isalnum() for name in names)


def test_choice_of_rows() -> None:
    assert [row.name for row in suite("h200", "resnet50")] == ["resnet50-b1", "resnet50-b8", "resnet50-b128"]
    assert [row.name for row in suite("h200", "resnet50-b1")] == ["resnet50-b1"]
    assert [row.name for row in suite("h200", "resnet50-b8,bert_base-b1")] == ["resnet50-b8", "bert_base-b1"]
    assert suite("cpu") == SUITES["cpu"]
    with pytest.raises(IngotError, match="no row of cpu contains 'x9'"):
        suite("cpu", "x9")
    with pytest.raises(IngotError, match="no suite 'h2'"):
        suite("h2")
