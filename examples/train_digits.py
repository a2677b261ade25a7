"""Compile LeNet-5, train it on scikit-learn's handwritten digits, and print the test accuracy.

    python examples/train_digits.py

The 1,797 digits of 8 × 8 pixels are enlarged to the 32 × 32 that LeNet-5 takes; every fifth
one is kept for the test.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor
from tqdm import trange

import implicit_dsl

HERE = Path(__file__).parent


def digits() -> tuple[Tensor, Tensor]:
    """All digits as images [1797, 1, 32, 32] with values around 0, and their labels [1797]."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1
    return F.interpolate(images, size=(32, 32), mode="bilinear"), torch.tensor(data.target)


def moved(images: Tensor) -> Tensor:
    """Each image turned, scaled and shifted a little at random, as other hands would have written it."""
    count = len(images)
    angle = (torch.rand(count) - 0.5) * 0.4  # up to 0.2 rad
    size = 1 + (torch.rand(count) - 0.5) * 0.24
    maps = torch.zeros(count, 2, 3)
    maps[:, 0, 0] = maps[:, 1, 1] = angle.cos() * size
    maps[:, 1, 0] = angle.sin() * size
    maps[:, 0, 1] = -maps[:, 1, 0]
    maps[:, :, 2] = (torch.rand(count, 2) - 0.5) * 0.2
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def accuracy(model: torch.nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of images whose largest score is that of their label."""
    model.eval()
    with torch.no_grad():
        return (model(images).argmax(1) == labels).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--program", default=HERE / "lenet5.impl", help="an .impl file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path, help="where to write the weights")
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    images, labels = digits()
    test = torch.arange(len(images)) % 5 == 0
    train_images, train_labels = images[~test], labels[~test]

    generated = implicit_dsl.load(options.program)
    model = getattr(generated, generated.__all__[0])()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs)

    with trange(options.epochs, unit="epoch") as bar:
        for _ in bar:
            model.train()
            order = torch.randperm(len(train_images))
            for batch in order.split(64):
                loss = F.cross_entropy(model(moved(train_images[batch])), train_labels[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            schedule.step()
            bar.set_postfix(loss=f"{loss.item():.4f}")

    print(f"train accuracy {accuracy(model, train_images, train_labels):.2%}")
    print(f"test accuracy  {accuracy(model, images[test], labels[test]):.2%}  ({int(test.sum())} digits)")
    if options.save:
        torch.save(model.state_dict(), options.save)
        print(f"wrote {options.save}")


if __name__ == "__main__":
    main()
