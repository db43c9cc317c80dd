"""A real photograph, for detectors: of noise they make nothing."""

from __future__ import annotations

from pathlib import Path

from ingot.zoo.fetch import fetch_file
from ingot.zoo.models import ZooModel

_ASTRONAUT = ZooModel(
    name="astronaut",
    package="scikit-image",
    version="0.25.2",
    file="skimage/data/astronaut.png",
    sha256="88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
    shapes=(),
    description="Eileen Collins, by NASA (public domain), 512 x 512",
    download_bytes=14_800_000,
)


def portrait() -> Path:
    """A PNG of 512 x 512 pixels with one face. Raises what :func:`ingot.zoo.fetch.fetch` raises."""
    return fetch_file(_ASTRONAUT)
