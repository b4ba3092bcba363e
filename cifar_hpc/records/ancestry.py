"""What trials started from, back to the first network, whichever sweep trained it.

Owns: whether what validates a trial may be among the images that trained what it starts from. Measures nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cifar_hpc.config.dataset import DatasetConfig
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.plans import parent_in
from cifar_hpc.records.ties import read_valid


@dataclass(frozen=True, slots=True)
class _Told:
    dataset: DatasetConfig
    parent: str | None


class Ancestry:
    """configs: by trial id what plans say of trials, as JSON; of others their results say it. Reads each once."""

    def __init__(self, layout: Layout, configs: Mapping[str, Mapping[str, Any]]) -> None:
        self._layout, self._configs = layout, configs
        self._told: dict[str, _Told | None] = {}
        self._datasets: dict[str, DatasetConfig] = {}

    def may_have_seen(self, trial_id: str) -> bool:
        """Whether a network that the trial starts from, or one before that, may have trained on what validates it: it is of
        the same data set, but of another split. Of a network of which no record tells, nothing is said."""
        own = self._of(trial_id)
        older = own
        while own is not None and older is not None and older.parent is not None:
            older = self._of(older.parent)
            if older is not None and own.dataset.may_validate_with_images_of(older.dataset):
                return True
        return False

    def _of(self, trial_id: str) -> _Told | None:
        if trial_id not in self._told:
            self._told[trial_id] = self._read(trial_id)
        return self._told[trial_id]

    def _read(self, trial_id: str) -> _Told | None:
        try:
            config = self._configs.get(trial_id) or read_valid(self._layout.trial(trial_id), trial_id)[0].config
            return _Told(self._dataset(config["dataset"]), parent_in(config))
        except (CifarHpcError, OSError, TypeError, KeyError, ValueError, AttributeError):  # none, or of another version
            return None

    def _dataset(self, data: Mapping[str, Any]) -> DatasetConfig:
        """One object for equal ones, which knows its digest."""
        text = json.dumps(data)
        if text not in self._datasets:
            self._datasets[text] = DatasetConfig.from_json(data)
        return self._datasets[text]
