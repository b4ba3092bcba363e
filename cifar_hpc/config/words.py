"""The everyday names of keys: what other programs call them -> the key of a spec. Only suggestions are made of it. And how many
of a thing there are, in words."""

from __future__ import annotations

NO_VALUE = "-"  # as tables have it; a spec has null
_NAMES = {
    "arch": "model net network architecture backbone encoder model_name base_model",
    "augment": "aug augmentation augmentations transform transforms",
    "batch_size": "batch bs minibatch mini_batch batchsize train_batch_size batch_sizes",
    "dataset": "data dataset_name data_set",
    "dropout": "drop dropout_rate drop_rate",
    "epochs": "epoch num_epochs n_epochs max_epochs num_train_epochs",
    "freeze": "frozen freeze_layers freezing",
    "grad_clip": "clip clip_grad gradient_clip max_grad_norm",
    "grid": "params parameters axes sweep",
    "image_size": "size img_size imgsz resolution input_size",
    "label_smoothing": "smoothing",
    "lr": "learning_rate learningrate eta lr0 base_lr lrs alpha",
    "momentum": "mom beta beta1",
    "objective": "metric goal monitor",
    "optimizer": "optim optimiser opt",
    "precision": "amp dtype mixed_precision fp16",
    "resources": "gpu gpus cpus memory",
    "schedule": "scheduler lr_schedule lr_scheduler sched",
    "search": "algorithm tune",
    "seeds": "seed random_seed num_seeds n_seeds repeats",
    "stop": "early_stopping early_stop",
    "stop.patience": "patience",
    "train_size": "subset limit n_train num_train train_n samples",
    "val_frac": "val_split validation_split val_size valid",
    "warmup_epochs": "warmup warm_up",
    "weight_decay": "wd decay l2 l2_reg regularization weightdecay",
    "weights": "pretrained pretrain checkpoint init",
}
_MEANT = {name: key for key, names in _NAMES.items() for name in names.split()}


def usual_key(word: str) -> str:
    """The key that everyday use means by the word; the word itself where it is in no such use."""
    return _MEANT.get(word.lower().replace("-", "_"), word)


_NO_WEIGHTS = ("none", "no", "scratch", "random", "from_scratch", "false", "~", "")
_USUAL_WEIGHTS = ("pretrained", "default", "true", "yes", "imagenet1k", "imagenet-1k", "in1k", "imagenet_1k")


def usual_weights(word: str) -> str | None:
    """What everyday use means by such a value of `weights`: imagenet, null, or None where it is in no such use."""
    plain = word.lower()
    return "null" if plain in _NO_WEIGHTS else "imagenet" if plain in _USUAL_WEIGHTS else None


def usual_setting(word: str, value: object) -> str | None:
    """The key with its value that an unknown key with that value means: `pretrained: true` is `weights: imagenet`."""
    if usual_key(word) == "weights" and isinstance(value, bool):
        return "weights: imagenet" if value else "weights: null"
    return None


def plural(count: int, noun: str) -> str:
    """'1 trial', '2 trials'."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
