"""What every test gets, and the rule that CI skips nothing and collects something."""

from __future__ import annotations

import gc
import os

import pytest

from cifar_hpc.planning.estimate import Speed
from cifar_hpc.sweep import calibration
from tests.helpers.reported import small_layout, small_page  # noqa: F401 - fixtures
from tests.helpers.slurm_cluster import _running_cluster, cluster  # noqa: F401 - fixtures


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    gc.unfreeze()  # what is left of libraries may be collected at the end
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") == "true" and reporter is not None and reporter.stats.get("skipped"):
        reporter.write_line("CI must run every test, and some were skipped", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="module", autouse=True)
def _what_stands_is_not_searched():
    """Each job collects what it left: with torch's half a million objects among what is searched, that takes half a second."""
    gc.freeze()


@pytest.fixture(autouse=True)
def _own_results_folder(tmp_path, monkeypatch):
    """No test reads or writes the results of the person who runs it."""
    monkeypatch.setenv("CIFAR_HPC_RESULTS", str(tmp_path / "results"))


@pytest.fixture(autouse=True)
def _known_machine(monkeypatch, request):
    """No test measures how fast this machine is but the one that says so."""
    if "measures_machine" not in request.fixturenames:
        monkeypatch.setattr(calibration, "machine_speed", lambda resources, listener: Speed(1e-10, 1e-3))


@pytest.fixture
def measures_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
