"""Loop, Scan and SequenceMap with a number of turns that is known when building: their turns one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from ingot.errors import No
from ingot.graph.edit import Editor, bodies, fixed_shape, is_op, is_read, maker, operand, shape_of
from ingot.graph.op_table import kind_of
from ingot.graph.region import Kind
from ingot.passes.inline import Inliner, branch_of, discard
from ingot.passes.known import Known
from ingot.passes.writer import Writer

UNROLL = 2000
"""Nodes that unrolling may make in a model, unless told otherwise."""
_FREE = frozenset({"Constant", "Identity"})
"""Ops that cost nothing."""
_FIX = "export with a constant number of turns and a condition that stays true"
_GOES_ON = "whether it goes on is computed from data"
_MOST_TURNS = 64
"""Turns of a Loop that data may end early: each is looked at by itself."""
_Axes = list[int]
OpenIf = Callable[[ir.Node], No | None]


@dataclass
class Budget:
    """How many nodes unrolling may still make in a model."""

    limit: int
    spent: int = field(default=0, init=False)

    def refusal(self, turns: int, size: int) -> No | None:
        """Why so many turns of so many nodes are not unrolled."""
        wanted = self.spent + turns * size
        if wanted <= self.limit:
            return None
        others = f", beside {self.spent} of other loops" if self.spent else ""
        reason = f"{turns} turns of {size} nodes{others} are more than the {self.limit} nodes that unrolling may make"
        return No(reason, fix=f"build with --unroll {wanted}")


def unroll(editor: Editor, node: ir.Node, known: Known, budget: Budget, open_if: OpenIf) -> No | None:
    """Replaces a Loop, Scan or SequenceMap by its turns; No where it stays: what was written is read by nobody then.

    ``open_if`` writes out both branches of an If: turns that may not take place are such.
    """
    body = node.attributes["body"].as_graph()
    if not works_on_device(body):
        return No("nothing in its body has a device kernel")
    turns = _Turns(editor, node, known, budget, nodes_in(body, known))
    results = _WAYS[node.op_type](turns)
    if isinstance(results, No) and node.op_type == "Loop" and results.reason == _GOES_ON:
        turns.inliner.undo()
        turns.count = 0
        results = _while(turns, open_if)
    if isinstance(results, No):
        turns.inliner.undo()
        return results
    budget.spent += turns.count * turns.size
    for old, new in zip(node.outputs, results, strict=True):
        if new is not None and is_read(old):
            editor.replace(old, new)
    discard(node)
    return None


def nodes_in(graph: ir.Graph, known: Known) -> int:
    """Nodes that one turn makes, those of loops inside it as often as they run; at least 1."""
    total = 0
    for node in graph:
        inner = sum(nodes_in(body, known) for attr in node.attributes.values() for body in bodies(attr))
        count = known(node.inputs[0]) if is_op(node, "Loop") else None
        total += (node.op_type not in _FREE) + inner * (1 if count is None else max(int(count.reshape(())), 1))
    return max(total, 1)


def works(graph: ir.Graph) -> bool:
    """Whether ``graph`` does more than to hand values on."""
    return any(node.op_type not in _FREE for node in graph)


def works_on_device(graph: ir.Graph) -> bool:
    """Whether a node in ``graph`` has a device kernel."""
    return any(n.op_type not in _FREE and kind_of(n.op_type, n.domain) is not Kind.HOST for n in graph.all_nodes())


class _Turns:
    """The turns of one node that have been written in front of it."""

    def __init__(self, editor: Editor, node: ir.Node, known: Known, budget: Budget, size: int) -> None:
        """``size``: nodes of a turn."""
        self.editor, self.node, self.known, self.size = editor, node, known, size
        self.inliner = Inliner(editor, node.attributes["body"].as_graph(), str(node.name))
        self._budget = budget
        self.count = 0

    def refusal(self, turns: int) -> No | None:
        """Why there may not be so many turns."""
        return self._budget.refusal(turns, self.size)

    def add(self, inputs: Sequence[ir.Value]) -> list[ir.Value]:
        """One more turn; its outputs."""
        self.count += 1
        return self.inliner.copy(inputs, self.node)

    def pile(self, out: ir.Value, parts: Sequence[ir.Value], body: ir.Value, axis: int = 0) -> ir.Value | No | None:
        """The scan output ``out`` from what each turn makes as ``body``; None where nobody reads it."""
        if not is_read(out):
            return None
        w = Writer(self.editor, self.node)
        if parts:
            axes = w.ints(axis)
            return w("Concat", *(w("Unsqueeze", part, axes) for part in parts), axis=axis)
        shape = fixed_shape(body)
        if shape is None or body.dtype is None:
            return No("it never turns, and the shape of what it would make is not known")
        place = axis % (len(shape) + 1)
        return w.const(np.empty((*shape[:place], 0, *shape[place:])), body.dtype.numpy())


Results = list[ir.Value | None] | No


def _present(values: Sequence[ir.Value | None]) -> list[ir.Value] | No:
    found = [v for v in values if v is not None]
    return found if len(found) == len(values) else No("a value that it carries is absent")


def _settled(piles: list[ir.Value | No | None]) -> Results:
    """The results, or the first No among them."""
    found: list[ir.Value | None] = []
    for pile in piles:
        if isinstance(pile, No):
            return pile
        found.append(pile)
    return found


def _loop(turns: _Turns) -> Results:
    """Inputs: most turns, condition, carried values. The body makes: condition, carried values, scan outputs."""
    node, known, body = turns.node, turns.known, turns.node.attributes["body"].as_graph()
    limit = known(node.inputs[0])
    if limit is None and node.inputs[0] is not None:
        return No("its number of turns is computed from data", fix=_FIX)
    most = None if limit is None else int(limit.reshape(()))
    carried = _present(node.inputs[2:])
    if isinstance(carried, No):
        return carried
    count = len(carried)
    steady = _stays_true(node, known)
    going = operand(node, 1)
    if going is None:
        going = turns.editor.constant(np.asarray(True), f"{node.name}/goes")
    stacks: list[list[ir.Value]] = [[] for _ in node.outputs[count:]]
    while most is None or turns.count < most:
        goes = known(going)
        if goes is None:
            return No(_GOES_ON, fix=_FIX)
        if not goes.reshape(()):
            break
        why = turns.refusal(most if most is not None and steady else turns.count + 1)
        if why is not None:
            return why
        number = turns.editor.constant(np.asarray(turns.count, np.int64), f"{node.name}/turn")
        going, *rest = turns.add([number, going, *carried])
        carried = rest[:count]
        for stack, value in zip(stacks, rest[count:], strict=True):
            stack.append(value)
    made = body.outputs[1 + count :]
    return _settled([*carried, *(turns.pile(*row) for row in zip(node.outputs[count:], stacks, made, strict=True))])


def _while(turns: _Turns, open_if: OpenIf) -> Results:
    """A Loop that data ends, of a known number of turns at most: each is an If, whose else hands on what it has."""
    node, limit, carried = turns.node, turns.known(turns.node.inputs[0]), _present(turns.node.inputs[2:])
    if limit is None or isinstance(carried, No) or any(is_read(out) for out in node.outputs[len(carried) :]):
        return No(_GOES_ON, fix=_FIX)
    most = int(limit.reshape(()))
    if most > _MOST_TURNS:
        return No(f"{_GOES_ON}, and there may be more than {_MOST_TURNS} turns", fix=_FIX)
    why = turns.refusal(most)
    if why is not None:
        return why
    w = Writer(turns.editor, node)
    going = operand(node, 1)
    if going is None:
        going = w.const(True, np.bool_)
    while turns.count < most:
        results = _maybe(turns, [w.const(turns.count, np.int64), going, *carried], open_if)
        if isinstance(results, No):
            return results
        going, *carried = results
    return [*carried, *(None for _ in node.outputs[len(carried) :])]


def _maybe(turns: _Turns, inputs: list[ir.Value], open_if: OpenIf) -> list[ir.Value] | No:
    """One turn that takes place where the second of ``inputs`` is true: the condition after it, and what it carries."""
    editor, node, count = turns.editor, turns.node, len(inputs) - 1
    w = Writer(editor, node)
    turns.count += 1
    then = turns.inliner.branch(inputs)
    over = w.const(False, np.bool_)
    other = branch_of(editor, [], [over, *inputs[2:]], editor.name(f"{node.name}/over"))
    flat = ir.Node(
        "", "Reshape", [then.outputs[0], w.ints()], outputs=[ir.Value(name=editor.name(f"{node.name}/goes"))]
    )
    flat.outputs[0].type = over.type
    then.append(flat)
    del then.outputs[count:]
    then.outputs[0] = flat.outputs[0]
    made = [ir.Value(name=editor.name(f"{node.name}/turn"), type=value.type) for value in (over, *inputs[2:])]
    attributes = [ir.AttrGraph("then_branch", then), ir.AttrGraph("else_branch", other)]
    choice = ir.Node("", "If", [inputs[1]], attributes, outputs=made, name=editor.name(f"{node.name}/if"))
    editor.graph.insert_before(node, choice)
    ends = [ir.node("Identity", [value]) for value in made]
    for end in ends:
        end.name, end.outputs[0].name = editor.name(f"{node.name}/end"), editor.name(f"{node.name}/end")
        editor.graph.insert_before(node, end)
    answer = open_if(choice)
    results = [end.inputs[0] for end in ends]
    for end in ends:
        editor.graph.remove(end, safe=True)
    if answer is not None:
        discard(choice)
        return answer
    return [value for value in results if value is not None]


def _stays_true(node: ir.Node, known: Known) -> bool:
    """Whether the condition of a Loop that has begun is handed on, or is always true."""
    body = node.attributes["body"].as_graph()
    value: ir.Value | None = body.outputs[0]
    while (source := maker(value, "Identity")) is not None:
        value = source.inputs[0]
    found = known(value)
    return value is body.inputs[1] or (found is not None and bool(found.reshape(())))


def _axes(node: ir.Node, name: str, count: int) -> _Axes:
    return [int(i) for i in node.attributes.get_ints(name, [0] * count)]


def _scan(turns: _Turns) -> Results:
    """Inputs: states, then tensors that turns read slice by slice. Outputs: states, then slices piled up."""
    node, body = turns.node, turns.node.attributes["body"].as_graph()
    inputs = _present(node.inputs)
    if isinstance(inputs, No):
        return inputs
    read = node.attributes["num_scan_inputs"].as_int()
    states, tensors = inputs[: len(inputs) - read], inputs[len(inputs) - read :]
    axes, backwards = _axes(node, "scan_input_axes", read), _axes(node, "scan_input_directions", read)
    shapes = [shape_of(tensor) for tensor in tensors]
    if any(shape and not -len(shape) <= axis < len(shape) for shape, axis in zip(shapes, axes, strict=True)):
        return No("an axis that it reads along is not there")
    lengths = {shape[axis] if shape else None for shape, axis in zip(shapes, axes, strict=True)}
    length = lengths.pop() if len(lengths) == 1 else None
    if not isinstance(length, int):
        return No("its number of turns depends on a shape that is not fixed", fix="fix that dimension with --shapes")
    why = turns.refusal(length)
    if why is not None:
        return why
    made = node.outputs[len(states) :]
    stacks: list[list[ir.Value]] = [[] for _ in made]
    w = Writer(turns.editor, node)
    for turn in range(length):
        places = [length - 1 - turn if back else turn for back in backwards]
        slices = [_slice(w, *row) for row in zip(tensors, places, axes, strict=True)]
        outputs = turns.add([*states, *slices])
        for stack, value in zip(stacks, outputs[len(states) :], strict=True):
            stack.append(value)
        states = outputs[: len(states)]
    out_axes, out_back = _axes(node, "scan_output_axes", len(made)), _axes(node, "scan_output_directions", len(made))
    ordered = [stack[::-1] if back else stack for stack, back in zip(stacks, out_back, strict=True)]
    inner = body.outputs[len(states) :]
    return _settled([*states, *(turns.pile(*row) for row in zip(made, ordered, inner, out_axes, strict=True))])


def _slice(w: Writer, tensor: ir.Value, place: int, axis: int) -> ir.Value:
    """One slice along ``axis``, without it."""
    rank = len(tensor.shape or ())
    axis = axis % rank
    return w("Squeeze", w("Slice", tensor, w.ints(place), w.ints(place + 1), w.ints(axis)), w.ints(axis))


def _map(turns: _Turns) -> Results:
    """Inputs: a sequence, then sequences of its length or tensors for all turns. Outputs: sequences."""
    node = turns.node
    inputs = _present(node.inputs)
    if isinstance(inputs, No):
        return inputs
    rows: list[list[ir.Value] | ir.Value] = []
    for value in inputs:
        if not isinstance(value.type, ir.SequenceType):
            rows.append(value)
            continue
        source = maker(value, "SequenceConstruct")
        if source is None:
            return No("the elements of its sequence are not known when building")
        rows.append([v for v in source.inputs if v is not None])
    first = rows[0]
    if not isinstance(first, list) or any(isinstance(row, list) and len(row) != len(first) for row in rows):
        return No("its sequences have several lengths")
    why = turns.refusal(len(first))
    if why is not None:
        return why
    stacks: list[list[ir.Value]] = [[] for _ in node.outputs]
    for turn in range(len(first)):
        made = turns.add([row[turn] if isinstance(row, list) else row for row in rows])
        for stack, value in zip(stacks, made, strict=True):
            stack.append(value)
    w = Writer(turns.editor, node)
    results: list[ir.Value | None] = []
    for out, stack in zip(node.outputs, stacks, strict=True):
        whole = w("SequenceConstruct", *stack)
        whole.type = out.type
        results.append(whole)
    return results


_WAYS: dict[str, Callable[[_Turns], Results]] = {"Loop": _loop, "Scan": _scan, "SequenceMap": _map}
