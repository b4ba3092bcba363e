#!/usr/bin/env python3
"""What Slurm costs a sweep, on the local cluster (slurm/local) and by default under 3 minutes of it.

    eval "$(python3 slurm/local/cluster.py env --root DIR)"; python benchmarks/slurm.py [--trials 10000] [--short 100]

1. Submit: `--trials` trials planned, packed and sent, held, then cancelled; seconds, sbatch calls, bytes a job.
2. Status: the state of all of them from a cold cache; seconds and remote procedure calls to the controller.
3. Overhead: `--short` one-epoch trials, ours against plain submitit `map_array` of the same work, one job a trial.
Each line is a JSON object. The machine's load is printed first: compare runs of like load only.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import submitit

from cifar_hpc.cli.states import SweepReader
from cifar_hpc.cli.submit import submit
from cifar_hpc.executors.base import run_on_node
from cifar_hpc.executors.slurm_profile import SlurmProfile
from cifar_hpc.executors.slurm_queue import SlurmQueue
from cifar_hpc.plan import Cohort, jobs_for, make_plan, plan_record
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.store import write_record
from cifar_hpc.spec.load import load_spec

SPEC = """\
name: {name}
dataset: {{name: digits, train_size: 200}}
base: {{arch: linear, image_size: 8, epochs: 1}}
grid: {{lr: {lrs}}}
seeds: {seeds}
resources: {{gpus: {gpus}, minutes: {minutes}, memory_gb: 1}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--short", type=int, default=100)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="cifar-hpc-bench-"))
    _print(measure="machine", cpus=os.cpu_count(), load=os.getloadavg()[0], slurm=_slurm("sinfo", "--version").strip())
    try:
        measure_submission(folder, arguments.trials)
        measure_overhead(folder, arguments.short)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure_submission(folder: Path, trials_n: int) -> None:
    """Hour-long trials behind a canary that is held back: nothing starts while it is counted."""
    path = folder / "many.yaml"
    lrs = [round(0.001 + i * 0.001, 3) for i in range(100)]
    path.write_text(SPEC.format(name="many", lrs=lrs, seeds=trials_n // 100, gpus=1, minutes=60))
    layout = Layout(folder / "results")
    profile = SlurmProfile(sbatch={"hold": True})
    began = time.perf_counter()
    plan = make_plan(load_spec(path))
    write_record(layout.sweep("many").plan, plan_record(plan))
    planned_s = time.perf_counter() - began
    submit(layout, plan, [trial.trial_id for trial in plan.trials], profile, canary=True)
    total_s = time.perf_counter() - began
    logs = layout.sweep("many").logs
    jobs_n = sum(1 for _ in logs.glob("*.pkl"))
    size = sum(path.stat().st_size for path in logs.iterdir()) + layout.sweep("many").jobs.stat().st_size
    calls = len({path.name.split("_")[0] for path in logs.glob("*.pkl")})
    _print(
        measure="submit",
        trials=len(plan.trials),
        jobs=jobs_n,
        sbatch_calls=calls,
        seconds=round(total_s, 2),
        of_which_planning=round(planned_s, 2),
        bytes_per_job=round(size / jobs_n),
    )
    SlurmQueue(layout.queue).forget()
    before = _rpcs()
    began = time.perf_counter()
    states = SweepReader(layout, plan_record(plan)).read()
    status_s = time.perf_counter() - began
    queued = sum(state.status.value == "queued" for state in states.values())
    # every look at the counters is one call itself
    _print(measure="status", trials=len(states), queued=queued, seconds=round(status_s, 2), rpcs=_rpcs() - before - 1)
    began = time.perf_counter()
    SweepReader(layout, plan_record(plan)).read()
    _print(measure="status again", seconds=round(time.perf_counter() - began, 2))
    SlurmQueue(layout.queue).cancel(sorted({path.name.split("_")[0] for path in logs.glob("*.pkl")}))


def measure_overhead(folder: Path, trials_n: int) -> None:
    """The same trials with the same number of jobs at once: packed and sent by us, and one job a trial by submitit."""
    at_once = 8
    path = folder / "short.yaml"
    lrs = [round(0.001 + i * 0.001, 3) for i in range(trials_n)]
    path.write_text(SPEC.format(name="short", lrs=lrs, seeds=1, gpus=0, minutes=1))
    plan = make_plan(load_spec(path))
    ids = [trial.trial_id for trial in plan.trials]

    ours = Layout(folder / "ours")
    began = time.perf_counter()
    submit(ours, plan, ids, SlurmProfile(parallel=at_once), canary=False)
    _wait(ours, ids)
    ours_s = time.perf_counter() - began

    theirs = Layout(folder / "theirs")
    executor = submitit.AutoExecutor(folder=folder / "submitit", cluster="slurm")
    executor.update_parameters(timeout_min=5, mem_gb=1, slurm_array_parallelism=at_once)
    began = time.perf_counter()
    whole = jobs_for(plan, ids, 1)[0]
    jobs = [
        replace(whole, job_id=f"job-{number:04d}", cohorts=(Cohort(trials=(trial,)),))
        for number, trial in enumerate(plan.trials)
    ]
    executor.map_array(_run_one, jobs, [theirs] * len(jobs))
    _wait(theirs, ids)
    theirs_s = time.perf_counter() - began
    _print(
        measure="overhead",
        trials=trials_n,
        at_once=at_once,
        ours_s=round(ours_s, 1),
        submitit_s=round(theirs_s, 1),
        ours_s_per_trial=round(ours_s / trials_n, 3),
        submitit_s_per_trial=round(theirs_s / trials_n, 3),
        ratio=round(theirs_s / ours_s, 2),
    )


def _run_one(job: Any, layout: Layout) -> None:
    run_on_node(job, layout, executor="slurm")


def _wait(layout: Layout, ids: list[str]) -> None:
    while not all(layout.trial(trial_id).result.exists() for trial_id in ids):
        if failed := [trial_id for trial_id in ids if layout.trial(trial_id).error.exists()]:
            sys.exit(layout.trial(failed[0]).error.read_text())
        time.sleep(0.2)


def _rpcs() -> int:
    """Calls that the controller has served, all kinds."""
    counts = re.findall(r"^\s*REQUEST_(?!STATS)\w+\s+\(.*?\)\s+count:(\d+)", _slurm("sdiag"), re.M)
    return sum(map(int, counts)) + 1


def _slurm(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _print(**values: Any) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    sys.exit(main())
