"""The whole post-processing of a YOLOv8 detector on the device: boxes out of the raw head, best class, the best
candidates by score, suppression of those that overlap a better one of their class, and a count.

The number of results has a fixed upper bound, so that nothing waits for the host: unused rows are zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ingot.errors import IngotError
from ingot.graph.dims import Bindings, ceildiv, evaluate_shape, mul
from ingot.plugins.api import (
    Array,
    Attribute,
    Attrs,
    AttrType,
    CudaLaunch,
    In,
    Kernels,
    Node,
    Number,
    Out,
    Plugin,
    Scratch,
    TensorInfo,
    Work,
)
from ingot.plugins.cuda import defines, storage_type

if TYPE_CHECKING:
    import onnx

DOMAIN = "ingot.examples"
_MOST = 1024
"""Candidates that one block sorts and compares."""

_DECODE = """
// Key of an anchor: its best score above, the complement of its number below, so that keys differ and sort by score,
// equal scores by number; 0 where the score is too low.
extern "C" __global__ void yolo_decode(const TYPE* head, unsigned long long* keys, int* kinds, int anchors) {
  pdl_wait();
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= anchors) return;
  const TYPE* column = head + (long long)blockIdx.y * (4 + CLASSES) * anchors + i;
  float best = (float)column[4ll * anchors];
  int kind = 0;
  for (int c = 1; c < CLASSES; ++c) {
    float score = (float)column[(4ll + c) * anchors];
    if (score > best) { best = score; kind = c; }
  }
  long long at = (long long)blockIdx.y * anchors + i;
  kinds[at] = kind;
  keys[at] = best > SCORE ? (unsigned long long)__float_as_uint(best) << 32 | (0xffffffffu - (unsigned)i) : 0ull;
}
"""
_SELECT = """
// The CANDIDATES largest keys of an image, sorted: the least of them byte by byte, then a bitonic sort.
extern "C" __global__ void yolo_select(const unsigned long long* keys, const int* kinds, const TYPE* head,
                                       float* boxes, float* scores, int* classes, int* counts, int anchors) {
  __shared__ unsigned long long found[CANDIDATES];
  __shared__ int histogram[256];
  __shared__ unsigned long long least;
  __shared__ int wanted, taken;
  int t = threadIdx.x;
  pdl_wait();
  const unsigned long long* mine = keys + (long long)blockIdx.x * anchors;
  if (t == 0) { least = 0; wanted = CANDIDATES; taken = 0; }
  for (int i = t; i < CANDIDATES; i += blockDim.x) found[i] = 0;
  for (int shift = 56; shift >= 0; shift -= 8) {
    for (int i = t; i < 256; i += blockDim.x) histogram[i] = 0;
    __syncthreads();
    unsigned long long known = shift == 56 ? 0 : ~0ull << (shift + 8), prefix = least;
    for (int i = t; i < anchors; i += blockDim.x) {
      unsigned long long key = mine[i];
      if ((key & known) == prefix) atomicAdd(&histogram[(int)(key >> shift & 255)], 1);
    }
    __syncthreads();
    if (t == 0) {
      int left = wanted, byte = 255;
      while (byte > 0 && histogram[byte] < left) left -= histogram[byte--];
      wanted = left;
      least = prefix | (unsigned long long)byte << shift;
    }
    __syncthreads();
  }
  for (int i = t; i < anchors; i += blockDim.x) {
    unsigned long long key = mine[i];
    if (key != 0 && key >= least) found[atomicAdd(&taken, 1)] = key;
  }
  __syncthreads();
  for (int size = 2; size <= CANDIDATES; size *= 2)
    for (int step = size / 2; step > 0; step /= 2) {
      for (int i = t; i < CANDIDATES; i += blockDim.x) {
        int other = i ^ step;
        bool falling = (i & size) == 0;
        if (other > i && (found[i] < found[other]) == falling) {
          unsigned long long key = found[i];
          found[i] = found[other];
          found[other] = key;
        }
      }
      __syncthreads();
    }
  if (t == 0) counts[blockIdx.x] = taken;
  for (int j = t; j < taken; j += blockDim.x) {
    unsigned long long key = found[j];
    int i = (int)(0xffffffffu - (unsigned)key);
    const TYPE* column = head + (long long)blockIdx.x * (4 + CLASSES) * anchors + i;
    float x = (float)column[0], y = (float)column[anchors];
    float w = (float)column[2ll * anchors] * 0.5f, h = (float)column[3ll * anchors] * 0.5f;
    int at = blockIdx.x * CANDIDATES + j;
    boxes[4 * at] = x - w;
    boxes[4 * at + 1] = y - h;
    boxes[4 * at + 2] = x + w;
    boxes[4 * at + 3] = y + h;
    scores[at] = __uint_as_float((unsigned)(key >> 32));
    classes[at] = kinds[(long long)blockIdx.x * anchors + i];
  }
}
"""
_OVERLAP = """
// Products rounded by themselves: fused into a sum, they could tip a comparison over.
#ifdef INGOT_HOST
#define TIMES(a, b) ((a) * (b))
#else
#define TIMES(a, b) __fmul_rn(a, b)
#endif
// Bit j of row i: candidate j of the 64 columns of this block overlaps the better candidate i of its class.
extern "C" __global__ void yolo_overlap(const float* boxes, const int* classes, const int* counts,
                                        unsigned long long* rows) {
  __shared__ float other[64][4];
  __shared__ int kind[64];
  int t = threadIdx.x, image = blockIdx.z, i = blockIdx.x * 64 + t, j0 = blockIdx.y * 64;
  pdl_wait();
  int count = counts[image];
  const float* box = boxes + 4ll * image * CANDIDATES;
  if (j0 + t < count) {
    for (int c = 0; c < 4; ++c) other[t][c] = box[4 * (j0 + t) + c];
    kind[t] = classes[image * CANDIDATES + j0 + t];
  }
  __syncthreads();
  if (i >= count) return;
  float x1 = box[4 * i], y1 = box[4 * i + 1], x2 = box[4 * i + 2], y2 = box[4 * i + 3];
  float area = TIMES(x2 - x1, y2 - y1);
  int own = classes[image * CANDIDATES + i];
  unsigned long long bits = 0;
  for (int k = 0; k < 64 && j0 + k < count; ++k) {
    if (j0 + k <= i || kind[k] != own) continue;
    float w = ingot_min(x2, other[k][2]) - ingot_max(x1, other[k][0]);
    float h = ingot_min(y2, other[k][3]) - ingot_max(y1, other[k][1]);
    if (w <= 0.0f || h <= 0.0f) continue;
    float shared = TIMES(w, h);
    float both = area + TIMES(other[k][2] - other[k][0], other[k][3] - other[k][1]) - shared;
    if (shared / both > IOU) bits |= 1ull << k;
  }
  rows[((long long)image * CANDIDATES + i) * WORDS + blockIdx.y] = bits;
}
"""
_KEEP = """
// From the best candidate down: one that no kept one suppresses is kept, until the results are full.
extern "C" __global__ void yolo_keep(const float* boxes, const float* scores, const int* classes, const int* counts,
                                     const unsigned long long* rows, float* out_boxes, float* out_scores,
                                     int* out_classes, int* out_count) {
  __shared__ unsigned long long gone[WORDS];
  __shared__ int slots[DETECTIONS];
  __shared__ int kept;
  int t = threadIdx.x, image = blockIdx.x;
  pdl_wait();
  int count = counts[image];
  if (t < WORDS) gone[t] = 0;
  if (t == 0) kept = 0;
  __syncthreads();
  for (int i = 0; i < count; ++i) {
    bool free = (gone[i / 64] >> (i % 64) & 1) == 0;
    int slot = kept;
    if (slot == DETECTIONS) break;
    __syncthreads();
    if (free && t < WORDS && 64 * t + 63 > i) gone[t] |= rows[((long long)image * CANDIDATES + i) * WORDS + t];
    if (free && t == 0) { slots[slot] = i; kept = slot + 1; }
    __syncthreads();
  }
  int total = kept;
  for (int s = t; s < DETECTIONS; s += blockDim.x) {
    int to = image * DETECTIONS + s, from = image * CANDIDATES + (s < total ? slots[s] : 0);
    for (int c = 0; c < 4; ++c) out_boxes[4ll * to + c] = s < total ? boxes[4ll * from + c] : 0.0f;
    out_scores[to] = s < total ? scores[from] : 0.0f;
    out_classes[to] = s < total ? classes[from] : 0;
  }
  if (t == 0) out_count[image] = total;
}
"""


def _shapes(node: Node) -> Sequence[TensorInfo]:
    """Boxes (left, top, right, bottom), scores, classes, and how many of the rows are results."""
    batch, most = node.input(0).shape[0], node.integer("detections")
    return [
        TensorInfo("float32", (batch, most, 4)),
        TensorInfo("float32", (batch, most)),
        TensorInfo("int32", (batch, most)),
        TensorInfo("int32", (batch,)),
    ]


def _reference(attrs: Attrs, inputs: Sequence[Array | None]) -> Sequence[Array]:
    (head,) = inputs
    assert head is not None
    score, iou = np.float32(attrs["score"]), np.float32(attrs["iou"])  # type: ignore[arg-type]
    most, candidates = int(attrs["detections"]), int(attrs["candidates"])  # type: ignore[arg-type]
    batch = len(head)
    boxes, scores = np.zeros((batch, most, 4), np.float32), np.zeros((batch, most), np.float32)
    classes, counts = np.zeros((batch, most), np.int32), np.zeros(batch, np.int32)
    for image, raw in enumerate(head):
        best, kinds = raw[4:].max(0), raw[4:].argmax(0).astype(np.int32)
        order = np.argsort(-best, kind="stable")
        order = order[best[order] > score][:candidates]
        x, y, w, h = raw[0], raw[1], raw[2] * np.float32(0.5), raw[3] * np.float32(0.5)
        corners = np.stack([x - w, y - h, x + w, y + h], -1)[order]
        kept = _suppressed(corners, kinds[order], iou, most)
        counts[image] = len(kept)
        boxes[image, : len(kept)] = corners[kept]
        scores[image, : len(kept)] = best[order][kept]
        classes[image, : len(kept)] = kinds[order][kept]
    return [boxes, scores, classes, counts]


def _suppressed(boxes: Array, kinds: Array, iou: np.float32, most: int) -> list[int]:
    """Indices of the boxes that stay, best first: greedy, each against the kept ones of its class."""
    gone = np.zeros(len(boxes), bool)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept: list[int] = []
    for i in range(len(boxes)):
        if gone[i]:
            continue
        if len(kept) == most:
            break
        kept.append(i)
        low, high = np.maximum(boxes[i, :2], boxes[:, :2]), np.minimum(boxes[i, 2:], boxes[:, 2:])
        size = high - low
        shared = np.where((size > 0).all(-1), size[:, 0] * size[:, 1], np.float32(0))
        with np.errstate(invalid="ignore", divide="ignore"):
            gone |= (shared / (areas[i] + areas - shared) > iou) & (kinds == kinds[i])
    return kept


def _accepts(node: Node) -> str:
    """What one block can hold."""
    candidates, most = node.integer("candidates"), node.integer("detections")
    if not 64 <= candidates <= _MOST or candidates & (candidates - 1):
        return f"{candidates} candidates: the kernels take a power of two from 64 to {_MOST}"
    if not 1 <= most <= _MOST:
        return f"{most} detections: the kernels take 1 to {_MOST}"
    if node.number("score") < 0:
        return "a negative threshold of the score"
    channels = node.input(0).shape[1]
    return "" if isinstance(channels, int) else "the number of classes is not known when building"


def _work(node: Node, tactic: Mapping[str, int]) -> Work:
    head = node.input(0)
    batch, channels, anchors = head.shape
    assert isinstance(channels, int)
    candidates = node.integer("candidates")
    header = defines({
        "TYPE": storage_type(head.dtype), "CLASSES": channels - 4, "CANDIDATES": candidates, "WORDS": candidates // 64,
        "DETECTIONS": node.integer("detections"), "SCORE": node.number("score"), "IOU": node.number("iou"),
    })  # fmt: skip
    count, block, words = Number(anchors, 4), tactic["block"], candidates // 64
    keys, kinds, boxes, scores, classes, counts, rows = (Scratch(i) for i in range(7))
    outputs = (Out(0), Out(1), Out(2), Out(3))
    launches = (
        CudaLaunch(header + _DECODE, "yolo_decode", (In(0), keys, kinds, count),
                   (ceildiv(anchors, 256), batch, 1), 256, waits=True),
        CudaLaunch(header + _SELECT, "yolo_select", (keys, kinds, In(0), boxes, scores, classes, counts, count),
                   (batch, 1, 1), block, waits=True),
        CudaLaunch(header + _OVERLAP, "yolo_overlap", (boxes, classes, counts, rows), (words, words, batch), 64,
                   waits=True),
        CudaLaunch(header + _KEEP, "yolo_keep", (boxes, scores, classes, counts, rows, *outputs), (batch, 1, 1), 32,
                   waits=True),
    )  # fmt: skip
    per_image = (mul(8, anchors), mul(4, anchors), 16 * candidates, 4 * candidates, 4 * candidates, 4)
    sizes = (*(mul(batch, size) for size in per_image), mul(batch, 8 * candidates * words))
    return Work(launches, sizes)


def _samples(node: Node, bindings: Bindings, generator: np.random.Generator) -> Sequence[Array]:
    """Boxes that overlap in crowds, with scores of which a few percent count."""
    batch, channels, anchors = evaluate_shape(node.input(0).shape, bindings)
    centres = generator.uniform(0, 640, (batch, 2, max(anchors // 40, 1)))
    crowd = generator.integers(0, centres.shape[2], anchors)
    places = centres[:, :, crowd] + generator.normal(0, 6, (batch, 2, anchors))
    sizes = generator.uniform(20, 60, (batch, 2, anchors))
    scores = generator.uniform(0, 1, (batch, channels - 4, anchors)) ** 8
    return [np.concatenate([places, sizes, scores], 1)]


YOLO_DETECTIONS = Plugin(
    domain=DOMAIN,
    name="YoloDetections",
    version="1",
    shapes=_shapes,
    reference=_reference,
    implementations=(Kernels("cuda", _work, ({"block": 1024}, {"block": 512}), _accepts),),
    attributes={
        "score": Attribute(AttrType.FLOAT, 0.25),
        "iou": Attribute(AttrType.FLOAT, 0.45),
        "detections": Attribute(AttrType.INT, 300),
        "candidates": Attribute(AttrType.INT, 1024),
    },
    dtypes=frozenset({"float32", "float16", "int32"}),
    samples=_samples,
)


def with_detections(model: onnx.ModelProto, **attributes: Any) -> onnx.ModelProto:
    """A copy of a detector whose first output, the raw head ``[N, 4 + classes, anchors]``, is replaced by detections.

    ``attributes``: those of the plugin: ``score``, ``iou``, ``detections``, ``candidates``. Raises IngotError where the
    model has no output.
    """
    import onnx
    from onnx import helper

    if not model.graph.output:
        raise IngotError("the model has no output")
    made = onnx.ModelProto()
    made.CopyFrom(model)
    head = made.graph.output[0].name
    names = ["boxes", "scores", "classes", "count"]
    node = helper.make_node(YOLO_DETECTIONS.name, [head], names, name="detections", domain=DOMAIN, **attributes)
    made.graph.node.append(node)
    types = [onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT, onnx.TensorProto.INT32, onnx.TensorProto.INT32]
    infos = [helper.make_tensor_value_info(n, t, None) for n, t in zip(names, types, strict=True)]
    rest = list(made.graph.output)[1:]
    del made.graph.output[:]
    made.graph.output.extend([*infos, *rest])
    made.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return made
