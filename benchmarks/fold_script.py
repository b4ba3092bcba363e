"""The folds of one configuration in a plain torch script, and the same by cifar-hpc, in one run; and what folds cost beside one
trial where only the head trains.

    python benchmarks/fold_script.py script FOLDER WEIGHTS
    python benchmarks/fold_script.py heads FOLDER WEIGHTS --image-size 160 --epochs 30

FOLDER: train/<class>/* and val/<class>/*; WEIGHTS: a file of ResNet-18 from ImageNet. The script is what people write:
torchvision's network, resized images in memory, SGD with momentum over all weights, a fold after another. Prints CPU seconds,
which are of one thread each and include imports, and the mean accuracy out of fold. n = 1: beside other work CPU time is the
steadier measure.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

SWEEP = """\
name: {name}
dataset: {{folder: {folder}}}
base: {{arch: resnet18, weights: {weights}, image_size: {side}, augment: none, batch_size: 16, epochs: {epochs}, {more}}}
objective: {{metric: val_acc, mode: max}}
"""
RATES = "grid: {lr: [1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3]}\n"
FOLDS = 5
LR = 0.003


def plain(folder: Path, weights: Path, side: int, epochs: int) -> float:
    """The mean accuracy of five folds, stratified by scikit-learn."""
    import numpy as np
    import torch
    from PIL import Image
    from sklearn.model_selection import StratifiedKFold
    from torch import nn
    from torchvision.models import resnet18
    from torchvision.transforms import v2

    torch.set_num_threads(1)
    files = sorted(path for path in folder.glob("*/*/*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    names = sorted({path.parent.name for path in files})
    labels_N = torch.tensor([names.index(path.parent.name) for path in files])
    shrink = v2.Compose([v2.Resize(side), v2.CenterCrop(side), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    mean_std = v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    x_NCHW = torch.stack([mean_std(shrink(Image.open(path).convert("RGB"))) for path in files])
    accuracies = []
    for train, held in StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(files, labels_N):
        torch.manual_seed(0)
        network = resnet18()
        network.load_state_dict(torch.load(weights, weights_only=True))
        network.fc = nn.Linear(512, len(names))
        optimizer = torch.optim.SGD(network.parameters(), LR, momentum=0.9, weight_decay=5e-4)
        steps = epochs * -(-len(train) // 16)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        best = 0.0
        for _ in range(epochs):
            network.train()
            for batch in np.array_split(np.random.permutation(train), -(-len(train) // 16)):
                optimizer.zero_grad()
                nn.functional.cross_entropy(network(x_NCHW[batch]), labels_N[batch]).backward()
                optimizer.step()
                schedule.step()
            network.eval()
            with torch.no_grad():
                right = torch.cat([network(x_NCHW[part]).argmax(1) == labels_N[part] for part in np.array_split(held, 4)])
            best = max(best, right.float().mean().item())
        accuracies.append(best)
    return float(np.mean(accuracies))


def ours(name: str, text: str, place: Path) -> float:
    """The mean accuracy of the best configuration."""
    (place / f"{name}.yaml").write_text(text)
    environment = {**os.environ, "CIFAR_HPC_RESULTS": str(place / name), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "cifar_hpc"]
    sweep = [*command, "sweep", str(place / f"{name}.yaml"), "--on", "inline"]
    subprocess.run(sweep, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    values: dict[str, list[float]] = {}
    for path in (place / name / "trials").glob("*/result.json"):
        result = json.loads(path.read_text())
        values.setdefault(result["point_id"], []).append(result["val"]["acc"])
    return max(sum(found) / len(found) for found in values.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["script", "heads", "plain"], help="plain: the script alone, in this process")
    parser.add_argument("folder", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=3)
    asked = parser.parse_args()
    folder, weights, side, epochs = asked.folder.absolute(), asked.weights.absolute(), asked.image_size, asked.epochs
    if asked.what == "plain":
        print(plain(folder, weights, side, epochs))
        return
    known = {"folder": folder, "weights": weights, "side": side, "epochs": epochs}
    one = SWEEP.format(name="one", **known, more=f"freeze: all, lr: {LR}")
    many = SWEEP.format(name="many", **known, more="freeze: all") + RATES
    tuned = SWEEP.format(name="tuned", **known, more=f"lr: {LR}")
    words = [__file__, "plain", str(folder), str(weights), "--image-size", str(side), "--epochs", str(epochs)]
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        if asked.what == "script":
            timed("all tuned, 5 folds: script", lambda: float(_out_of([sys.executable, *words])))
            timed("all tuned, 5 folds: cifar-hpc", lambda: ours("tuned", tuned + "folds: 5\n", place))
        else:
            timed("head alone, 1 trial", lambda: ours("one", one, place))
            timed("head alone, 5 folds", lambda: ours("five", one + "folds: 5\n", place))
            timed("head alone, 6 rates x 5 folds", lambda: ours("many", many + "folds: 5\n", place))


def _out_of(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def timed(what: str, run: Callable[[], float]) -> None:
    """Prints the CPU seconds of the processes that it starts, and what it returns."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    accuracy = run()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{what:32} {cpu_s:7.1f} CPU s   {100 * accuracy:.1f} %", flush=True)


if __name__ == "__main__":
    main()
