#!/usr/bin/env python3
"""What Slurm costs a sweep, on the local cluster (slurm/local) and by default under 3 minutes of it.

    eval "$(python3 slurm/local/cluster.py env --root DIR)"; python benchmarks/slurm.py [--trials 10000] [--short 100]

0 for either leaves that part out.

1. Submit: `--trials` trials planned, packed and sent, held, then cancelled; seconds, sbatch calls, bytes a job.
2. Status: the state of all of them from a cold cache; seconds and remote procedure calls to the controller.
3. Overhead: `--short` one-epoch trials that share nothing, ours against plain submitit `map_array` of the same work, one job a
   trial, and against the same trials in this process.
4. Nodes: one trial in 2 processes on each of 2 nodes, and its numbers beside those of one process.
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

from cifar_hpc.executors.base import run_on_node
from cifar_hpc.executors.slurm.profile import SlurmProfile
from cifar_hpc.executors.slurm.queue import SlurmQueue
from cifar_hpc.planning.plan import Resources, jobs_for, make_plan, plan_record
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import TrialResult
from cifar_hpc.records.store import read_record, write_record
from cifar_hpc.spec.load import load_spec
from cifar_hpc.sweep.listener import Silent
from cifar_hpc.sweep.submit import submit
from cifar_hpc.sweep.where import reader_of

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
        if arguments.trials:
            measure_submission(folder, arguments.trials)
        if arguments.short:
            measure_overhead(folder, arguments.short)
        measure_nodes(folder)
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
    submit(layout, plan, [trial.trial_id for trial in plan.trials], profile, Silent(), canary=True)
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
    states = reader_of(layout, plan_record(plan)).read()
    status_s = time.perf_counter() - began
    queued = sum(state.status.value == "queued" for state in states.values())
    # every look at the counters is one call itself
    _print(measure="status", trials=len(states), queued=queued, seconds=round(status_s, 2), rpcs=_rpcs() - before - 1)
    began = time.perf_counter()
    reader_of(layout, plan_record(plan)).read()
    _print(measure="status again", seconds=round(time.perf_counter() - began, 2))
    SlurmQueue(layout.queue).cancel(sorted({path.name.split("_")[0] for path in logs.glob("*.pkl")}))


def measure_overhead(folder: Path, trials_n: int) -> None:
    """The same trials with the same number of jobs at once: packed and sent by us, and one job a trial by submitit."""
    at_once = 8
    path = folder / "short.yaml"
    path.write_text(SPEC.format(name="short", lrs=[0.01], seeds=trials_n, gpus=0, minutes=1))
    plan = make_plan(load_spec(path))
    ids = [trial.trial_id for trial in plan.trials]

    ours = Layout(folder / "ours")
    began = time.perf_counter()
    submit(ours, plan, ids, SlurmProfile(parallel=at_once), Silent(), canary=False)
    _wait(ours, ids)
    ours_s = time.perf_counter() - began

    theirs = Layout(folder / "theirs")
    executor = submitit.AutoExecutor(folder=folder / "submitit", cluster="slurm")
    executor.update_parameters(timeout_min=5, mem_gb=1, slurm_array_parallelism=at_once)
    began = time.perf_counter()
    jobs = jobs_for(plan, ids, 1)
    assert len(jobs) == trials_n, "trials of different seeds share no cohort"
    executor.map_array(_run_one, jobs, [theirs] * len(jobs))
    _wait(theirs, ids)
    theirs_s = time.perf_counter() - began
    began = time.perf_counter()
    for job in jobs:
        run_on_node(job, Layout(folder / "inline"), executor="inline")
    inline_s = time.perf_counter() - began
    _print(
        measure="overhead",
        trials=trials_n,
        at_once=at_once,
        ours_s=round(ours_s, 1),
        submitit_s=round(theirs_s, 1),
        inline_s=round(inline_s, 1),
        ours_s_per_trial=round(ours_s / trials_n, 3),
        submitit_s_per_trial=round(theirs_s / trials_n, 3),
        ratio=round(theirs_s / ours_s, 2),
    )


def measure_nodes(folder: Path) -> None:
    """The largest difference between the curves of four processes on two nodes and of one process, which only the order of
    sums makes (dropout would add its own: each process draws its own)."""
    path = folder / "nodes.yaml"
    needs = "{gpus: 0, nodes: 2, processes: 2, minutes: 5, memory_gb: 1}"
    path.write_text(
        "name: nodes\ndataset: {name: digits, train_size: 400}\n"
        f"base: {{arch: simple_cnn, image_size: 8, epochs: 5}}\nresources: {needs}\n"
    )
    plan = make_plan(load_spec(path))
    (job,) = jobs_for(plan, [trial.trial_id for trial in plan.trials], 1)
    several, one = Layout(folder / "nodes"), Layout(folder / "one")
    began = time.perf_counter()
    submit(several, plan, job.trial_ids, SlurmProfile(environment={"OMP_NUM_THREADS": "1"}), Silent(), canary=False)
    _wait(several, list(job.trial_ids))
    seconds = time.perf_counter() - began
    run_on_node(replace(job, resources=Resources()), one, executor="inline")
    ours, theirs = (read_record(layout.trial(job.trial_ids[0]).result, TrialResult) for layout in (several, one))
    pairs = list(zip(ours.curves, theirs.curves, strict=True))
    _print(
        measure="2 nodes x 2 processes",
        processes=ours.hardware.world_size,
        epochs=len(pairs),
        seconds=round(seconds, 1),
        largest_relative_difference_of_val_loss=max(abs(a.val_loss - b.val_loss) / b.val_loss for a, b in pairs),
        test_acc=[ours.test.acc, theirs.test.acc],
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
