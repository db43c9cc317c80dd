"""A drop-in for ``onnxruntime.InferenceSession``: same constructor, same ``run``."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ingot.engine.file import EngineFile
from ingot.engine.format import MAGIC
from ingot.errors import IngotError
from ingot.graph.dims import Dim
from ingot.graph.dtypes import nested
from ingot.runtime.engine import IO, Engine

Build = Callable[[Any], Engine]
"""Makes an Engine from what is not one: an ONNX path, its bytes or a ModelProto."""

_TYPES = {
    "float32": "float", "float64": "double", "float8_e4m3fn": "float8e4m3fn", "float8_e4m3fnuz": "float8e4m3fnuz",
    "float8_e5m2": "float8e5m2", "float8_e5m2fnuz": "float8e5m2fnuz", "float4_e2m1fn": "float4e2m1",
    "float8_e8m0fnu": "float8e8m0",
}  # fmt: skip
"""Element types that ONNX Runtime calls otherwise."""
_OUTER = {"sequence": "seq", "optional": "optional"}


@dataclass(frozen=True)
class NodeArg:
    """Name, shape and ONNX Runtime's type text of an input or output."""

    name: str
    shape: list[Dim]
    type: str


class InferenceSession:
    """Runs a model with ONNX Runtime's signature."""

    def __init__(
        self,
        path_or_bytes: Any,
        sess_options: object = None,
        providers: Sequence[object] | None = None,
        provider_options: Sequence[object] | None = None,
        *,
        build: Build | None = None,
        device: int = 0,
    ) -> None:
        """``path_or_bytes``: an engine file or its bytes, or what ``build`` accepts (an ONNX model).

        ONNX Runtime's options are accepted and have no effect. Raises IngotError when it is not
        an engine and there is no ``build``, and whatever building or loading raises.
        """
        self.engine = _engine(path_or_bytes, build)
        self._context = self.engine.context(device)
        self._outputs = [output.name for output in self.engine.outputs]

    def run(
        self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any], run_options: object = None
    ) -> list[Any]:
        """Results in the order of ``output_names``, all outputs if None or empty."""
        names = list(output_names or self._outputs)
        unknown = [name for name in names if name not in self._outputs]
        if unknown:
            raise IngotError(
                f"the engine has no output called {', '.join(map(repr, unknown))}",
                fix=f"its outputs are {self._outputs}",
            )
        made = self._context.run(input_feed)
        return [made[name] for name in names]

    def get_inputs(self) -> list[NodeArg]:
        """The inputs, in the model's order."""
        return [_node_arg(io) for io in self.engine.inputs]

    def get_outputs(self) -> list[NodeArg]:
        """The outputs, in the model's order."""
        return [_node_arg(io) for io in self.engine.outputs]

    def get_providers(self) -> list[str]:
        """What runs the model."""
        return [f"Ingot{'CPU' if self.engine.target == 'cpu' else 'CUDA'}ExecutionProvider"]


def _node_arg(io: IO) -> NodeArg:
    return NodeArg(io.name, list(io.shape), _type_text(io.dtype))


def _type_text(dtype: str) -> str:
    inner = nested(dtype)
    if inner is not None and inner[0] == "map":
        key, _, value = inner[1].partition(",")
        return f"map({_TYPES.get(key, key)},{_type_text(value)})"
    if inner is not None:
        return f"{_OUTER[inner[0]]}({_type_text(inner[1])})"
    return f"tensor({_TYPES.get(dtype, dtype)})"


def _engine(source: Any, build: Build | None) -> Engine:
    if isinstance(source, Engine):
        return source
    if isinstance(source, bytes | bytearray | memoryview):
        if bytes(source[: len(MAGIC)]) == MAGIC:
            return Engine(EngineFile.from_bytes(source))
    elif isinstance(source, str | os.PathLike) and _is_engine(Path(source)):
        return Engine(EngineFile.read(source))
    if build is None:
        raise IngotError("this is not an Ingot engine", node=_shown(source), fix="build it with ingot build first")
    return build(source)


def _is_engine(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError as error:
        raise IngotError(f"cannot read the model: {error}", node=str(path), fix="check the path") from None


def _shown(source: Any) -> str:
    return str(source) if isinstance(source, str | os.PathLike) else type(source).__name__
