"""Explicit CUDA graphs: nodes with true dependencies, instantiated once, never updated.

Updating an instantiated graph has been seen to return success and compute wrong results, so a
graph whose addresses or shapes change is built again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ingot.device.driver import check, cuda
from ingot.device.launch import Grid, KernelArgs
from ingot.device.module import Function
from ingot.device.stream import Stream

Node = Any
"""Handle of one node, for ``after`` and ``programmatic`` of later ones."""


class Graph:
    """An instantiated graph: one launch replays it."""

    def __init__(self, handle: Any, keep: Sequence[object]) -> None:
        """Made by :meth:`GraphBuilder.instantiate`. ``keep`` holds what the graph's nodes use."""
        driver = cuda()
        self.handle = handle
        self._keep = keep
        self._launch = driver.cuGraphLaunch
        self._destroy = driver.cuGraphExecDestroy

    def launch(self, stream: Stream) -> None:
        """Submit the whole graph."""
        result = self._launch(self.handle, stream.handle)
        if result[0] != 0:
            check(result, "launching a CUDA graph")

    def upload(self, stream: Stream) -> None:
        """Send the graph to the device ahead of its first launch."""
        check(cuda().cuGraphUpload(self.handle, stream.handle), "uploading a CUDA graph")

    def __del__(self) -> None:
        if hasattr(self, "handle"):
            self._destroy(self.handle)


class GraphBuilder:
    """A graph under construction. ``after``: nodes that must have finished first."""

    def __init__(self) -> None:
        driver = cuda()
        self._driver = driver
        self._graph = check(driver.cuGraphCreate(0), "creating a CUDA graph")
        self._keep: list[object] = []
        self._kernel_type = driver.CUgraphNodeType.CU_GRAPH_NODE_TYPE_KERNEL
        self.nodes = 0

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
        what = f"adding {function.name} with grid {grid}, {block} threads, {function.shared} bytes shared"
        node = self._add(params, after, programmatic, what)
        if function.cluster > 1:
            self._set_cluster(node, function.cluster)
        self._keep.append(function)
        return node

    def add_copy(
        self, to: int, source: int, size: int, *, rows: int = 1, pitch: int = 0, after: Sequence[Node] = ()
    ) -> Node:
        """A copy of ``rows`` times ``size`` > 0 bytes between device or page-locked host addresses.

        From one row to the next are ``pitch`` bytes, on both sides.
        """
        unified = self._driver.CUmemorytype.CU_MEMORYTYPE_UNIFIED
        params = self._driver.CUgraphNodeParams()
        params.type = self._driver.CUgraphNodeType.CU_GRAPH_NODE_TYPE_MEMCPY
        copy = self._driver.CUDA_MEMCPY3D()
        copy.srcMemoryType = copy.dstMemoryType = unified
        copy.srcDevice, copy.dstDevice = source, to
        copy.WidthInBytes, copy.Height, copy.Depth = size, rows, 1
        if rows > 1:
            copy.srcPitch = copy.dstPitch = pitch
        params.memcpy.copyParams = copy
        params.memcpy.copyCtx = check(self._driver.cuCtxGetCurrent())
        return self._add(params, after, (), f"adding a copy of {size} bytes")

    def add_fill(self, pointer: int, value: int, size: int, *, after: Sequence[Node] = ()) -> Node:
        """Set ``size`` > 0 bytes of device memory to ``value`` (0 to 255)."""
        params = self._driver.CUgraphNodeParams()
        params.type = self._driver.CUgraphNodeType.CU_GRAPH_NODE_TYPE_MEMSET
        fill = params.memset
        fill.dst, fill.value, fill.elementSize = pointer, value, 1
        fill.width, fill.height, fill.pitch = size, 1, 0
        fill.ctx = check(self._driver.cuCtxGetCurrent())
        return self._add(params, after, (), f"adding a fill of {size} bytes")

    def instantiate(self) -> Graph:
        """The graph ready to launch; the builder may go."""
        return Graph(check(self._driver.cuGraphInstantiate(self._graph, 0), "instantiating a CUDA graph"), self._keep)

    def _add(self, params: Any, after: Sequence[Node], programmatic: Sequence[Node], what: str) -> Node:
        nodes = [*after, *programmatic]
        edges = None
        if programmatic:
            edges = [self._driver.CUgraphEdgeData() for _ in nodes]
            for edge in edges[len(after) :]:
                edge.from_port = self._driver.CU_GRAPH_KERNEL_NODE_PORT_PROGRAMMATIC
                edge.type = int(self._driver.CUgraphDependencyType.CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC)
        self.nodes += 1
        return check(self._driver.cuGraphAddNode(self._graph, nodes or None, edges, len(nodes), params), what)

    def _set_cluster(self, node: Node, size: int) -> None:
        value = self._driver.CUkernelNodeAttrValue()
        value.clusterDim.x, value.clusterDim.y, value.clusterDim.z = size, 1, 1
        attribute = self._driver.CUkernelNodeAttrID.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
        check(self._driver.cuGraphKernelNodeSetAttribute(node, attribute, value), f"setting clusters of {size}")

    def __del__(self) -> None:
        if hasattr(self, "_graph"):
            self._driver.cuGraphDestroy(self._graph)
