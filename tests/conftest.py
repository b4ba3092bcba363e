"""What every test gets, and the rule that CI skips nothing and collects something."""

from __future__ import annotations

import os

import pytest

from cifar_hpc.config import catalog, plugins, sources
from cifar_hpc.config.registry import OBJECTIVES, OPTIMIZERS, OWN_AUGMENTS, SCHEDULES
from tests.helpers.slurm_cluster import _running_cluster, cluster  # noqa: F401 - fixtures


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") == "true" and reporter is not None and reporter.stats.get("skipped"):
        reporter.write_line("CI must run every test, and some were skipped", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(autouse=True)
def _own_results_folder(tmp_path, monkeypatch):
    """No test reads or writes the results of the person who runs it."""
    monkeypatch.setenv("CIFAR_HPC_RESULTS", str(tmp_path / "results"))


@pytest.fixture(autouse=True)
def _no_plugins_of_another_test():
    """What a test's plug-ins registered is gone after it: the registries are the process's."""
    registries = (OPTIMIZERS, SCHEDULES, OWN_AUGMENTS, OBJECTIVES)
    kept = [registry._entries for registry in registries] + [catalog.AUGMENT_OPS, plugins._read, plugins._origins]
    before = [dict(entries) for entries in kept]
    yield
    for entries, old in zip(kept, before, strict=True):
        if entries != old:
            entries.clear()
            entries.update(old)
            OPTIMIZERS.changes += 1  # what was made of the names is made again
            sources._load_file.cache_clear()  # and a plug-in of which nothing is known is executed again
