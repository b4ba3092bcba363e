"""Results of another user's, under umask 077: they may not be read, which is not the same as none being there."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from pathlib import Path

import pytest

from cifar_hpc.errors import RecordError
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.plans import read_plan

OTHER = 65534  # nobody


@pytest.fixture
def results():
    """A folder that everybody may enter, while this process is another user than its owner."""
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    folder = Path(tempfile.mkdtemp(prefix="closed-", dir="/tmp"))  # pytest's own folders are closed to others
    folder.chmod(0o755)
    (folder / "results/s").mkdir(parents=True)
    (folder / "results/s/plan.json").write_text("{}")
    yield Layout(folder / "results")
    os.seteuid(0)
    shutil.rmtree(folder)


@pytest.mark.parametrize("closed", ["", "s"])
def test_what_may_not_be_read_is_not_said_to_be_missing(results, closed):
    (results.root / closed).chmod(stat.S_IRWXU)
    os.seteuid(OTHER)
    with pytest.raises(RecordError, match="you may not read"):
        read_plan(results, "s")
    assert results.closed() == [results.root / closed]
