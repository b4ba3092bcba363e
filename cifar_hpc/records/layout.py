"""Where every file under results/ lies. The only file of the package that spells their names.

Owns: what may be a name. Whether it came from a record or a command line, it is checked here before it becomes a path.
"""

from __future__ import annotations

import itertools
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path

from cifar_hpc.errors import RecordError

RESULTS_VARIABLE = "CIFAR_HPC_RESULTS"
SOURCE_FILE = "source.json"  # beside a copied package: the commit that it was copied from


_CLAIM = re.compile(r"claim-([0-9]{1,9})\.json")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def is_name(text: str) -> bool:
    """Whether it may name a trial, a sweep or a job: one part of a path, which leads nowhere else."""
    return _NAME.fullmatch(text) is not None


def _checked(name: str) -> str:
    if not is_name(name):
        raise RecordError(f"{name!r:.80} names no trial, sweep or job: letters, digits, '.', '_' and '-', as a file is named")
    return name


def _local(handle: str) -> str:
    """A Slurm handle without its cluster, as log files are named."""
    return _checked(handle.partition("@")[0])


def attempt_of(claim: Path) -> int:
    """The number of the attempt whose claim file it is."""
    found = _CLAIM.fullmatch(claim.name)
    return int(found[1]) if found else 0


def results_root() -> Path:
    """$CIFAR_HPC_RESULTS, or results/ in the working directory."""
    return Path(os.environ.get(RESULTS_VARIABLE, "results")).expanduser().absolute()


@dataclass(frozen=True, slots=True)
class TrialFiles:
    """results/trials/<trial_id>/: three files once finished, a few more while it runs or after it failed. stopped_by: the sweep
    whose search stopped the trial, of what it had measured until then; see `until_stopped`."""

    folder: Path
    stopped_by: str | None = None

    def until_stopped(self, sweep: str) -> TrialFiles:
        """The result and the predictions of the trial as the sweep's search stopped it, where another sweep has trained it
        again since. No weights are among them."""
        return TrialFiles(self.folder, _checked(sweep))

    def _named(self, stem: str, suffix: str) -> Path:
        until = "" if self.stopped_by is None else f"-until-stopped-{self.stopped_by}"
        return self.folder / f"{stem}{until}{suffix}"

    @property
    def trial(self) -> Path:
        return self.folder / "trial.json"

    @property
    def result(self) -> Path:
        return self._named("result", ".json")

    def refused_result(self) -> Path:
        """Where a result that is none is put aside; a name that nothing has."""
        names = (f"result.json.refused{f'-{n}' if n > 1 else ''}" for n in itertools.count(1))
        return next(path for name in names if not (path := self.folder / name).exists())

    def has_refused_result(self) -> bool:
        return any(self.folder.glob("result.json.refused*"))

    @property
    def predictions(self) -> Path:
        return self._named("predictions", ".npz")

    @property
    def weights(self) -> Path:
        """The network at its best epoch, where the trial was told to keep it."""
        return self._named("weights", ".safetensors")

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.jsonl"

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    @property
    def error(self) -> Path:
        return self.folder / "error.json"

    def claim(self, attempt: int) -> Path:
        return self.folder / f"claim-{attempt:04d}.json"

    def claims(self) -> list[Path]:
        """Claim files by attempt, oldest first; empty where the folder is absent."""
        numbered = {path: _CLAIM.fullmatch(path.name) for path in self.folder.glob("claim-*.json")}
        return sorted((path for path in numbered if numbered[path]), key=attempt_of)


@dataclass(frozen=True, slots=True)
class ArrayFiles:
    """results/<sweep>/logs/<name>/: one submission to Slurm and what its tasks printed, of at most as many as an array has."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def script(self) -> Path:
        return self.folder / "script.sh"

    @property
    def work(self) -> Path:
        """What its tasks are to do."""
        return self.folder / "work.json"

    def profile(self, name: str) -> Path:
        """The site's profile as it was, for a job that submits others."""
        return self.folder / f"{name}.yaml"


@dataclass(frozen=True, slots=True)
class SweepFiles:
    """results/<sweep>/: what was asked for and what was started."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def spec(self) -> Path:
        return self.folder / "spec.yaml"

    @property
    def plan(self) -> Path:
        return self.folder / "plan.json"

    def earlier_plan(self, created_at: str) -> Path:
        """A plan that another one replaced."""
        return self.folder / f"plan-{re.sub('[^0-9]', '', created_at)[:17]}.json"

    @property
    def jobs(self) -> Path:
        return self.folder / "jobs.jsonl"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    def log(self, job_id: str) -> Path:
        """What the job's process printed, all attempts one after another; absent where it ran in the terminal's process."""
        return self.logs / f"{_checked(job_id)}.log"

    def array(self, name: str) -> ArrayFiles:
        """Of a Slurm array of this name, or of a job of its own."""
        return ArrayFiles(self.logs / _checked(name))

    def task_logs(self, handle: str) -> list[Path]:
        """What an array task printed, one file for each of its nodes; of a handle without an index what all its tasks did."""
        return sorted(self.logs.glob(f"*/{_local(handle)}_*_log.out"))

    def task_ends(self, handle: str) -> list[Path]:
        """Where the batch script of an array task noted its ends without a word; one file at most."""
        return sorted(self.logs.glob(f"*/{_local(handle)}.ends"))

    def resource_class(self, mark: str) -> Path:
        """What is known of a class of jobs: `passed`, or `broken` and by which job."""
        return self.logs / f".class-{_checked(mark)}"

    @property
    def usage(self) -> Path:
        """What the workers of a cluster took, a line now and then from each."""
        return self.folder / "usage.jsonl"

    @property
    def budget(self) -> Path:
        """What they may take; absent where nothing bounds it."""
        return self.folder / "budget.json"

    def rendezvous(self, start: str) -> Path:
        """Where the processes of one start of a job on several nodes find each other; gone once it has ended."""
        return self.folder / f".rendezvous-{start}"

    def meetings(self, start: str) -> list[Path]:
        """Those of starts that begin so."""
        return sorted(self.folder.glob(f".rendezvous-{start}*"))

    @property
    def driver(self) -> TrialFiles:
        """Whose process runs the search: claims as of a trial; gone once it has ended."""
        return TrialFiles(self.folder / ".driver")

    @property
    def ensemble(self) -> Path:
        """Of the refits of an ensemble's members: what `predict` takes."""
        return self.folder / "ensemble.json"

    @property
    def accounting(self) -> Path:
        """What the cluster's accounting last said of the sweep's jobs."""
        return self.folder / "accounting.json"

    @property
    def code(self) -> Path:
        """The package as it was submitted to a cluster, a folder for each state of it."""
        return self.folder / "code"

    @property
    def report(self) -> Path:
        return self.folder / "report"


@dataclass(frozen=True, slots=True)
class Layout:
    """The results folder: one pool of trials for all sweeps, and a folder for each sweep."""

    root: Path

    def require_root(self) -> None:
        """Raises RecordError where the folder is not there: only a command at which a person sits makes it. On a node that does
        not see it, all that is trained would be lost."""
        if not self.root.is_dir():
            raise RecordError(f"results: there is no folder {self.root} on {socket.gethostname()}; all nodes must see it there")

    @property
    def pool(self) -> Path:
        return self.root / "trials"

    @property
    def sources(self) -> Path:
        """The user's own code that trials are made of, a folder for each state of it, named by its hash."""
        return self.root / "sources"

    @property
    def index(self) -> Path:
        """The collector's index of finished trials; it may be deleted at any time."""
        return self.root / "index.parquet"

    @property
    def report(self) -> Path:
        """The report over several sweeps or the whole pool."""
        return self.root / "report"

    @property
    def queue(self) -> Path:
        """What the cluster's queue last said, shared by all who ask within some seconds."""
        return self.root / ".queue.json"

    def trial(self, trial_id: str) -> TrialFiles:
        return TrialFiles(self.pool / _checked(trial_id))

    @property
    def leaving(self) -> Path:
        """Where trials' folders go while they are removed."""
        return self.root / ".leaving"

    def has_trial(self, trial_id: str) -> bool:
        return is_name(trial_id) and self.trial(trial_id).folder.is_dir()

    def sweep(self, name: str) -> SweepFiles:
        return SweepFiles(self.root / _checked(name))

    def has_sweep(self, name: str) -> bool:
        return is_name(name) and self.sweep(name).plan.exists()

    def sweeps(self) -> list[SweepFiles]:
        """Every sweep that has a plan, by name."""
        return [SweepFiles(path.parent) for path in sorted(self.root.glob("*/plan.json")) if is_name(path.parent.name)]

    def without_plan(self) -> list[Path]:
        """Folders of sweeps whose spec is there and whose plan is not."""
        folders = [path.parent for path in sorted(self.root.glob("*/spec.yaml")) if is_name(path.parent.name)]
        return [folder for folder in folders if not self.sweep(folder.name).plan.exists()]

    def closed(self) -> list[Path]:
        """Folders of sweeps that this user may not read, or the results folder itself: another user's, under umask 077."""
        if not self.root.is_dir():
            return []
        try:
            with os.scandir(self.root) as entries:
                folders = [Path(entry.path) for entry in entries if is_name(entry.name) and entry.is_dir()]
        except PermissionError:
            return [self.root]
        effective = os.access in os.supports_effective_ids
        return [folder for folder in sorted(folders) if not os.access(folder, os.R_OK | os.X_OK, effective_ids=effective)]

    def trial_ids(self) -> list[str]:
        """Ids of all trials in the pool that have a folder, sorted."""
        return [name for name in self._pool_names() if is_name(name)]

    def foreign_folders(self) -> list[Path]:
        """Folders in the pool that no trial can have."""
        return [self.pool / name for name in self._pool_names() if not is_name(name)]

    def _pool_names(self) -> list[str]:
        if not self.pool.is_dir():
            return []
        with os.scandir(self.pool) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir())
