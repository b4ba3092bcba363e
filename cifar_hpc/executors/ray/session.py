"""A Ray of our own on this machine for as long as a sweep runs: what it is told, where it writes, what is there to give out.

Knows nothing of jobs. Everything that Ray writes lies in one short temporary folder; what a killed sweep left of such folders
the next one removes. Where $RAY_ADDRESS names a cluster (slurm/ray_cluster.sbatch starts one over several nodes) the sweep runs
on that one, and the folder lies beside its logs, where all nodes see it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cifar_hpc.errors import CifarHpcError
from cifar_hpc.executors.base import LocalHandles, StopRequest
from cifar_hpc.planning.plan import Resources
from cifar_hpc.records.jobs import JobState

LONGEST_TEMPORARY = 40  # characters: Ray adds some 60 for its sockets, and a socket's path ends at 107
OBJECT_STORE_BYTES = 100 * 2**20  # only jobs and epoch records travel through it
PREFIX = "chpc-"
ADDRESS_VARIABLE = "RAY_ADDRESS"  # Ray's own

# Set before ray is imported: it reads most of these once.
ENVIRONMENT = {
    "PYTHONWARNINGS": "ignore::FutureWarning",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a job without a GPU sees none
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_AUTH_MODE": "token",  # on a shared node nobody else may hand work to our processes
    "RAY_DEDUP_LOGS": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # an epoch whose loss is not finite has no number to judge it by
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_WARN_THRESHOLD_S": "60",
}


@contextlib.contextmanager
def ray_session(log: Path, stopped: StopRequest | None = None) -> Iterator[Path]:
    """Ray, and the folder that holds all it writes; both end with the block. log: takes what Ray says in this process,
    to its stdout, from where its words on a dead worker would reach the user's. stopped: heeded once Ray has started."""
    stopped = stopped or StopRequest()
    wanted = {**ENVIRONMENT, "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    if "ray" in sys.modules and "RAY_AUTH_MODE" not in os.environ:  # it has read that already, and would not know its own token
        print("warning: ray was imported before: others on this host may hand work to this sweep's", file=sys.stderr)
        wanted = {name: value for name, value in wanted.items() if not name.startswith("RAY_AUTH")}
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
    package, given = str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH")
    if package not in (given or "").split(os.pathsep):  # workers find this very package, installed or not
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [package, given]))
    base = Path(tempfile.gettempdir())
    base = base if len(str(base)) <= LONGEST_TEMPORARY - 14 else Path("/tmp")
    address = os.environ.get(ADDRESS_VARIABLE)
    if address:
        base = log.parent
        base.mkdir(parents=True, exist_ok=True)
    remove_abandoned(base)
    temporary = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
    _owner_file(temporary).write_text(LocalHandles.own_handle())
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        with log.open("a", buffering=1) as stream, contextlib.redirect_stdout(stream):
            own: dict[str, Any] = {
                "num_cpus": cpus(),
                "object_store_memory": OBJECT_STORE_BYTES,
                "include_dashboard": False,
                "_temp_dir": str(temporary),
            }
            quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
            try:
                with stopped.heeded_after("Ray"), _own_signals(), _told_where_it_does_not_start(address):
                    import ray

                    ray.init(address=address or "local", **quiet, **({} if address else own))
                for name in ("ray", "ray.tune", "ray.train"):
                    logging.getLogger(name).setLevel(logging.CRITICAL)
                yield temporary
            finally:
                import ray

                ray.shutdown()
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        with contextlib.suppress(OSError):
            if log.stat().st_size == 0:
                log.unlink()


@contextlib.contextmanager
def _told_where_it_does_not_start(address: str | None) -> Iterator[None]:
    """What Ray raises at its start says what its parts waited for, and not what to type."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:  # a full disk, no file handles: told as everywhere
            raise
        import ray

        with contextlib.suppress(Exception):  # what had started
            ray.shutdown()
        said = next(iter(str(error).splitlines()), "") or type(error).__name__
        if address:
            advice = f"${ADDRESS_VARIABLE} names {address}: is that cluster up? Without the variable Ray starts on this machine"
        else:
            advice = "a busy machine takes longer than Ray waits: type the command again, or with --on inline, without Ray"
        raise CifarHpcError(f"Ray does not start ({said}); {advice}") from error


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Processes started inside live on when the terminal closes: it is this process that has them save and ends them. What
    Ray wants to be done on SIGTERM, which ends this process, is not done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signal.SIGHUP: signal.signal(signal.SIGHUP, signal.SIG_IGN), signal.SIGTERM: signal.getsignal(signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def remove_abandoned(base: Path) -> None:
    """Removes the folders in base whose sweep was killed: their owner ran on this machine and is gone."""
    for folder in base.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            owner = _owner_file(folder).read_text()
            if LocalHandles().states([owner])[owner] is JobState.GONE:
                shutil.rmtree(folder, ignore_errors=True)


def cpus() -> int:
    """CPUs that this process may use (a Slurm allocation may be less than the machine)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def tune_resources(asked: Resources) -> dict[str, float]:
    """What a job reserves. Raises CifarHpcError where no node can ever give it; warns of what has no effect here."""
    there = _largest_node()
    gpus_there = there.get("GPU", 0.0)
    gpus = min(1.0, gpus_there) if asked.gpus is None else asked.gpus
    if gpus and not gpus_there:
        print(f"warning: the spec asks for {gpus:g} GPU a trial; Ray has none to give: training on the CPU", file=sys.stderr)
        gpus = 0.0
    memory_bytes = (asked.memory_gb or 0.0) * 1e9
    for name, wanted, limit in (
        ("gpus", gpus, gpus_there),
        ("memory_gb", memory_bytes / 1e9, there.get("memory", 0.0) / 1e9),
    ):
        if wanted > limit:
            raise CifarHpcError(
                f"resources.{name}: a trial asks for {wanted:g}; the most that Ray has on a node is {limit:.3g}"
            )
    cpus_n = min(asked.cpus_per_gpu * (asked.processes or max(1, round(gpus))), max(1, int(there.get("CPU", 1))))
    return {"cpu": cpus_n, "gpu": gpus, **({"memory": memory_bytes} if memory_bytes else {})}


def side_by_side(reserved: Mapping[str, float]) -> int:
    """How many jobs with such a reservation have room at once."""
    import ray

    there: Mapping[str, float] = ray.cluster_resources()
    names = {"cpu": "CPU", "gpu": "GPU", "memory": "memory"}
    return max(1, min(int(there.get(names[name], 0.0) / amount) for name, amount in reserved.items() if amount))


def _largest_node() -> dict[str, float]:
    """Of each resource the most that one node has: no job spans several."""
    import ray

    there: dict[str, float] = {}
    for node in ray.nodes():
        if node["Alive"]:
            for name, amount in node["Resources"].items():
                there[name] = max(amount, there.get(name, 0.0))
    return there


def _owner_file(folder: Path) -> Path:
    return folder / "owner"
