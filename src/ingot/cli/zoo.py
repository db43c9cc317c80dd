"""``ingot zoo``: the models that Ingot is tested with."""

from __future__ import annotations

from ingot.cli import render


def list_models() -> None:
    """All of them, with what is fetched already."""
    from ingot.zoo import architectures, cifar, fetch
    from ingot.zoo.models import MODELS

    rows = [
        [m.name, f"{m.package} {m.version}", _state(fetch.path_of(m.name).is_file(), m.download_bytes), m.description]
        for m in MODELS
    ]
    screen = render.console()
    screen.print(
        render.table("trained models, downloaded on first use", ["name", "from", "", "what it is"], rows, left=4)
    )
    screen.print(f"standard architectures with random weights: {', '.join(architectures.names())}", markup=False)
    screen.print(f"trained on CIFAR-10, part of Ingot: {', '.join(cifar.NAMES)}", markup=False)
    screen.print("use any as zoo:NAME", markup=False)


def _state(here: bool, size: int) -> str:
    return "here" if here else f"{size / 1e6:.0f} MB to fetch"


def fetch_model(name: str) -> None:
    """Downloads one model (or builds an architecture into the current folder) and prints its path."""
    from ingot.zoo import architectures, fetch

    if name in architectures.names():
        print(architectures.save(name, f"{name}.onnx"))
    else:
        print(fetch.fetch(name))
