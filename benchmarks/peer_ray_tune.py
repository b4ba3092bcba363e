"""What a careful user writes without cifar-hpc: a Ray Tune function over torchvision parts. benchmarks/freeze_depth.py runs it.

Takes a JSON of {arch, image_size, epochs, batch_size, augment, weights: a file of a network of 1000 classes or null, trials:
[{freeze, lr, seed}], images: a folder, concurrent} and prints one JSON line a trial: validation and test accuracy of the best
validation epoch, when it began and ended. `train` needs no Ray: benchmarks/gpu.py runs it where there is none. Frozen stages
have requires_grad=False, are in eval mode and are kept from the optimiser; the data pass through torchvision's transforms in a
DataLoader with a worker; actors are reused; Ray's loggers are off.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("RAY_DISABLE_IMPORT_WARNING", "1")
os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
STAGES = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4", "avgpool")


def train(config: dict, report: Callable[[dict], None]) -> None:
    import numpy as np
    import torch
    import torchvision
    from PIL import Image
    from torch.nn import functional
    from torchvision import transforms

    began = time.time()  # with everything imported
    torch.set_num_threads(config["threads"])
    torch.manual_seed(config["seed"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = config["image_size"]

    class Images(torch.utils.data.Dataset):
        def __init__(self, name, steps):
            self.images = np.load(Path(config["images"]) / f"{name}_images.npy", mmap_mode="r")
            self.labels = np.load(Path(config["images"]) / f"{name}_labels.npy")
            self.transform = transforms.Compose(steps)

        def __len__(self):
            return len(self.labels)

        def __getitem__(self, i):
            return self.transform(Image.fromarray(self.images[i].transpose(1, 2, 0))), int(self.labels[i])

    resize = [transforms.Resize(size)] if size != 32 else []
    plain = [*resize, transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    flip_crop = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
    augmented = [*flip_crop, *plain] if config["augment"] == "flip_crop" else plain

    def loader(name, steps, batch, shuffle):
        return torch.utils.data.DataLoader(
            Images(name, steps), batch, shuffle=shuffle, num_workers=config["workers"], persistent_workers=config["workers"] > 0
        )

    batches = loader("train", augmented, config["batch_size"], True)
    val, test = loader("val", plain, 500, False), loader("test", plain, 500, False)
    model = torchvision.models.get_model(config["arch"], num_classes=1000 if config["weights"] else 10)
    if config["weights"]:
        model.load_state_dict(torch.load(config["weights"], weights_only=True))
        model.fc = torch.nn.Linear(model.fc.in_features, 10)
    model = model.to(device)
    frozen = [] if config["freeze"] == "none" else list(STAGES[: STAGES.index(config["freeze"]) + 1])
    for name in frozen:
        getattr(model, name).requires_grad_(False)
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad], config["lr"], momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config["epochs"] * len(batches))

    @torch.no_grad()
    def accuracy(split):
        model.eval()
        return sum((model(x.to(device)).argmax(1) == y.to(device)).sum().item() for x, y in split) / len(split.dataset)

    best, best_state = -1.0, None
    for _ in range(config["epochs"]):
        model.train()
        for name in frozen:
            getattr(model, name).eval()
        for x, y in batches:
            optimizer.zero_grad()
            functional.cross_entropy(model(x.to(device)), y.to(device)).backward()
            optimizer.step()
            schedule.step()
        acc = accuracy(val)
        if acc > best:
            best, best_state = acc, {key: value.clone() for key, value in model.state_dict().items()}
        report({"val_acc": acc, "test_acc": -1.0})
    model.load_state_dict(best_state)
    report({"val_acc": best, "test_acc": accuracy(test), "began": began, "ended": time.time()})


def main() -> None:
    import ray
    from ray import tune

    settings = json.loads(Path(sys.argv[1]).read_text())
    concurrent = settings.pop("concurrent")
    trials = settings.pop("trials")
    cores = os.cpu_count() or 1
    gpus = float(os.environ.get("PEER_GPUS", "0"))
    ray.init(include_dashboard=False, log_to_driver=False, configure_logging=True, logging_level="ERROR")
    space = {**settings, "threads": max(1, cores // concurrent), "workers": 1, "trial": tune.grid_search(trials)}

    def run(config: dict) -> None:
        train({**config, **config["trial"]}, tune.report)

    tuner = tune.Tuner(
        tune.with_resources(run, {"cpu": cores / concurrent, "gpu": gpus / concurrent}),
        param_space=space,
        tune_config=tune.TuneConfig(reuse_actors=True, max_concurrent_trials=concurrent),
        run_config=tune.RunConfig(verbose=0),
    )
    for result in tuner.fit():
        measured = {name: result.metrics[name] for name in ("val_acc", "test_acc", "began", "ended")}
        print(json.dumps({**result.config["trial"], **measured}))
    ray.shutdown()


if __name__ == "__main__":
    main()
