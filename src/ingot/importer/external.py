"""External data: which files a model refers to, and their bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx

from ingot.errors import IngotError
from ingot.importer.walk import all_tensors


def is_external(tensor: onnx.TensorProto) -> bool:
    """Whether the data of ``tensor`` lies in another file."""
    return tensor.data_location == onnx.TensorProto.EXTERNAL


def external_files(model: onnx.ModelProto, model_path: Path | None) -> list[tuple[str, Path]]:
    """Location and path of every external file, sorted. Raises IngotError where one is missing or escapes."""
    found = {}
    for place, tensor in all_tensors(model):
        if is_external(tensor):
            location = _entries(tensor).get("location", "")
            found[location] = _path(location, place, model_path)
    return sorted(found.items())


def load_external(model: onnx.ModelProto, model_path: Path | None) -> None:
    """Puts the bytes of external data into the tensors. Raises IngotError for bad bounds and missing files."""
    for place, tensor in all_tensors(model):
        if not is_external(tensor):
            continue
        entries = _entries(tensor)
        path = _path(entries.get("location", ""), place, model_path)
        size = path.stat().st_size
        offset = _number(entries, "offset", 0, place)
        length = _number(entries, "length", max(size - offset, 0), place)
        if offset + length > size:
            reason = f"needs bytes {offset} to {offset + length} of {path.name}, which has {size}"
            raise IngotError(reason, node=place, fix="copy the external data file again, completely")
        with path.open("rb") as file:
            file.seek(offset)
            tensor.raw_data = file.read(length)
        del tensor.external_data[:]
        tensor.data_location = onnx.TensorProto.DEFAULT


def _entries(tensor: onnx.TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _number(entries: Mapping[str, str], key: str, default: int, place: str) -> int:
    text = entries.get(key, "")
    if not text:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise IngotError(f"{key} {text[:40]!r} of the external data is not a number", node=place)
    return int(text)


def _path(location: str, place: str, model_path: Path | None) -> Path:
    """The file of ``location``, which must lie beside the model: a model may not read the rest of the disk."""
    if model_path is None:
        fix = "give the path of the ONNX file, or load the data into the model"
        raise IngotError(f"its data is in the file {location!r}, but no folder is known", node=place, fix=fix)
    fix = "keep external data in the folder of the ONNX file"
    outside = IngotError(f"external data at {location!r} is outside the model's folder", node=place, fix=fix)
    parts = PurePosixPath(location.replace("\\", "/")).parts
    if not location or "\0" in location or ".." in parts or _is_absolute(location):
        raise outside
    path = model_path.parent / location
    try:
        # Download caches keep links in one folder to files in another, the model's own among them.
        folders = {model_path.parent.resolve(), model_path.resolve().parent}
        target = path.resolve()
        is_file = path.is_file()
    except (OSError, ValueError, RuntimeError):
        raise outside from None
    if not any(target.is_relative_to(folder) for folder in folders):
        raise outside
    if not is_file:
        fix = f"put the file next to the ONNX file, in {model_path.parent}"
        raise IngotError(f"its data is in the file {location!r}, which is missing", node=place, fix=fix)
    return path


def _is_absolute(location: str) -> bool:
    return PurePosixPath(location).is_absolute() or bool(PureWindowsPath(location).anchor)
