"""The cases of ONNX's backend suite that come with the ``onnx`` package: models with inputs and right outputs."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import numpy_helper

FOLDERS = ("simple", "pytorch-converted", "pytorch-operator")
_LIGHT = "onnx/backend/test/data/light/"
_RTOL, _ATOL = 1e-3, 1e-7

Value: TypeAlias = Any
"""An array, a list of values (a sequence), or None (an empty optional)."""


@dataclass(frozen=True, eq=False)
class Case:
    """One test of the suite."""

    name: str
    group: str
    """``node``, ``simple``, ``pytorch-converted``, ``pytorch-operator`` or ``light``."""
    model: onnx.ModelProto
    data: tuple[tuple[dict[str, Value], list[Value]], ...]
    """Feeds by name and the outputs in the model's order, once or several times."""
    rtol: float
    atol: float


@cache
def node_cases() -> tuple[Case, ...]:
    """The cases of single ops, which the package generates; a few seconds."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = list(collect_testcases(None))
    return tuple(sorted((_node_case(test) for test in made), key=lambda case: case.name))


def _node_case(test: Any) -> Case:
    data = tuple(
        (_feeds(test.model, [_plain(v) for v in inputs]), [_plain(v) for v in outputs])
        for inputs, outputs in test.data_sets
    )
    return Case(test.name, "node", test.model, data, test.rtol, test.atol)


def case_names() -> tuple[str, ...]:
    """``group/name`` of every case, in the order of the groups and then by name."""
    found = [f"node/{case.name}" for case in node_cases()]
    found += [f"{group}/{path.name}" for group in FOLDERS for path in _folders(group)]
    return (*found, *(f"light/{path.name}" for path in _folders("real")))


def load_case(name: str) -> Case:
    """The case called ``group/name``. Raises KeyError for one that does not exist."""
    group, _, short = name.partition("/")
    if group == "node":
        return _by_name()[short]
    folder = _data() / ("real" if group == "light" else group) / short
    if group not in (*FOLDERS, "light") or not folder.is_dir():
        raise KeyError(name)
    return _light_case(folder) if group == "light" else _stored_case(folder, group)


@cache
def _by_name() -> dict[str, Case]:
    return {case.name: case for case in node_cases()}


def _data() -> Path:
    return Path(onnx.__file__).parent / "backend" / "test" / "data"


def _folders(group: str) -> list[Path]:
    return sorted(path for path in (_data() / group).iterdir() if path.is_dir() and path.name.startswith("test_"))


def _stored_case(folder: Path, group: str) -> Case:
    model = onnx.load(folder / "model.onnx")
    settings = _settings(folder)
    data = []
    for place in sorted(folder.glob("test_data_set*")):
        inputs = [_read(place / f"input_{i}.pb", v) for i, v in enumerate(_given(model, place))]
        outputs = [_read(place / f"output_{i}.pb", v) for i, v in enumerate(model.graph.output)]
        data.append((_feeds(model, inputs), outputs))
    return Case(folder.name, group, model, tuple(data), settings.get("rtol", _RTOL), settings.get("atol", _ATOL))


def _light_case(folder: Path) -> Case:
    """A network whose weights are made by ops, with numbers from 0 to 1 as its input."""
    settings = _settings(folder)
    path = _data() / "light" / str(settings["url"]).removeprefix(_LIGHT)
    model = onnx.load(path)
    inputs = []
    for value in _open_inputs(model):
        shape = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
        count = int(np.prod(shape))
        inputs.append((np.arange(count).reshape(shape) / count).astype(np.float32))
    outputs = [_read(path.with_name(f"{path.stem}_output_{i}.pb"), v) for i, v in enumerate(model.graph.output)]
    data = ((_feeds(model, inputs), outputs),)
    return Case(folder.name, "light", model, data, settings["rtol"], settings["atol"])


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / "data.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def _given(model: onnx.ModelProto, place: Path) -> list[onnx.ValueInfoProto]:
    return list(model.graph.input)[: len(list(place.glob("input_*.pb")))]


def _open_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Inputs without a default value."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def _feeds(model: onnx.ModelProto, inputs: list[Value]) -> dict[str, Value]:
    open_inputs = _open_inputs(model)
    values = open_inputs if len(open_inputs) == len(inputs) else list(model.graph.input)[: len(inputs)]
    return dict(zip((value.name for value in values), inputs, strict=True))


def _read(path: Path, value: onnx.ValueInfoProto) -> Value:
    protos: dict[str | None, Any] = {"sequence_type": onnx.SequenceProto, "optional_type": onnx.OptionalProto}
    proto = protos.get(value.type.WhichOneof("value"), onnx.TensorProto)()
    proto.ParseFromString(path.read_bytes())
    return _plain(proto)


def _plain(value: Any) -> Value:
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, onnx.SequenceProto):
        return numpy_helper.to_list(value)
    if isinstance(value, onnx.OptionalProto):
        return numpy_helper.to_optional(value)
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
