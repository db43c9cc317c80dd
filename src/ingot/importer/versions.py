"""Versions: the IR and the operator sets a model was written for, and the upgrade to the one Ingot works on."""

from __future__ import annotations

import onnx
import onnx_ir as ir
from onnx import inliner
from onnxscript import version_converter

from ingot.errors import IngotError, No
from ingot.importer import legacy
from ingot.importer.messages import first_line, quiet
from ingot.importer.schemas import check_proto_nodes
from ingot.importer.walk import all_nodes

OPSET = 21
"""Operator set that models are upgraded to. Newer ones stay as they are."""
_IR_VERSION = 10
"""The IR version that belongs to ``OPSET``."""


def refusal(model: ir.Model) -> No | None:
    """Why the passes cannot work on an imported model: they know ops only as of ``OPSET``."""
    version = model.opset_imports.get("", OPSET)
    if version >= OPSET:
        return None
    return No(f"its opset {version} could not be upgraded to {OPSET}", fix=f"export it with opset {OPSET} or later")


def check_versions(model: onnx.ModelProto) -> None:
    """Names the default domain ``""`` everywhere, in place. Raises IngotError for versions nobody here knows."""
    if model.ir_version > onnx.IR_VERSION:
        reason = f"IR version {model.ir_version} is newer than this onnx knows ({onnx.IR_VERSION})"
        raise IngotError(reason, fix="pip install -U onnx, or save the model with an older IR version")
    for node in all_nodes(model):
        if node.domain == "ai.onnx":
            node.domain = ""
    for holder in (model, *model.functions):
        _one_default_domain(holder)
    if _default_version(model) is None and any(not node.domain for node in all_nodes(model)):
        raise IngotError("no operator set of the default domain is imported", fix="set opset_import of the model")
    newest = onnx.defs.onnx_opset_version()
    for holder in (model, *model.functions):
        version = _default_version(holder)
        if version is not None and not 1 <= version <= newest:
            place = "" if isinstance(holder, onnx.ModelProto) else f"function {holder.name!r}"
            fix = f"pip install -U onnx, or export with opset_version={newest} or lower"
            reason = f"opset {version} is not one that this onnx knows (1 to {newest})"
            raise IngotError(reason, node=place, fix=fix)


def _one_default_domain(holder: onnx.ModelProto | onnx.FunctionProto) -> None:
    versions: dict[str, int] = {}
    for entry in holder.opset_import:
        domain = "" if entry.domain == "ai.onnx" else entry.domain
        if versions.setdefault(domain, entry.version) != entry.version:
            both = f"{versions[domain]} and {entry.version}"
            raise IngotError(f"domain {domain or 'ai.onnx'!r} is imported in two versions, {both}")
    del holder.opset_import[:]
    holder.opset_import.extend(onnx.helper.make_opsetid(domain, version) for domain, version in versions.items())


def level_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model``, with its functions inlined where one is written for an older opset than the graph.

    Raises IngotError for a function of a newer opset: the graph would have to be upgraded first.
    """
    version = _default_version(model)
    others = {f.name: _default_version(f) for f in model.functions if _default_version(f) not in (None, version)}
    if not others or version is None:
        return model
    for name, other in others.items():
        if other is not None and other > version:
            reason = f"is written for opset {other}, but the graph for {version}"
            raise IngotError(reason, node=f"function {name!r}", fix=f"export the model with opset {other}")
    check_proto_nodes(model)
    try:
        return inliner.inline_local_functions(model, convert_version=True)
    except Exception as error:  # the converter behind it raises whatever a node causes
        raise IngotError(f"functions of older opsets cannot be inlined: {first_line(error)}") from None


def _default_version(holder: onnx.ModelProto | onnx.FunctionProto) -> int | None:
    return next((entry.version for entry in holder.opset_import if not entry.domain), None)


def upgrade(model: ir.Model) -> tuple[ir.Model, list[str]]:
    """``model`` at ``OPSET`` where it was older, and notes. An unconvertible model stays as it is.

    The ranks of values must be known where they can be: the forms of old ops depend on them.
    """
    version = model.opset_imports.get("")
    if version is None or version >= OPSET:
        return model, []
    if all(node.domain for node in ir.traversal.RecursiveGraphIterator(model.graph)):
        model.opset_imports[""], model.ir_version = OPSET, max(model.ir_version or 0, _IR_VERSION)
        return model, []  # nothing to convert
    obstacle = legacy.obstacle(model, version)
    if obstacle:
        return model, [f"stays at opset {version}: {obstacle}"]
    converted = model.clone()
    try:
        legacy.hold(converted, version)
        with quiet("onnxscript"):
            version_converter.convert_version(converted, target_version=OPSET, fallback=True)
        legacy.release(converted)
    except Exception as error:  # the converters raise whatever the node that they do not know causes
        return model, [f"stays at opset {version}: {first_line(error)}"]
    if converted.opset_imports.get("") != OPSET:
        return model, [f"stays at opset {version}: the converter cannot upgrade it"]
    converted.ir_version = max(model.ir_version, _IR_VERSION)
    return converted, [f"upgraded from opset {version} to {OPSET}"]
