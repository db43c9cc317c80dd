"""Mutated ONNX files, each imported: run as a program, so that a crash of native code ends only this process.

``python mutations.py SEED COUNT FILE`` writes the number of the file in hand to FILE before each import, and
prints what is neither a model nor an IngotError.
"""

from __future__ import annotations

import itertools
import math
import random
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import onnx
from google.protobuf.message import Message
from onnx import parser

from ingot.builder.api import build_hollow
from ingot.errors import IngotError
from ingot.importer.load import import_model
from ingot.options import BuildOptions

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a program, by its path

from support.any_graphs import model_of
from support.any_ops import seeded
from support.old_ops import old_ops
from support.onnx_text import one_node

WRITTEN = 5
"""Models written out here."""
GROWN = 5
"""Random graphs with control flow, which follow; the rest is one node each."""
_CONTROL = {"If", "Loop", "Scan"}
SECONDS = 20
"""Longest time that one small file may take."""
HEAD = '<ir_version: {}, opset_import: ["" : {}, "f" : 1, "com.acme" : 1]>\n'
PLAIN = """
g (float[N,3,8,8] x, float[4] b = {1, 2, 3, 4}) => (float[N,6] y, float[N,4,K,K] z)
<float[4,3,3,3] w, float[4,6] m> {
    c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]> (x, w, b)
    z = MaxPool <kernel_shape = [2, 2], strides = [2, 1]> (c)
    p = GlobalAveragePool (z)
    f = Flatten <axis = 1> (p)
    d = MatMul (f, m)
    y = Softmax <axis = 1> (d)
}
"""
SHAPES = """
g (float[N,S,8] x, int64[1] n) => (float[N,S,2,4] y, float[Q] z) {
    s = Shape (x)
    two = Constant <value = int64[2] {2, 4}> ()
    zero = Constant <value = int64[1] {0}> ()
    head = Slice <starts = [0], ends = [2]> (s)
    t = Concat <axis = 0> (head, two)
    y = Reshape (x, t)
    r = ReduceMean <axes = [1, 2], keepdims = 0> (x)
    u = Unsqueeze <axes = [0]> (r)
    q = Squeeze <axes = [0]> (u)
    k, i = TopK <axis = 0, k = 1> (q)
    v = Upsample <mode = "nearest", scales = [1.0, 2.0]> (k)
    e = com.acme.Magic <a = 3, b = "text"> (v, n)
    z = Clip <min = 0.0, max = 6.0> (e)
}
"""
CONTROL = """
g (float[N,4] x, bool c, int64 n) => (float[N,4] y, float[M,4] w) {
    h = f.twice <k = 1> (x)
    y = If (c) <
        then_branch = t () => (float[N,4] r) { a = Softmax <axis = 0> (h) r = Relu (a) },
        else_branch = e () => (float[N,4] s) { s = f.twice <k = 0> (x) }
    >
    w = Loop (n, c, y) <body = b (int64 i, bool go, float[N,4] v) => (bool stay, float[N,4] o) {
        stay = Identity (go)
        o = Add (v, h)
    }>
}
<domain: "f", opset_import: ["" : 17, "f" : 1]>
twice <k> (p) => (q) { d = Softmax <axis: int = @k> (p) q = f.add (d, p) }
<domain: "f", opset_import: ["" : 17]>
add (a, b) => (c) { c = Add (a, b) }
"""


def originals() -> list[onnx.ModelProto]:
    """Small models with what the importer looks at: weights, old ops, shape arithmetic, control flow, functions."""
    texts = [(4, 9, PLAIN), (8, 17, PLAIN), (10, 21, PLAIN), (7, 8, SHAPES), (8, 17, CONTROL)]
    models = [parser.parse_model(HEAD.format(ir, opset) + text) for ir, opset, text in texts]
    for model in models:
        declared = {value.name: value for value in model.graph.value_info}
        for name in ("w", "m"):
            if name in declared:  # the parser takes weights without values for inner ones
                dims = [dim.dim_value for dim in declared[name].type.tensor_type.shape.dim]
                size = 4 * math.prod(dims)
                model.graph.initializer.add(name=name, data_type=1, dims=dims, raw_data=bytes(size))
    grown = (model_of([seeded(seed, 8, "g_")]) for seed in itertools.count())
    models += itertools.islice((m for m in grown if {n.op_type for n in m.graph.node} & _CONTROL), GROWN)
    for case in old_ops():
        models.append(one_node(case.op, case.first, case.inputs, case.attributes, case.constants, case.outputs)[0])
    return models


NUMBERS = (-(1 << 63), -(1 << 31), -2, -1, 0, 1, 2, 3, 7, 64, 255, 1 << 16, 1 << 31, 1 << 40, (1 << 63) - 1)
WORDS = (
    "", "x", "y", "c", "w", "N", "?", "N+1", "N//0", "max(N)", "ai.onnx", "f", "twice", "Relu", "Add", "If", "Loop",
    "Scan", "Split", "Resize", "Slice", "Reshape", "Constant", "\0", "a b", "n" * 300, "axis", "axes",
)  # fmt: skip


def _messages(message: Message) -> list[Message]:
    """The message and all below it."""
    found, stack = [], [message]
    while stack:
        one = stack.pop()
        found.append(one)
        for field, value in one.ListFields():
            if field.message_type is not None:
                stack.extend(value if field.is_repeated else [value])
    return found


def _value(random_: random.Random, field: object, old: object) -> object:
    if isinstance(old, float):
        return random_.choice((0.0, 1.0, -1.0, 1e30, float("nan")))
    if isinstance(old, int):
        return random_.choice(NUMBERS)
    if isinstance(old, bytes):
        return random_.choice((b"", old[:-1], old + b"\0", bytes(4), b"\xff\xfe"))
    return random_.choice(WORDS)


def alter(random_: random.Random, model: onnx.ModelProto) -> None:
    """Changes one field of one message: another value, gone, or, where it is repeated, doubled or moved."""
    message = random_.choice(_messages(model))
    fields = message.ListFields()
    if not fields:
        return
    field, value = random_.choice(fields)
    try:
        if not field.is_repeated:
            if field.message_type is not None or random_.random() < 0.3:
                message.ClearField(field.name)
            else:
                setattr(message, field.name, _value(random_, field, value))
            return
        index = random_.randrange(len(value))
        match random_.randrange(4):
            case 0:
                del value[index]
            case 1:
                if field.message_type is not None:
                    value.add().CopyFrom(value[index])
                else:
                    value.append(value[index])
            case 2 if field.message_type is None:
                value[index] = _value(random_, field, value[index])
            case _:
                value.reverse() if hasattr(value, "reverse") else value.sort(key=id)
    except (ValueError, TypeError, OverflowError):
        pass  # the value does not fit the field


def scramble(random_: random.Random, content: bytes) -> bytes:
    """Changes bytes: flipped, cut off, removed, doubled or overwritten."""
    data = bytearray(content)
    for _ in range(random_.randint(1, 4)):
        start = random_.randrange(len(data))
        length = random_.randint(1, 16)
        match random_.randrange(5):
            case 0:
                data[start] ^= 1 << random_.randrange(8)
            case 1:
                del data[start : start + length]
            case 2:
                data[start:start] = data[start : start + length]
            case 3:
                data[start : start + length] = random_.randbytes(length)
            case _:
                del data[max(start, len(data) * 3 // 4) :]
        if not data:
            return b""
    return bytes(data)


def mutated(seed: int, number: int, models: list[onnx.ModelProto]) -> bytes:
    """File ``number`` of the series ``seed``: always the same."""
    random_ = random.Random(f"{seed}/{number}")
    model = onnx.ModelProto()
    # Half of the files come from the models that are written out above, and those that are grown.
    model.CopyFrom(random_.choice(models[: WRITTEN + GROWN] if random_.random() < 0.5 else models))
    if random_.random() < 0.3:
        return scramble(random_, model.SerializeToString())
    for _ in range(random_.choice((1, 1, 1, 2, 3, 6))):
        alter(random_, model)
    try:
        return model.SerializeToString()
    except ValueError:
        return b""  # text that is not UTF-8


def _overdue(signum: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"longer than {SECONDS} s")


def attempt(content: bytes, any_size: bool, importing: Callable[..., object] = import_model) -> str:
    """Empty where the file was imported or refused; otherwise what happened."""
    signal.alarm(SECONDS)
    try:
        importing(content, any_size=any_size)
    except IngotError as error:
        return "" if len(str(error)) < 2000 else f"a message of {len(str(error))} characters"
    except BaseException:
        return traceback.format_exc(limit=-6)
    finally:
        signal.alarm(0)
    return ""


def through_build(content: bytes, *, any_size: bool) -> None:
    """The whole way to an engine, without compiling kernels: for a GPU, or for the CPU with ``any_size``."""
    build_hollow(content, BuildOptions("cpu" if any_size else "sm_90", opt_level=0))


def main(seed: int, count: int, progress: Path, importing: Callable[..., object] = import_model) -> int:
    signal.signal(signal.SIGALRM, _overdue)
    models = originals()
    bad = 0
    with progress.open("w") as file:
        for number in range(count):
            file.seek(0)
            file.write(f"{seed}/{number}\n")
            file.flush()
            problem = attempt(mutated(seed, number, models), number % 2 == 0, importing)
            if problem:
                bad += 1
                print(f"file {seed}/{number}: {problem}")
    return 1 if bad else 0


if __name__ == "__main__":
    way = through_build if sys.argv[4:] == ["build"] else import_model
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), way))
