"""What is worth knowing of the images and weights of trials: sentences, each with the data sets that it is of.

Knows neither trials nor files.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Set

from cifar_hpc.config.dataset import BY_SEED, DatasetConfig
from cifar_hpc.config.image_folder import printable

_TELL_APART = ("classes", "train_size", "val_frac", "split_seed", "labels", "args", "folds")  # data sets of one name
DataNotes = Mapping[str, Set[str]]  # sentence -> digests as DatasetConfig.digest; none of them: it is of all


def joined(*parts: DataNotes) -> DataNotes:
    """The sentences of all parts, each once, of all the data sets of which a part says it."""
    found: dict[str, frozenset[str]] = {}
    for part in parts:
        for sentence, of in part.items():
            before = found.get(sentence)
            found[sentence] = frozenset(of) if before is None else before | of if before and of else frozenset()
    return found


def whose(notes: DataNotes, datasets: Iterable[DatasetConfig]) -> Iterator[str]:
    """The sentences, for who reads those of all these data sets at once: one that is not of all ends with whose it is."""
    sets = {dataset.digest: dataset for dataset in datasets}
    for sentence, of in notes.items():
        mine = [dataset for digest, dataset in sets.items() if digest in of]
        if len(mine) in (0, len(sets)):
            yield sentence
            continue
        named = dict.fromkeys(_name(sentence, dataset, mine, sets.values()) for dataset in mine)
        said = "; ".join(name for name in named if name)
        yield f"{sentence} ({said})" if said else sentence


def _name(sentence: str, dataset: DatasetConfig, mine: Collection[DatasetConfig], every: Iterable[DatasetConfig]) -> str:
    """The data set, where the sentence does not begin with it, and what tells it from others of its name that are not meant."""
    place = printable(dataset.folder or dataset.name)
    alike = [other for other in every if (other.name, other.folder) == (dataset.name, dataset.folder)]
    differ = [key for key in _TELL_APART if len({_value(other, key) for other in alike}) > 1]
    keys = () if all(other in mine for other in alike) else differ
    return ", ".join(
        [*([] if sentence.startswith(f"{place}:") else [place]), *(f"{key} {_value(dataset, key)}" for key in keys)]
    )


def _value(dataset: DatasetConfig, key: str) -> str:
    """In words; val_frac has no effect in folds, nor a number of the split where each seed draws its own."""
    if (key == "val_frac" and dataset.folds is not None) or (value := getattr(dataset, key)) is None:
        return "all" if key in ("classes", "train_size") else "none"
    if key == "split_seed" and dataset.split_by_seed:
        return BY_SEED
    return "+".join(map(str, value)) if isinstance(value, tuple) else str(value)
