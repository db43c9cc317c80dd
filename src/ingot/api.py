"""What ``import ingot`` offers beside loading: building, and ONNX Runtime's session over both."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingot.errors import IngotError
from ingot.options import BuildOptions, Profiles, Quantization, Range, Shapes, one_precision, parse_shapes
from ingot.plugins.api import Plugin
from ingot.plugins.registry import using
from ingot.progress import Progress, silent
from ingot.runtime import session
from ingot.runtime.engine import Engine

if TYPE_CHECKING:
    import onnx

    from ingot.builder.quantizing import Quantized
    from ingot.precision.data import Source as Calibration

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
    bf16: bool = False,
    shapes: InputShapes | None = None,
    profiles: Mapping[str, InputShapes] | Sequence[InputShapes] | None = None,
    opt_level: int = 3,
    timing_db: str | os.PathLike[str] | None = None,
    unroll: int = 2000,
    strict: bool = False,
    int8: bool = False,
    fp8: bool = False,
    best: bool = False,
    calibration: Calibration | None = None,
    calibration_cache: str | os.PathLike[str] | None = None,
    accuracy_budget: float | str | None = "0.5%",
    metric: str = "cosine",
    rounding: str = "nearest",
    progress: Progress | None = None,
    plugins: Sequence[Plugin] = (),
) -> Engine:
    """Compiles an ONNX model (a path, the bytes of a file, or a ModelProto).

    ``target``: ``auto`` (the GPU if there is one), ``cuda``, ``cpu``, or ``sm_75`` ... ``sm_120``.
    ``shapes``: per input, dimensions as ints or (min, opt, max) triples, or the command line's text.
    ``profiles``: several such ``shapes``, by name or in order ("0", "1", ...). Kernels are chosen for each at its
    optimum; inputs that one does not name are as in ``shapes``. The engine takes what any of them takes.
    ``bf16``: on the CPU, OpenVINO may compute in bfloat16. ``opt_level`` 0 to 5: see
    :class:`ingot.options.BuildOptions`. ``unroll``: how many nodes loops may be written out to, in all. ``int8`` or
    ``fp8``: layers become 8-bit first, as :func:`quantize` does it with ``calibration``; what stays is float16 on a
    GPU. ``best``: for each layer whichever of float16, int8 and fp8 is fastest, as far as the budget allows, and
    never slower than float16 alone. ``progress(stage, done, total)`` is told the way. ``plugins``: those that the
    model needs beside the ones of installed packages (docs/plugins.md). Raises IngotError for a model or options that
    are wrong.
    """
    _expect_build_extra()
    from ingot.builder.api import build_engine

    asked = one_precision({"int8": int8, "fp8": fp8, "best": best})
    eight = _quantization(asked, calibration_cache, accuracy_budget, metric, rounding) if asked else None
    options = BuildOptions(
        target=target,
        fp16=fp16 or eight is not None,
        tf32=tf32,
        bf16=bf16,
        shapes=_shapes(shapes or {}),
        profiles=_profiles(profiles or {}),
        opt_level=opt_level,
        timing_db=Path(timing_db) if timing_db is not None else None,
        unroll=unroll,
        strict=strict,
        quantization=eight,
    )
    if eight is None and calibration is not None:
        raise IngotError("calibration is for 8-bit layers", fix="add int8=True, fp8=True or best=True")
    with using(plugins):
        return Engine(build_engine(model, options, progress=progress or silent, data=calibration))


def quantize(
    model: str | os.PathLike[str] | bytes | onnx.ModelProto,
    data: Calibration | None = None,
    *,
    precision: str = "int8",
    accuracy_budget: float | str | None = "0.5%",
    metric: str = "cosine",
    method: str = "auto",
    rounding: str = "nearest",
    keep: Sequence[str] = (),
    pixels: str | None = None,
    samples: int | None = None,
    calibration_cache: str | os.PathLike[str] | None = None,
    host: bool = False,
    target: str = "auto",
    shapes: Mapping[str, Sequence[Dim] | str] | None = None,
    progress: Progress | None = None,
) -> Quantized:
    """A standard ONNX model with 8-bit layers (Q/DQ), and a report: ``model, sha256, report = quantize(...)``.

    ``data``: a folder, an .npz file, ``module:function``, arrays by input name with samples along the first axis, or
    an iterable of samples. ``precision``: ``int8`` or ``fp8``. ``accuracy_budget``: the loss by ``metric``
    (``cosine``, ``top1`` or ``module:function``) that is allowed: layers stay in floating point until it is kept;
    None takes what comes. ``rounding``: of weights, ``nearest`` or ``adaround``. ``keep``: nodes that stay.
    ``pixels``: how pictures become numbers. ``calibration_cache``: a file that is read in place of calibrating, or
    written. ``host``: for ONNX Runtime on the CPU. ``target``: where it is calibrated, ``auto`` (the GPU if there is
    one and the work is worth it), ``cuda`` or ``cpu``. Raises IngotError for a model, data or options that are wrong.
    """
    _expect_build_extra()
    from ingot.builder.api import quantize_on

    plain = _quantization(precision, calibration_cache, accuracy_budget, metric, rounding)
    options = dataclasses.replace(plain, method=method, keep=tuple(keep), pixels=pixels, samples=samples, host=host)
    return quantize_on(target, model, options, data, shapes=_shapes(shapes or {}), progress=progress or silent)


def _quantization(
    precision: str, cache: str | os.PathLike[str] | None, budget: float | str | None, metric: str, rounding: str
) -> Quantization:
    from ingot.precision.settings import parse_budget

    share = parse_budget(budget) if isinstance(budget, str) else budget
    return Quantization(
        precision, cache=None if cache is None else Path(cache), budget=share, metric=metric, rounding=rounding
    )


def _expect_build_extra() -> None:
    """Raises IngotError where what building needs is not installed."""
    try:
        import ingot.builder.api  # noqa: F401
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("ingot"):
            raise
        raise IngotError(
            f"building needs {error.name}, which is not installed", fix="install Ingot with its extra `build`"
        ) from None


class InferenceSession(session.InferenceSession):
    """``onnxruntime.InferenceSession``'s constructor and ``run``, for engine files and for ONNX models.

    A model is built first, for the GPU if there is one, with ``build_options`` (those of :func:`build`).
    ``plugins`` among them count for engine files, too.
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
        with using(build_options.pop("plugins", ())):
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
