"""What runs and is likely not meant: settings that no trial feels, time scales longer than its training. Pure functions of
configs; knows nothing of files and lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from cifar_hpc.config.architecture import known_architecture
from cifar_hpc.config.dataset import DatasetConfig
from cifar_hpc.config.freeze import FreezeError
from cifar_hpc.config.keys import Role
from cifar_hpc.config.plugins import optimizer_of, schedule_of
from cifar_hpc.config.registry import CLASSIFIERS, OPTIMIZERS
from cifar_hpc.config.roles import keys_with
from cifar_hpc.config.trained import STILL, ever_stepped, ever_trained, part_of
from cifar_hpc.config.trial import PARENT_PREFIX, TrialConfig
from cifar_hpc.spec.contradictions import training_images

LEAST_PRETRAINED = 64  # pixels of a side from which on published weights do more than see blocks of colour


def idle_settings(written: Iterable[str], configs: Sequence[TrialConfig], *, sampled: bool = False) -> list[str]:
    """A sentence for each key that the spec writes and that acts in no trial. sampled: as of `warnings_of`."""
    sentences = []
    for key in written if configs else ():
        fitted, (acts, needs) = key in _FITTED_KEYS, _ACTS.get(key, (_always, ""))
        if fitted and not any(map(_trains, configs)):
            sentences.append(f"{key} has no effect: {FITTED}")
        elif not any(acts(config) for config in configs if _trains(config) or not fitted):
            sentences.append(f"{key} has no effect: {needs}")
        elif key == "stop.patience" and (n := sum(_trains(c) and not acts(c) for c in configs)):
            sentences.append(
                f"{key} has no effect in {_trials(n, len(configs), sampled)}: there it is not set or not below epochs"
            )
    return sentences


def warnings_of(configs: Sequence[TrialConfig], *, sampled: bool = False) -> list[str]:
    """A sentence for each thing that runs and is likely not meant. sampled: the configs are the ends between which a search
    samples, so that how many they are counts no trials."""
    sentences = []
    random = sum(_begins_at_random(c) and (c.lora is not None or _leaves_blocks(c)) for c in configs)
    if random:
        sentences.append(f"{_trials(random, len(configs), sampled)} freeze blocks with random weights (weights: null)")
    here = {c.trial_id: c.dataset for c in configs}
    headless = [c for c in configs if _never_trains_classifier(c)]
    for given, stays in (
        (False, ", which stays as it was drawn by chance"),
        (True, ": it stays as it was drawn by chance where the weights hold none for as many classes"),
    ):
        n = sum(_is_given(c) is given and not _has_it_from(here, c) for c in headless)
        if n:
            sentences.append(f"{_trials(n, len(configs), sampled)} never train the classifier{stays}")
    for part, what in (("bias", "bias"), ("norm", "normalisation layer")):
        alone = sum(c.train == part and _trains_classifier_alone(c) for c in configs)
        if alone:
            nothing = f"train: {part} finds no {what} in other blocks"
            sentences.append(f"{_trials(alone, len(configs), sampled)} train the classifier alone: {nothing}")
    tiny = {c.image_size for c in configs if c.image_size and _is_tiny(c)}
    if tiny:
        sentences.append(
            f"image_size {', '.join(map(str, sorted(tiny)))} with ImageNet weights, most of which were trained at about 224 "
            "pixels; images are resized to any image_size"
        )
    stepped = [config for config in configs if _trains(config)]
    few = {
        c.batch_size for c in stepped for n in (c.dataset.labelled, training_images(c)) if n is not None and n < c.batch_size
    }
    sentences += [f"batch_size {batch_size} is more than the training images: one step an epoch" for batch_size in sorted(few)]
    return [*sentences, *([] if sampled else _alike_steps(stepped)), *outlasting(configs, sampled)]


def _alike_steps(configs: Iterable[TrialConfig]) -> Iterator[str]:
    """A sentence for batch sizes that cut an epoch into equally many steps, and so into the same."""
    sizes: dict[tuple[int, int], set[int]] = {}
    for config in {(c.dataset, c.batch_size): c for c in configs}.values():
        own = config.dataset.labelled
        n = training_images(config) or (round(config.dataset.trained_of(own)) if own else 0)
        fewest, most = (-(-(n + more) // config.batch_size) for more in (-1, 1))  # it may be an image more or less
        if n and fewest == most:
            sizes.setdefault((n, most), set()).add(config.batch_size)
    for (n, steps_n), found in sizes.items():
        if len(found) > 1:
            *first, last = map(str, sorted(found))
            steps = "one step" if steps_n == 1 else f"{steps_n} steps"
            which = f"batch_size {', '.join(first)} and {last}"
            yield f"{which} cut {n:,} training images into the same {steps}"


def _begins_at_random(config: TrialConfig) -> bool:
    """A network of the user's own may bring its weights."""
    return config.weights is None and config.source_of("arch") is None


def _leaves_blocks(config: TrialConfig) -> bool:
    """Whether some block, or a part of one, stays as it was drawn."""
    if config.freeze != "none" or config.train != "all":
        return True
    info = known_architecture(config.network) if config.unfreeze else None
    try:
        return info is not None and not all(ever_trained(config, info.blocks))
    except FreezeError:  # told of as an error
        return False


def outlasting(configs: Sequence[TrialConfig], sampled: bool = False) -> list[str]:
    """A sentence for each setting whose time scale is longer than trials are."""
    found: dict[str, int] = {}
    for config in filter(_trains, configs):
        for sentence in _outlasts(config):
            found[sentence] = found.get(sentence, 0) + 1
    return [f"{sentence} ({_trials(n, len(configs), sampled)})" for sentence, n in found.items()]


def _outlasts(config: TrialConfig) -> Iterator[str]:
    epochs = config.epochs
    if config.unfreeze_epoch is not None and config.unfreeze_epoch >= epochs:
        yield f"unfreeze_epoch {config.unfreeze_epoch} of {epochs} epochs: only the classifier is trained"
    for start, name in config.unfreeze or ():
        if start > epochs:
            yield f"unfreeze from epoch {start} of {epochs} epochs: what {name} begins is never trained"
    if not schedule_of(config).own_rise and 2 * config.warmup_epochs > epochs:
        yield f"warmup_epochs {config.warmup_epochs:g} of {epochs} epochs: the learning rate rises for most of the training"
    images = training_images(config)
    if config.ema is not None and images:
        steps, scale = epochs * -(-images // config.batch_size), 1 / (1 - config.ema)
        if scale > steps:
            yield (
                f"ema {config.ema:g} averages over {scale:,.0f} steps and there are {steps:,}: the decay stays at most "
                f"{1 - float(f'{9 / (9 + steps):.2g}'):g}"
            )


def _never_trains_classifier(config: TrialConfig) -> bool:
    """Whether a list of `train` leaves it out."""
    info = known_architecture(config.network) if isinstance(config.train, tuple) else None
    try:
        return info is not None and not ever_trained(config, info.blocks)[-1]
    except FreezeError:  # told of as an error
        return False


def _is_given(config: TrialConfig) -> bool:
    """Whether its weights are a file of the user's or another trial's, which may hold a classifier for its classes."""
    return config.weights is not None and (config.weights.startswith(PARENT_PREFIX) or bool(config.weights_fingerprint))


def _has_it_from(here: Mapping[str, DatasetConfig], config: TrialConfig) -> bool:
    """Whether its classifier is that of a trial here, on the same classes, or may be one that its own network brings. here: the
    data sets of trials, by their ids."""
    if config.weights is None:
        return config.source_of("arch") is not None
    parent = here.get(config.weights.removeprefix(PARENT_PREFIX))
    own = config.dataset
    return parent is not None and (parent.name, parent.classes, parent.fingerprint) == (own.name, own.classes, own.fingerprint)


def _trains_classifier_alone(config: TrialConfig) -> bool:
    """Whether what `train` names is in no other of the blocks that it trains."""
    info = known_architecture(config.network)
    try:
        return info is not None and not any(ever_stepped(config, info)[:-1])
    except FreezeError:  # told of as an error
        return False


def _is_tiny(config: TrialConfig) -> bool:
    published = config.weights is not None and not _is_given(config)
    return published and config.stem == "imagenet" and (config.image_size or LEAST_PRETRAINED) < LEAST_PRETRAINED


def _trials(n: int, of: int, sampled: bool) -> str:
    if n == of:
        return "all trials"
    return "some of the trials that may be sampled" if sampled else f"{n} of {of} trials"


_FITTED_NAMES = CLASSIFIERS.names_where(lambda info: not info.trained)
FITTED = f"{', '.join(_FITTED_NAMES[:-1])} and {_FITTED_NAMES[-1]} are fitted once, to features of a network that is frozen"


def _trains(config: TrialConfig) -> bool:
    return config.trains


def _always(config: TrialConfig) -> bool:
    return True


_FITTED_KEYS = frozenset(keys_with(Role.TRAINING | Role.FITTED))
_ACTS: dict[str, tuple[Callable[[TrialConfig], bool], str]] = {
    "dataset.val_frac": (
        lambda c: not c.dataset.brings_validation,
        "the data set brings its validation images",
    ),
    "dataset.split_seed": (
        lambda c: not c.dataset.brings_validation or c.dataset.train_size is not None,
        "the data set brings its validation images, and all others are trained on",
    ),
    "resize": (lambda c: c.dataset.name == "folder", "only the images of a folder are fitted"),
    "crop_frac": (
        lambda c: c.dataset.name == "folder" and c.resize == "crop",
        "only the images of a folder are fitted, and only resize: crop cuts",
    ),
    "momentum": (
        lambda c: optimizer_of(c).momentum,
        f"only optimizer: {' and '.join(OPTIMIZERS.names_where(lambda info: info.momentum))} have it",
    ),
    **{
        info.argument: (lambda c, name=name: c.classifier == name, f"only classifier: {name} has it")  # type: ignore[misc]
        for name, info in CLASSIFIERS.items()
        if info.argument is not None
    },
    "class_weights": (lambda c: c.class_weights is not None, "votes have no loss, and weights of 1 change nothing"),
    "warmup_epochs": (
        lambda c: not schedule_of(c).own_rise,
        "the schedule has a rise of its own",
    ),
    "layer_decay": (lambda c: c.freeze != "all" and c.arch != "linear", "only the classifier is trained"),
    "unfreeze_epoch": (
        lambda c: c.freeze != "all" and c.arch != "linear",
        "only the classifier is trained",
    ),
    "train": (
        lambda c: c.train != "all" or c.freeze != "none",
        "it names all blocks",
    ),
    "unfreeze": (lambda c: bool(c.unfreeze or c.unfreeze_epoch or c.freeze != "none"), "nothing is left to unfreeze"),
    "lora": (lambda c: c.lora is not None, "only the classifier is trained"),
    "anchor": (lambda c: c.anchor is not None, "only the classifier is trained"),
    "ghost_batches": (
        lambda c: c.ghost_batches is not None and part_of(c) not in STILL,
        "only the classifier is trained, BatchNorm keeps its statistics, or the parts are 1",
    ),
    "stop.min_delta": (lambda c: c.stop.patience is not None, "stop.patience is not set, or not below epochs"),
    "stop.patience": (lambda c: c.stop.patience is not None, "it is not below epochs, so that nothing stops early"),
}
