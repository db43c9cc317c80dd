"""What is written for the driver by hand, against what the bindings write. On a GPU, and on the stand-in driver."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from support import tiny
from support.branches import branches

from ingot.device.device import Device
from ingot.device.driver import check, cuda
from ingot.device.memory import Buffer
from ingot.device.tensor_map import BYTES, encoded
from ingot.plan.spec import TensorMapDecl
from ingot.runtime.table import LaunchTable

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not tiny.HAVE_GPU, reason="no GPU")]


def test_kernel_parameters_lie_where_the_bindings_put_them() -> None:
    engine = branches()
    engine.open_device(0)
    table = LaunchTable(engine.numbers, engine.function)
    found = engine.numbers.at({})
    bases = {space: 1 << (20 + i) for i, space in enumerate(engine.numbers.spaces)}
    table.fill(found, table.addresses(found, bases))
    for index, step in enumerate(engine.plan.steps):
        made = ctypes.string_at(table.parameters[index].value, 256)
        arguments = int.from_bytes(made[56:64], "little")
        params = cuda().CUgraphNodeParams()
        params.type = cuda().CUgraphNodeType.CU_GRAPH_NODE_TYPE_KERNEL
        kernel = params.kernel
        kernel.func = table.functions[index].handle
        kernel.gridDimX, kernel.gridDimY, kernel.gridDimZ = (int(dim) for dim in step.grid)
        kernel.blockDimX, kernel.blockDimY, kernel.blockDimZ = step.block, 1, 1
        kernel.sharedMemBytes = table.functions[index].shared
        kernel.kernelParams = arguments
        assert made == ctypes.string_at(params.getPtr(), 256)
        first = ctypes.c_uint64.from_address(ctypes.c_uint64.from_address(arguments).value).value
        value = engine.plan.values[step.arguments[0].index]
        assert first == bases[value.memory.space, value.memory.binding] + int(value.memory.offset)


@pytest.mark.skipif(tiny.FAKE, reason="needs the real driver")
@pytest.mark.parametrize("im2col", [False, True])
def test_tensor_maps_are_those_of_the_bindings(im2col: bool) -> None:
    driver, device = cuda(), Device.open()
    if device.info.cc < 90:
        pytest.skip("tensor maps exist from sm_90 on")
    memory = Buffer(1 << 20)
    dims, strides, box = [64, 16, 16, 4], [128, 2048, 32768], [64, 8, 1, 1]
    if im2col:
        item = TensorMapDecl("float16", dims, strides, [64, 32], 128, [-1, -1], [-1, -1], [1, 1])  # type: ignore[arg-type]
    else:
        item = TensorMapDecl("float16", dims, strides, box, 128)  # type: ignore[arg-type]
    wide = [driver.cuuint64_t(n) for n in dims], [driver.cuuint64_t(n) for n in strides]
    tail = (
        driver.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
        driver.CUtensorMapSwizzle.CU_TENSOR_MAP_SWIZZLE_128B,
        driver.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
        driver.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
    )
    kind = driver.CUtensorMapDataType.CU_TENSOR_MAP_DATA_TYPE_FLOAT16
    ones = [driver.cuuint32_t(1)] * 4
    if im2col:
        call = driver.cuTensorMapEncodeIm2col(kind, 4, memory.pointer, *wide, [-1, -1], [-1, -1], 64, 32, ones, *tail)
    else:
        sides = [driver.cuuint32_t(n) for n in box]
        call = driver.cuTensorMapEncodeTiled(kind, 4, memory.pointer, *wide, sides, ones, *tail)
    wanted = ctypes.string_at(check(call, "encoding").getPtr(), BYTES)
    assert encoded(item, memory.pointer, {}) == wanted
    assert np.frombuffer(wanted, np.uint8).any()
