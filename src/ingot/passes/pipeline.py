"""The order of the rewrites between importer and lowering: the only one, written out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import onnx_ir as ir

from ingot.graph.edit import is_op
from ingot.graph.verify import Signature, signature_of, verify
from ingot.passes.attention import fuse_attention
from ingot.passes.batch_norm import fold_batch_norm
from ingot.passes.concat import open_concats
from ingot.passes.contrib import standardise
from ingot.passes.control import open_control_flow
from ingot.passes.decompose import decompose
from ingot.passes.einsum import expand_einsums
from ingot.passes.fold import fold, tidy
from ingot.passes.functions import expand_functions
from ingot.passes.gelu import fuse_activations
from ingot.passes.group_norm import fuse_group_norms
from ingot.passes.normalize import fuse_normalisations
from ingot.passes.qkv import join_products
from ingot.passes.quantized_moves import move_quantized
from ingot.passes.quantized_ops import spell_out_quantized
from ingot.passes.sequences import resolve_sequences
from ingot.passes.siblings import join_convolutions
from ingot.passes.sink import sink_moves
from ingot.passes.small import small_rewrites
from ingot.passes.softmax import simplify_softmax
from ingot.passes.unroll import UNROLL
from ingot.plugins.registry import TAKEN, active
from ingot.precision.autocast import autocast

Dump = Callable[[str, ir.Model], None]


@dataclass(frozen=True)
class Pass:
    """One rewrite: changes the model in place and gives lines for the report."""

    name: str
    run: Callable[[ir.Model], list[str]]


@dataclass(frozen=True)
class Canonical:
    """The model that is lowered."""

    model: ir.Model
    notes: tuple[str, ...]
    """What was rewritten, and what was not and why: ``pass: line``."""


CONTROL = "control"
PASSES: tuple[Pass, ...] = (
    # Before all others, which do not look into bodies.
    Pass(CONTROL, open_control_flow),
    Pass("contrib", standardise),
    Pass("quantized_ops", spell_out_quantized),
    Pass("functions", expand_functions),
    Pass("fold", fold),
    Pass("sequences", resolve_sequences),
    Pass("decompose", decompose),
    # Before other rewrites move what stands between quantizations.
    Pass("quantized_moves", move_quantized),
    Pass("einsum", expand_einsums),
    Pass("group_norm", fuse_group_norms),
    Pass("softmax", simplify_softmax),
    # Before arithmetic moves: scales and masks belong to the scores.
    Pass("attention", fuse_attention),
    Pass("concat", open_concats),
    Pass("sink", sink_moves),
    Pass("small", small_rewrites),
    Pass("batch_norm", fold_batch_norm),
    # After reductions got their axes back.
    Pass("normalize", fuse_normalisations),
    Pass("softmax_again", simplify_softmax),
    Pass("gelu", fuse_activations),
    # After activations are what they are: alike behind siblings, they are done for all at once.
    Pass("siblings", join_convolutions),
    # After attention and activations: products with arithmetic of their own stay apart.
    Pass("qkv", join_products),
    Pass("fold_again", fold),
)
BEFORE_QUANTIZATION = (
    "contrib",
    "fold",
    "decompose",
    "concat",
    "sink",
    "small",
    "batch_norm",
    "normalize",
    "fold_again",
)
"""Rewrites whose results are ops that every runtime knows, so that a quantized model can leave Ingot."""
FP16 = Pass("autocast", autocast)
"""Runs after all others, where float16 is wanted."""


def canonicalise(
    model: ir.Model, *, fp16: bool, dump: Dump | None = None, unroll: int = UNROLL, keep: bool = True
) -> Canonical:
    """A rewritten copy of ``model``; inputs and outputs keep names, types and shapes.

    ``model`` has its functions inlined and no initializer among its inputs. ``dump`` is called with
    the name of each pass and the model after it. ``unroll``: how many nodes
    unrolled loops may have in all. Without ``keep`` the model itself is rewritten, so that weights are
    freed as others take their place. Raises AssertionError, with the name of the pass, when one leaves a broken graph.
    """
    steps = [Pass(CONTROL, partial(open_control_flow, limit=unroll)) if p.name == CONTROL else p for p in PASSES]
    return _rewritten(model.clone() if keep else model, [*steps, *([FP16] if fp16 else [])], dump)


def prepare_to_quantize(model: ir.Model) -> Canonical:
    """A rewritten copy of ``model`` with normalisations in the weights, and otherwise the ops it has.

    As :func:`canonicalise`, with ``BEFORE_QUANTIZATION`` alone; its nodes have unique names.
    """
    return _rewritten(model.clone(), [step for step in PASSES if step.name in BEFORE_QUANTIZATION], None)


def _rewritten(model: ir.Model, steps: Sequence[Pass], dump: Dump | None) -> Canonical:
    _name_nodes(model)
    signature = signature_of(model)
    notes: list[str] = []
    for step in steps:
        with _apart(model), _forgetting(model.graph):
            notes.extend(f"{step.name}: {line}" for line in step.run(model))
            tidy(model)
        _check(model, signature, step.name)
        if dump is not None:
            dump(step.name, model)
    return Canonical(model, tuple(notes))


@contextmanager
def _apart(model: ir.Model) -> Iterator[None]:
    """ONNX's ops that plugins have taken are foreign to the rewrites: they stay as they were written."""
    taken = [(n, n.domain) for n in model.graph if is_op(n, n.op_type) and active().find("", n.op_type) is not None]
    for node, _ in taken:
        node.domain = TAKEN
    if taken:
        model.opset_imports[TAKEN] = 1
    try:
        yield
    finally:
        for node, domain in taken:
            node.domain = domain
        model.opset_imports.pop(TAKEN, None)


@contextmanager
def _forgetting(graph: ir.Graph) -> Iterator[None]:
    """Weights that a pass took out of ``graph`` are freed at once: the library counts their readers, and keeps them."""
    before = list(graph.initializers.values())
    yield
    for value in before:
        if value.graph is None:
            value.const_value = None


def _check(model: ir.Model, signature: Signature, name: str) -> None:
    try:
        verify(model, signature)
    except AssertionError as error:
        raise AssertionError(f"after pass {name}: {error}") from error


def _name_nodes(model: ir.Model) -> None:
    """Gives every node of the main graph a name of its own: later stages tell nodes apart by it."""
    seen: set[str] = set()
    for node in model.graph:
        base = name = node.name or next((f"{v.name}/node" for v in node.outputs if v.name), node.op_type)
        count = 0
        while name in seen:
            count += 1
            name = f"{base}.{count}"
        node.name = name
        seen.add(name)
