"""What ``import ingot`` offers beside loading: building, and ONNX Runtime's session over both."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingot.errors import IngotError
from ingot.options import BuildOptions, Profiles, Range, Shapes, parse_shapes
from ingot.runtime import session
from ingot.runtime.engine import Engine

if TYPE_CHECKING:
    import onnx

Dim = int | tuple[int, int, int]
"""A fixed dimension, or (minimum, optimum, maximum)."""
InputShapes = Mapping[str, Sequence[Dim] | str]
"""Per input, its dimensions, or the command line's text for them."""


def build(
    model: str | os.PathLike[str] | bytes | onnx.ModelProto,
    *,
    target: str = "auto",
    fp16: bool = False,
    tf32: bool = False,
    shapes: InputShapes | None = None,
    profiles: Mapping[str, InputShapes] | Sequence[InputShapes] | None = None,
    opt_level: int = 3,
    timing_db: str | os.PathLike[str] | None = None,
    strict: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> Engine:
    """Compiles an ONNX model (a path, the bytes of a file, or a ModelProto).

    ``target``: ``auto`` (the GPU if there is one), ``cuda``, ``cpu``, or ``sm_80`` ... ``sm_120``.
    ``shapes``: per input, dimensions as ints or (min, opt, max) triples, or the command line's text.
    ``profiles``: several such ``shapes``, by name or in order ("0", "1", ...). Kernels are chosen for each at its
    optimum; inputs that one does not name are as in ``shapes``. The engine takes what any of them takes.
    ``opt_level`` 0 to 5: see :class:`ingot.options.BuildOptions`. ``progress(stage, done, total)`` is told the way.
    Raises IngotError for a model or options that are wrong.
    """
    try:
        from ingot.builder.api import build_engine
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("ingot"):
            raise
        raise IngotError(
            f"building needs {error.name}, which is not installed", fix="install Ingot with its extra `build`"
        ) from None

    options = BuildOptions(
        target=target,
        fp16=fp16,
        tf32=tf32,
        shapes=_shapes(shapes or {}),
        profiles=_profiles(profiles or {}),
        opt_level=opt_level,
        timing_db=Path(timing_db) if timing_db is not None else None,
        strict=strict,
    )
    made = build_engine(model, options) if progress is None else build_engine(model, options, progress=progress)
    return Engine(made)


class InferenceSession(session.InferenceSession):
    """``onnxruntime.InferenceSession``'s constructor and ``run``, for engine files and for ONNX models.

    A model is built first, for the GPU if there is one, with ``build_options`` (those of :func:`build`).
    """

    def __init__(
        self,
        path_or_bytes: Any,
        sess_options: object = None,
        providers: Sequence[object] | None = None,
        provider_options: Sequence[object] | None = None,
        *,
        device: int = 0,
        **build_options: Any,
    ) -> None:
        super().__init__(
            path_or_bytes,
            sess_options,
            providers,
            provider_options,
            build=lambda model: build(model, **build_options),
            device=device,
        )


def _profiles(given: Mapping[str, InputShapes] | Sequence[InputShapes]) -> Profiles:
    rows = given.items() if isinstance(given, Mapping) else ((str(i), shapes) for i, shapes in enumerate(given))
    return tuple((name, _shapes(shapes)) for name, shapes in rows)


def _shapes(given: InputShapes) -> Shapes:
    found: list[tuple[str, tuple[Range, ...]]] = []
    for name, shape in given.items():
        if isinstance(shape, str):
            found.extend(parse_shapes([f"{name}={shape}"]))
        else:
            found.append((name, tuple(_range(name, dim) for dim in shape)))
    return tuple(found)


def _range(name: str, dim: Dim) -> Range:
    least, best, most = dim if isinstance(dim, tuple | list) else (dim, dim, dim)
    if not 0 < least <= best <= most:
        raise IngotError(f"{dim} is no dimension", node=name, fix="give a positive int, or (minimum, optimum, maximum)")
    return Range(int(least), int(best), int(most))
