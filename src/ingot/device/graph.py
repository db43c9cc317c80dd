"""Explicit CUDA graphs: nodes with true dependencies, instantiated once or more often, and updated node by node.

Updating a whole executable graph by another graph has been seen to return success and compute wrong results. Only
parameters of single nodes are set here, in an executable of the same graph: addresses, numbers, grids and tensor
maps. Function, cluster and edges of a node stay what they were.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import repeat
from typing import Any

from ingot.device.driver import check, cuda, entry_point
from ingot.device.launch import Grid, KernelArgs
from ingot.device.module import Function
from ingot.device.stream import Stream

Node = int
"""Handle of one node, for ``after`` and ``programmatic`` of later ones."""
_WORD = ctypes.c_void_p
_PROGRAMMATIC = bytes([1, 0, 1, 0, 0, 0, 0, 0])
"""CUgraphEdgeData: from the programmatic port of a kernel node, of the programmatic type."""
_COOPERATIVE, _CLUSTER = 2, 4
"""CU_LAUNCH_ATTRIBUTE_COOPERATIVE, CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION"""


@cache
def _add_node() -> Any:
    """cuGraphAddNode(node*, graph, dependencies*, edge data*, count, parameters*), of CUDA 12.3."""
    kinds = (_WORD, _WORD, _WORD, _WORD, ctypes.c_size_t, _WORD)
    return ctypes.CFUNCTYPE(ctypes.c_int, *kinds)(entry_point("cuGraphAddNode", 12030))


@cache
def _set_attribute() -> Any:
    """cuGraphKernelNodeSetAttribute(node, attribute, value*)."""
    kinds = (_WORD, ctypes.c_int, _WORD)
    return ctypes.CFUNCTYPE(ctypes.c_int, *kinds)(entry_point("cuGraphKernelNodeSetAttribute", 11000))


@cache
def _set_parameters() -> Any:
    """cuGraphExecNodeSetParams(executable, node, parameters*), of CUDA 12.2; to be called with ctypes' objects.

    Without declared types a call costs half as much.
    """
    return ctypes.CFUNCTYPE(ctypes.c_int)(entry_point("cuGraphExecNodeSetParams", 12020))


class Executable:
    """An instantiated graph, in the driver and on the device."""

    def __init__(self, handle: Any) -> None:
        """Owns ``handle``."""
        self.handle = handle
        self._word = _WORD(int(handle))
        self._destroy = cuda().cuGraphExecDestroy

    def update(self, nodes: Iterable[ctypes.c_void_p], parameters: Iterable[ctypes.c_void_p]) -> bool:
        """Give the nodes, of the graph that this was made from, the ``CUgraphNodeParams`` at the addresses.

        Launches that were submitted before are not affected. False where the driver refuses one, for example because
        a copy is not of consecutive bytes: then some nodes are as before and others are not.
        """
        return not any(map(_set_parameters(), repeat(self._word), nodes, parameters))

    def __del__(self) -> None:
        if hasattr(self, "_destroy"):
            self._destroy(self.handle)


class Graph:
    """A graph ready to launch: one launch replays it."""

    def __init__(
        self, executable: Executable, keep: object, leave: Callable[[Executable], object] | None = None
    ) -> None:
        """``keep`` holds what the graph's nodes use. ``leave`` is given the executable when nobody holds the Graph."""
        self._executable, self._keep, self._leave = executable, keep, leave
        self._handle = executable.handle
        self._launch = cuda().cuGraphLaunch

    def launch(self, stream: Stream) -> None:
        """Submit the whole graph."""
        result = self._launch(self._handle, stream.handle)
        if result[0] != 0:
            check(result, "launching a CUDA graph")

    def upload(self, stream: Stream) -> None:
        """Send the graph to the device ahead of its first launch."""
        check(cuda().cuGraphUpload(self._handle, stream.handle), "uploading a CUDA graph")

    def __del__(self) -> None:
        leave = getattr(self, "_leave", None)
        if leave is not None:
            leave(self._executable)


def copy_parameters(to: int, source: int, size: int, rows: int = 1, pitch: int = 0) -> Any:
    """``CUgraphNodeParams`` of what :meth:`GraphBuilder.add_copy` adds, as the bindings' object."""
    driver = cuda()
    params = driver.CUgraphNodeParams()
    params.type = driver.CUgraphNodeType.CU_GRAPH_NODE_TYPE_MEMCPY
    copy = driver.CUDA_MEMCPY3D()
    copy.srcMemoryType = copy.dstMemoryType = driver.CUmemorytype.CU_MEMORYTYPE_UNIFIED
    copy.srcDevice, copy.dstDevice = source, to
    copy.WidthInBytes, copy.Height, copy.Depth = size, rows, 1
    if rows > 1:
        copy.srcPitch = copy.dstPitch = pitch
    params.memcpy.copyParams = copy
    params.memcpy.copyCtx = check(driver.cuCtxGetCurrent())
    return params


class GraphBuilder:
    """A graph under construction. ``after``: nodes that must have finished first."""

    def __init__(self) -> None:
        driver = cuda()
        self._driver = driver
        self._graph = check(driver.cuGraphCreate(0), "creating a CUDA graph")
        self._keep: list[object] = []
        self._kernel_type = driver.CUgraphNodeType.CU_GRAPH_NODE_TYPE_KERNEL
        self._handle = int(self._graph)
        self._call = _add_node()
        self._made = ctypes.c_void_p()
        self._made_at = ctypes.addressof(self._made)

    def add_kernel(
        self,
        function: Function,
        grid: Grid,
        block: int,
        args: KernelArgs,
        *,
        after: Sequence[Node] = (),
        programmatic: Sequence[Node] = (),
    ) -> Node:
        """A launch of ``block`` threads per block.

        ``programmatic`` nodes (kernels, not also in ``after``) need only have triggered or ended:
        the function must execute ``griddepcontrol.wait`` before it touches what they write.
        """
        params = self._driver.CUgraphNodeParams()
        params.type = self._kernel_type
        kernel = params.kernel
        kernel.func = function.handle
        kernel.gridDimX, kernel.gridDimY, kernel.gridDimZ = grid
        kernel.blockDimX, kernel.blockDimY, kernel.blockDimZ = block, 1, 1
        kernel.sharedMemBytes = function.shared
        kernel.kernelParams = args.address
        what = f"{function.name} with grid {grid}, {block} threads, {function.shared} bytes shared"
        node = self._add(params.getPtr(), after, programmatic, what)
        self._set_attributes(node, function)
        self._keep.append(function)
        return node

    def add_prepared(
        self, parameters: int, function: Function, *, after: Sequence[Node] = (), programmatic: Sequence[Node] = ()
    ) -> Node:
        """As :meth:`add_kernel` with ``CUgraphNodeParams`` that lie ready at the address ``parameters``.

        The caller keeps ``function`` loaded as long as the graph.
        """
        node = self._add(parameters, after, programmatic, function.name)
        self._set_attributes(node, function)
        return node

    def add_copy(
        self, to: int, source: int, size: int, *, rows: int = 1, pitch: int = 0, after: Sequence[Node] = ()
    ) -> Node:
        """A copy of ``rows`` times ``size`` > 0 bytes between device or page-locked host addresses.

        From one row to the next are ``pitch`` bytes, on both sides.
        """
        params = copy_parameters(to, source, size, rows, pitch)
        return self._add(params.getPtr(), after, (), f"a copy of {size} bytes")

    def add_fill(self, pointer: int, value: int, size: int, *, after: Sequence[Node] = ()) -> Node:
        """Set ``size`` > 0 bytes of device memory to ``value`` (0 to 255)."""
        params = self._driver.CUgraphNodeParams()
        params.type = self._driver.CUgraphNodeType.CU_GRAPH_NODE_TYPE_MEMSET
        fill = params.memset
        fill.dst, fill.value, fill.elementSize = pointer, value, 1
        fill.width, fill.height, fill.pitch = size, 1, 0
        fill.ctx = check(self._driver.cuCtxGetCurrent())
        return self._add(params.getPtr(), after, (), f"a fill of {size} bytes")

    def instantiate(self) -> Graph:
        """The graph ready to launch; the builder may go."""
        return Graph(self.executable(), self._keep)

    def executable(self) -> Executable:
        """The graph instantiated once more. Its nodes can be updated as long as there is this builder."""
        return Executable(check(self._driver.cuGraphInstantiate(self._graph, 0), "instantiating a CUDA graph"))

    def keep(self, what: object) -> None:
        """Hold ``what`` as long as the graph."""
        self._keep.append(what)

    def _add(self, parameters: int, after: Sequence[Node], programmatic: Sequence[Node], what: str) -> Node:
        count = len(after) + len(programmatic)
        before = edges = None
        if count:
            before = (_WORD * count)(*after, *programmatic)
            if programmatic:
                edges = bytes(8 * len(after)) + _PROGRAMMATIC * len(programmatic)
        code = self._call(self._made_at, self._handle, before, edges, count, parameters)
        if code:
            check((code,), f"adding {what}")
        assert self._made.value is not None
        return self._made.value

    def _set_attributes(self, node: Node, function: Function) -> None:
        if function.cluster > 1:
            self._set(node, _CLUSTER, (function.cluster, 1, 1), f"setting clusters of {function.cluster}")
        if function.cooperative:
            self._set(node, _COOPERATIVE, (1,), f"making the blocks of {function.name} run at the same time")

    def _set(self, node: Node, attribute: int, values: tuple[int, ...], what: str) -> None:
        value = (ctypes.c_uint32 * 16)(*values)
        code = _set_attribute()(node, attribute, ctypes.addressof(value))
        if code:
            check((code,), what)

    def __del__(self) -> None:
        if hasattr(self, "_graph"):
            self._driver.cuGraphDestroy(self._graph)
