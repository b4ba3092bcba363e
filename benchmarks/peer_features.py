"""What a more careful user writes for heads alone: the frozen network's features once, then a linear layer a trial on them.

Takes the JSON that peer_ray_tune.py takes, of trials that all train the classifier alone on images without augmentation, and
prints the same lines. The features of the three splits are kept in memory; a trial is nn.Linear, SGD and a cosine over shuffled
batches of them, its best epoch on validation tested. One process, trials one after another, no framework. benchmarks/
freeze_depth.py runs it. The first trial's beginning counts from before the features.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torchvision import transforms

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


@torch.no_grad()
def features(settings: dict, name: str, trunk: nn.Module, device: str) -> tuple[Tensor, Tensor]:
    images = np.load(Path(settings["images"]) / f"{name}_images.npy")
    labels = torch.from_numpy(np.load(Path(settings["images"]) / f"{name}_labels.npy")).to(device)
    size = settings["image_size"]
    resize = [transforms.Resize(size)] if size != 32 else []
    steps = transforms.Compose([*resize, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    parts = []
    for start in range(0, len(images), 500):
        batch = torch.stack([steps(Image.fromarray(image.transpose(1, 2, 0))) for image in images[start : start + 500]])
        parts.append(trunk(batch.to(device)).flatten(1))
    return torch.cat(parts), labels


def train_head(settings: dict, trial: dict, splits: dict[str, tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """Validation and test accuracy of the best validation epoch."""
    torch.manual_seed(trial["seed"])
    x_ND, y_N = splits["train"]
    head = nn.Linear(x_ND.shape[1], 10).to(x_ND.device)
    optimizer = torch.optim.SGD(head.parameters(), trial["lr"], momentum=0.9, weight_decay=5e-4, nesterov=True)
    batch, best = settings["batch_size"], (-1.0, -1.0)
    steps = -(-len(x_ND) // batch) * settings["epochs"]
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    @torch.no_grad()
    def accuracy(name: str) -> float:
        x, y = splits[name]
        return (head(x).argmax(1) == y).double().mean().item()

    for _ in range(settings["epochs"]):
        for index in torch.randperm(len(x_ND)).to(x_ND.device).split(batch):
            optimizer.zero_grad()
            functional.cross_entropy(head(x_ND[index]), y_N[index]).backward()
            optimizer.step()
            schedule.step()
        val = accuracy("val")
        if val > best[0]:
            best = val, accuracy("test")
    return best


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text())
    began = time.time()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    model = torchvision.models.get_model(settings["arch"], num_classes=1000)
    if settings["weights"]:
        model.load_state_dict(torch.load(settings["weights"], weights_only=True))
    model.fc = nn.Identity()
    trunk = model.to(device).eval()
    splits = {name: features(settings, name, trunk, device) for name in ("train", "val", "test")}
    for trial in settings["trials"]:
        val, test = train_head(settings, trial, splits)
        print(json.dumps({**trial, "val_acc": val, "test_acc": test, "began": began, "ended": time.time()}), flush=True)
        began = time.time()


if __name__ == "__main__":
    main()
