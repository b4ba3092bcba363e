"""The images and weights of trials before anything starts, brought and judged: each set of images once, each network once.

Owns: what is brought, what is looked into, and what `--dry-run` knows of it without looking. Trains nothing and starts nothing.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from cifar_hpc.config import catalog
from cifar_hpc.config.data_notes import DataNotes, joined
from cifar_hpc.config.image_folder import printable
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.planning.lineage import parent_of

if TYPE_CHECKING:
    from cifar_hpc.config.dataset import DatasetConfig
    from cifar_hpc.config.image_folder import ImageFolder
    from cifar_hpc.config.trial import TrialConfig


def judge_inputs(configs: Sequence[TrialConfig]) -> DataNotes:
    """Sentences worth knowing before the trials start. Raises CifarHpcError with everything that they cannot start with."""
    problems: list[str] = []
    notes: list[DataNotes] = []
    listings: dict[str | None, ImageFolder] = {}
    for dataset, of_it in _folders(configs):
        from cifar_hpc.data.check import check_folder, notes_of, problems_of
        from cifar_hpc.data.files import data_root, planned_folder

        listing = listings[dataset.fingerprint] = planned_folder(dataset)
        check = check_folder(listing, str(dataset.fingerprint), data_root())
        place = printable(str(listing.root))
        problems += [f"{place}: {problem}" for problem in problems_of(check)]
        notes.append({f"{place}: {note}": {dataset.digest} for note in notes_of(check, listing, of_it)})
    for config, *others in _with_weights(configs):
        source = config.source_of("dataset")
        classes = config.dataset.classes or catalog.dataset(config.dataset.name).classes
        if not classes and source is not None:
            from cifar_hpc.data.own import read_own

            classes = read_own(source, config.dataset.args or ()).classes
        elif not classes:
            classes = listings[config.dataset.fingerprint].classes
        try:
            sets = {one.dataset.digest for one in (config, *others)}
            notes.append(dict.fromkeys(_judge_weights(config, len(classes)), sets))
        except CifarHpcError as error:
            problems.append(str(error))
    if problems:
        again = "mend that and type the same command again" if listings else "mend that first"
        raise CifarHpcError("\n".join([*dict.fromkeys(problems), f"Nothing was started: {again}."]))
    return joined(*notes)


def known_inputs(configs: Sequence[TrialConfig]) -> tuple[DataNotes, list[str]]:
    """What is known of the images of folders from before, and which of them nobody has looked into yet. Opens none."""
    notes: list[DataNotes] = []
    unseen: list[str] = []
    for dataset, of_it in _folders(configs):
        from cifar_hpc.data.check import known_check, notes_of, problems_of
        from cifar_hpc.data.files import data_root, folder_path, planned_folder

        folder = folder_path(dataset)
        check = known_check(str(dataset.fingerprint), data_root())
        if check is None:
            unseen.append(f"the images of {printable(str(folder))}")
            continue
        found = notes_of(check, planned_folder(dataset), of_it)
        said = (*problems_of(check), *found)
        notes.append({f"{printable(str(folder))}: {sentence}": {dataset.digest} for sentence in said})
    return joined(*notes), list(dict.fromkeys(unseen))


def fetch_inputs(configs: Sequence[TrialConfig], say: Callable[[str], None]) -> None:
    """Bring what the trials need, each thing once; everything is tried before the problems are told together.

    say: is told what is there and how it goes. Raises CifarHpcError.
    """
    from cifar_hpc.data.fetch import fetch_dataset
    from cifar_hpc.data.files import data_root, why_missing
    from cifar_hpc.models.weights import fetch_weights

    root = data_root()
    problems: list[str] = []
    wanted: dict[str, str | None] = {}  # what it is, one's own by where it lies -> why it is not there
    for dataset in {config.dataset.of_point: config.dataset for config in configs}.values():
        reason = why_missing(dataset, root)
        if dataset.name not in catalog.DATASETS:
            say(f"{dataset.name}: your own data set, {dataset.labelled} labelled images: nothing to fetch")
        elif dataset.name != "folder":
            wanted[dataset.name] = wanted.get(dataset.name) or reason
        elif reason:
            problems.append(reason)
        else:
            say(f"{printable(str(dataset.folder))}: your own folder, {dataset.labelled} labelled images: nothing to fetch")
    for name, reason in wanted.items():
        if reason is None:
            say(f"{name}: there")
            continue
        try:
            fetch_dataset(name, root, say)
        except CifarHpcError as error:
            problems.append(str(error))
    public = [config for config in configs if config.weights is not None and parent_of(config) is None]
    for arch, weights in dict.fromkeys((config.arch, config.weights) for config in public):
        try:
            fetch_weights(arch, weights, say)
        except CifarHpcError as error:
            problems.append(str(error))
    if problems:
        raise CifarHpcError("\n".join(problems))


def _folders(configs: Iterable[TrialConfig]) -> Iterator[tuple[DatasetConfig, list[TrialConfig]]]:
    """Each set of images of a folder, whatever part of it a fold or split holds out, with the trials on it."""
    found: dict[DatasetConfig, list[TrialConfig]] = {}
    for config in configs:
        if config.dataset.name == "folder":
            found.setdefault(config.dataset.of_point, []).append(config)
    for of_it in found.values():
        yield of_it[0].dataset, of_it


def _with_weights(configs: Iterable[TrialConfig]) -> list[list[TrialConfig]]:
    """The configs of each network that is filled from a file."""
    found: dict[object, list[TrialConfig]] = {}
    for config in configs:
        if config.weights is not None and parent_of(config) is None:
            kept = config.dataset.classes or config.dataset.fingerprint or config.dataset.name
            found.setdefault((config.arch, config.weights, config.stem, config.image_size, kept), []).append(config)
    return list(found.values())


def _judge_weights(config: TrialConfig, classes_n: int) -> list[str]:
    """What was taken off or left out of a weights file of the user's. Raises CifarHpcError where it cannot be used."""
    from cifar_hpc.models.weights import check_published

    assert config.weights is not None
    if config.weights_fingerprint is None:
        check_published(config.arch, config.weights)
        return []
    from cifar_hpc.models.zoo import build_model, in_channels

    channels = in_channels(config, config.dataset.channels or catalog.dataset(config.dataset.name).channels)
    warnings = build_model(config, classes_n, channels).warnings
    gc.collect()
    return [f"{config.weights}: {warning}" for warning in warnings]
