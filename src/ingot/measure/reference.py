"""The oracle: the original model in ONNX Runtime on the CPU, in the model's own precision."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ingot.errors import IngotError
from ingot.plugins.registry import active

if TYPE_CHECKING:
    import onnx

    from ingot.runtime.context import Context

Array = np.ndarray[Any, Any]


class Reference:
    """A model and its ONNX Runtime session on the CPU, made when it is first needed."""

    def __init__(self, model: str | os.PathLike[str] | bytes | onnx.ModelProto) -> None:
        """``model``: a path, the bytes of a file, or a ModelProto."""
        self._model = model

    @cached_property
    def content(self) -> str | bytes:
        """What ONNX Runtime loads: a path (external data lies beside it), or bytes."""
        model = self._model
        if isinstance(model, str | os.PathLike):
            return str(Path(model))
        if isinstance(model, bytes):
            return model
        try:
            return bytes(model.SerializeToString())
        except ValueError as error:
            raise IngotError(f"the model is too large for ONNX Runtime: {error}", fix="give it as a file") from None

    @cached_property
    def plugins(self) -> tuple[str, ...]:
        """Ops of the model that active plugins run: their references are the truth for them."""
        known = {(plugin.domain, plugin.name) for plugin in active().items}
        if not known:
            return ()
        import onnx

        model = self._model
        if isinstance(self.content, bytes):
            model = onnx.load_model_from_string(self.content)
        elif not isinstance(model, onnx.ModelProto):
            model = onnx.load(self.content, load_external_data=False)
        assert isinstance(model, onnx.ModelProto)
        return tuple(sorted({n.op_type for n in model.graph.node if (n.domain, n.op_type) in known}))

    @cached_property
    def _with_plugins(self) -> Context:
        """The model as an engine for the CPU: ONNX Runtime, and the plugins' references between."""
        from ingot.builder.api import build_engine
        from ingot.options import BuildOptions
        from ingot.runtime.engine import Engine

        return Engine(build_engine(self._model, BuildOptions("cpu", opt_level=0))).context()

    @cached_property
    def session(self) -> Any:
        """The session, with ONNX Runtime's default settings."""
        return open_session(self.content, ["CPUExecutionProvider"])

    def run(self, feeds: Mapping[str, Array], names: Sequence[str] | None = None) -> dict[str, Array]:
        """Outputs by name. Raises IngotError when ONNX Runtime refuses the model or the inputs."""
        if self.plugins:
            made = self._with_plugins.run({b.name: feeds[b.name] for b in self._with_plugins.engine.inputs})
            return {name: np.asarray(made[name]) for name in names or made}
        return run_session(self.session, feeds, names)

    def values(self, feeds: Mapping[str, Array], names: Sequence[str]) -> dict[str, Array]:
        """Values inside the model, of those ``names`` that it has.

        Raises IngotError as :meth:`run` does. All of them are kept in memory at once.
        """
        if self.plugins:
            raise IngotError(
                "ONNX Runtime cannot run a model with plugins", node=", ".join(self.plugins), fix="compare outputs only"
            )
        proto = self._proto()
        inner = {name for node in proto.graph.node for name in node.output if name}
        outer = {value.name for value in proto.graph.output}
        wanted = [name for name in dict.fromkeys(names) if name in inner | outer]
        proto.graph.output.extend(_untyped(name) for name in wanted if name not in outer)
        session = open_session(bytes(proto.SerializeToString()), ["CPUExecutionProvider"], optimise=False)
        return run_session(session, feeds, wanted)

    def _proto(self) -> onnx.ModelProto:
        """A copy with its weights inside."""
        import onnx

        copy = onnx.ModelProto()
        if isinstance(self._model, onnx.ModelProto):
            copy.CopyFrom(self._model)
        elif isinstance(self.content, bytes):
            copy.ParseFromString(self.content)
        else:
            copy = onnx.load(self.content)
        return copy


def open_session(content: str | bytes, providers: Sequence[Any], *, optimise: bool = True, **entries: str) -> Any:
    """An ONNX Runtime session. Raises IngotError when it is not installed or refuses the model."""
    try:
        import onnxruntime as ort
    except ImportError:
        raise IngotError("ONNX Runtime, the reference, is not installed", fix="pip install onnxruntime") from None
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    for key, value in entries.items():
        options.add_session_config_entry(key.replace("__", "."), value)
    try:
        return ort.InferenceSession(content, options, providers=list(providers))
    except Exception as error:  # onnxruntime raises its own, undocumented types
        raise IngotError(f"ONNX Runtime refuses the model: {_line(error)}") from None


def run_session(session: Any, feeds: Mapping[str, Array], names: Sequence[str] | None = None) -> dict[str, Array]:
    """One run: outputs by name. Feeds that the session does not know are left out; raises IngotError."""
    wanted = list(names or (output.name for output in session.get_outputs()))
    known = {value.name for value in session.get_inputs()}
    try:
        made = session.run(wanted, {name: array for name, array in feeds.items() if name in known})
    except Exception as error:
        raise IngotError(f"ONNX Runtime fails on these inputs: {_line(error)}") from None
    return {name: np.asarray(array) for name, array in zip(wanted, made, strict=True)}


def _untyped(name: str) -> onnx.ValueInfoProto:
    import onnx

    return onnx.ValueInfoProto(name=name)


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
