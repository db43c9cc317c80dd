"""The device tests once more, on a driver written for tests: they need no GPU, only a C compiler."""

from __future__ import annotations

from pathlib import Path

from support.stand_in import pass_on_stand_in


def test_device_tests_pass_on_the_stand_in_driver(tmp_path: Path) -> None:
    pass_on_stand_in(
        tmp_path,
        "runtime/test_device_context.py",
        "runtime/test_device_arrays.py",
        "runtime/test_profiled_context.py",
        "runtime/test_conditions.py",
        "runtime/test_open_program.py",
        "runtime/test_segments.py",
        "runtime/test_switch.py",
        "builder/test_device_observer.py",
        "device/test_device.py",
        "device/test_node_parameters.py",
    )
