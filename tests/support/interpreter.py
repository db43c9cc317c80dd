"""Runs generated Triton kernels on the host with Triton's interpreter, without PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from unittest import mock

import numpy as np
from support.strided import bound, poisoned, scatter, window

from ingot.graph.dims import Bindings, Dim, evaluate
from ingot.graph.region import Region
from ingot.kernels.api import Input, Output, Scratch, Value
from ingot.kernels.triton.aot import load_source
from ingot.kernels.triton.builder import FUNCTION, KernelBuilder


def interpret(
    region: Region,
    k: KernelBuilder,
    grid: Sequence[Dim],
    inputs: Sequence[np.ndarray],
    bindings: Bindings | None = None,
    scratch: Sequence[tuple[Dim, bool]] = (),
) -> list[np.ndarray]:
    """Logical outputs of the kernel in ``k`` for logical ``inputs``.

    ``scratch`` lists the workspaces as (bytes, zeroed); a zeroed one must be zero again at the end.
    """
    bindings = bindings or {}
    ins = [scatter(np.asarray(a), bound(s, bindings)) for a, s in zip(inputs, region.input_specs, strict=True)]
    outs = [poisoned(bound(s, bindings)) for s in region.output_specs]
    spaces = [np.full(evaluate(size, bindings), 0 if zeroed else 0xFF, np.uint8) for size, zeroed in scratch]
    values: dict[str, Any] = {}
    for (name, kind), argument in zip(k.types.items(), k.arguments, strict=True):
        match argument:
            case Input(index):
                values[name] = _pointer(ins[index], kind)
            case Output(index):
                values[name] = _pointer(outs[index], kind)
            case Scratch(index):
                values[name] = _pointer(spaces[index], kind)
            case Value(dim):
                values[name] = evaluate(dim, bindings)
    _execute(k, values, tuple(evaluate(d, bindings) for d in grid))
    for space, (_, zeroed) in zip(spaces, scratch, strict=True):
        assert not zeroed or not space.any(), "a zeroed workspace was left dirty"
    return [window(f, bound(s, bindings)).copy() for f, s in zip(outs, region.output_specs, strict=True)]


def _pointer(buffer: np.ndarray, kind: str) -> Any:
    import triton.language as tl
    from triton.runtime.interpreter import TensorHandle

    pointer = tl.pointer_type(tl.str_to_ty(kind, None).element_ty)
    return tl.tensor(TensorHandle(np.array([buffer.ctypes.data], np.uint64), pointer), pointer)


def _execute(k: KernelBuilder, values: Mapping[str, Any], grid: tuple[int, ...]) -> None:
    from triton import knobs
    from triton.runtime import interpreter
    from triton.runtime.interpreter import GridExecutor

    class OnHost(GridExecutor):  # type: ignore[misc]
        """Arguments are host pointers already."""

        def _init_args_hst(self, args_dev: Any, kwargs: Any) -> Any:
            return args_dev, kwargs

        def _restore_args_dev(self, *_: Any) -> None:
            return None

    def patch_tensor(tensor: Any, scope: Any) -> None:
        patched(tensor, scope)
        # Triton 3.6 converts an array of one element, which NumPy 2.4 refuses.
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.squeeze()))

    patched = interpreter._patch_lang_tensor
    with knobs.runtime.scope(), mock.patch.object(interpreter, "_patch_lang_tensor", patch_tensor):
        knobs.runtime.interpret = True
        function = getattr(load_source(k.source()), FUNCTION)
        names = list(k.types)
        OnHost(function.rewrite() if hasattr(function, "rewrite") else function.fn, names, grid)(**values)
