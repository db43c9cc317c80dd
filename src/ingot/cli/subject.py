"""An engine for a command that runs one: read from its file, or built from a model on the spot."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ingot.cli.build import Flags, make
from ingot.cli.source import Source, is_engine, open_source
from ingot.errors import IngotError
from ingot.options import Shapes, parse_shapes

if TYPE_CHECKING:
    from ingot.engine.file import EngineFile
    from ingot.measure.inputs import Declared
    from ingot.measure.reference import Reference

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Subject:
    """An engine file, and the model it was made of where that is known."""

    text: str
    path: Path
    source: Source | None
    built: bool
    """Whether it was built just now."""
    seconds: float
    """What the build took."""
    shapes: Shapes
    """Shapes to run at; empty for the profile's optimum."""

    @property
    def architecture(self) -> str:
        """Name of the standard architecture, or nothing."""
        return self.source.name if self.source is not None and self.source.zoo == "architecture" else ""

    def reference(self) -> Reference | None:
        """The original model in ONNX Runtime, where it is known."""
        from ingot.measure.reference import Reference

        return Reference(self.source.model) if self.source is not None else None

    def feeds(self, inputs: Declared, seed: int) -> dict[str, Array]:
        """Random inputs that suit the model."""
        from ingot.measure.inputs import random_feeds

        return self.source.feeds(inputs, seed) if self.source is not None else random_feeds(inputs, seed)


@contextmanager
def subject(text: str, flags: Flags, model: str | None = None, save: Path | None = None) -> Iterator[Subject]:
    """``text`` as an engine: as it is, or built with ``flags`` into ``save`` or a file that is gone afterwards.

    ``model``: the original of an engine. Raises IngotError when the engine was not built from it.
    """
    shapes = parse_shapes(flags.shapes)
    if is_engine(text):
        if save is not None:
            raise IngotError("this is an engine already", node=text, fix="leave --save out")
        source = open_source(model) if model is not None else None
        if source is not None:
            _check_origin(Path(text), source)
        yield Subject(text, Path(text), source, False, 0.0, shapes)
        return
    if model is not None:
        raise IngotError("--model goes with an engine; this is a model itself", node=text, fix="leave --model out")
    source = open_source(text)
    with tempfile.TemporaryDirectory(prefix="ingot-") as folder:
        path = save or Path(folder) / "model.ingot"
        engine, watch = make(source, flags)
        _, seconds = watch.seconds()
        engine.write(path)
        yield Subject(text, path, source, True, seconds, ())


def _check_origin(path: Path, source: Source) -> None:
    """Both ends of a comparison must be the same model."""
    from ingot.engine.file import EngineFile
    from ingot.importer.read import read

    kept = EngineFile.read(path).provenance.get("model_sha256")
    if kept and kept != read(source.model).sha256:
        raise IngotError(
            f"the engine was built from another model than {source.text}", node=str(path), fix="give its own --model"
        )


def inputs_for(engine: EngineFile, subject: Subject, file: Path | None, seed: int) -> Mapping[str, Any]:
    """The arrays of ``file``, or random ones; checked against the engine."""
    from ingot.cli.files import read_arrays, typed_values
    from ingot.measure.inputs import check_feeds, declared, plan_for, plan_of

    if file is None:
        plan = plan_for(engine.plans, subject.shapes)
        return subject.feeds(declared(plan, subject.shapes), seed)
    feeds = typed_values(read_arrays(file), {b.name: b.dtype for b in engine.plan.inputs})
    check_feeds(plan_of(engine.plans, feeds), feeds)
    return feeds
