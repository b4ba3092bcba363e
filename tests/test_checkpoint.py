"""Checkpoints on a disk that takes no more."""

from __future__ import annotations

import errno
import resource

import pytest
import torch

from cifar_hpc.worker.checkpoint import load_checkpoint, save_checkpoint


def test_a_disk_that_is_full_is_told_in_its_own_words_and_the_former_checkpoint_stands(tmp_path):
    """torch.save answers a failed write by an error of its own, which says nothing of the disk."""
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"epoch": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(OSError, match="too large") as told:
            save_checkpoint(path, {"epoch": 2, "weights": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert told.value.errno == errno.EFBIG
    assert load_checkpoint(path) == {"epoch": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint.pt"]
