#!/usr/bin/env python3
"""What Slurm costs a sweep, on the local cluster (slurm/local).

    eval "$(python3 slurm/local/cluster.py env --root DIR)"
    python benchmarks/slurm.py [--trials 10000] [--pull 200] [--peer 20] [--kill-s 20]

0 leaves a part out. The defaults take about eight minutes on two busy cores; --pull 1000 --peer 100 belong on a quiet machine.

1. Submit: `--trials` trials planned and sent, held, then cancelled; seconds, sbatch calls, bytes a job.
2. Status: the state of all of them from a cold cache; seconds and remote procedure calls to the controller.
3. Pull: `--pull` trials of half a second to some seconds that share nothing, by one worker on each node, while a node is killed
   every `--kill-s` seconds and comes back after two; then `--peer` of them by plain submitit `map_array`, one job a trial,
   as many at once, on nodes that are killed alike; then in this process.
4. Nodes: one trial in 2 processes on each of 2 nodes, and its numbers beside those of one process.

Of part 3: `allocated_s` are task-seconds in which squeue showed a task running; `training_s` those from a trial's claim to its
result, of the attempts that count, so that what a kill destroyed is none; `start_s` is what a start takes until its first
claim, the median, `first_s` until its first result, which holds what torch loads with its first step. `training_frac` is
training_s / allocated_s, `after_start` the same without the time before each start's first claim, `after_first` without that
before its first result, nor that trial. Each line is a JSON object. The machine's load is printed first: compare runs of like
load only.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import submitit

from cifar_hpc.executors.base import run_on_node
from cifar_hpc.executors.slurm.profile import SlurmProfile
from cifar_hpc.executors.slurm.queue import SlurmQueue
from cifar_hpc.executors.slurm.work import Work
from cifar_hpc.planning.plan import Plan, Resources, jobs_for, make_plan, plan_record
from cifar_hpc.records.jobs import JobEvent
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import TrialResult
from cifar_hpc.records.store import read_record, read_records, write_record
from cifar_hpc.spec.load import load_spec
from cifar_hpc.sweep.listener import Silent
from cifar_hpc.sweep.missing import to_start
from cifar_hpc.sweep.submit import submit
from cifar_hpc.sweep.where import reader_of

HERE = Path(__file__).resolve().parent  # where this file would be taken for the package `slurm`
sys.path[:] = [str(HERE.parent), *(path for path in sys.path if Path(path).resolve() != HERE)]
from slurm.local.cluster import Cluster  # noqa: E402
from slurm.local.daemons import CLUSTER_VARIABLE  # noqa: E402

SPEC = """\
name: {name}
dataset: {{name: digits, train_size: 200}}
base: {{arch: linear, image_size: 8, epochs: 1}}
grid: {{lr: {lrs}}}
seeds: {seeds}
resources: {{gpus: {gpus}, minutes: {minutes}, memory_gb: 1}}
"""

SHORT = """\
name: short
dataset: {{name: digits, train_size: 400}}
base: {{arch: simple_cnn, image_size: 8, batch_size: 64}}
grid: {{epochs: [2, 4, 6, 8]}}
seeds: {seeds}
resources: {{gpus: 0, minutes: 1, memory_gb: 1}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--pull", type=int, default=200)
    parser.add_argument("--peer", type=int, default=20)
    parser.add_argument("--kill-s", type=float, default=20.0)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="cifar-hpc-bench-"))
    _print(measure="machine", cpus=os.cpu_count(), load=os.getloadavg()[0], slurm=_slurm("sinfo", "--version").strip())
    try:
        if arguments.trials:
            measure_submission(folder, arguments.trials)
        if arguments.pull:
            measure_pull(folder, arguments.pull, arguments.peer, arguments.kill_s)
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
    works = [Work.read(path) for path in logs.glob("*/work.json")]
    jobs_n, calls = sum(work.workers for work in works), len(works)
    files = [path for path in logs.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files) + layout.sweep("many").jobs.stat().st_size
    handles = sorted(
        {event.handle for event in read_records(layout.sweep("many").jobs, JobEvent) if event.event == "submitted"}
    )
    _print(
        measure="submit",
        trials=len(plan.trials),
        jobs=jobs_n,
        sbatch_calls=calls,
        seconds=round(total_s, 2),
        of_which_planning=round(planned_s, 2),
        files=len(files),
        bytes_per_trial=round(size / len(plan.trials)),
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
    SlurmQueue(layout.queue).cancel(handles)


class Watch:
    """Samples what is allocated while a block runs, and cuts the power of a node now and then."""

    def __init__(self, kill_every_s: float) -> None:
        self.cluster = Cluster.load(Path(os.environ[CLUSTER_VARIABLE]))
        self.kill_every_s = kill_every_s
        self.kills = self.controller_deaths = 0
        self.starts: defaultdict[tuple[str, str], float] = defaultdict(
            float
        )  # task and when it started -> seconds in which it ran
        self._stopped = threading.Event()
        self._asking = threading.Lock()

    def __enter__(self) -> Watch:
        self._threads = [threading.Thread(target=self._sample), threading.Thread(target=self._kill)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """While inside, nothing here asks Slurm."""
        with self._asking:
            yield

    def _sample(self) -> None:
        before = time.monotonic()
        while not self._stopped.wait(0.5):
            with self._asking:
                lines = self.cluster.run("squeue", "-h", "-t", "running", "-o", "%i|%S", check=False).splitlines()
            now = time.monotonic()
            for line in lines:
                if "|" in line:
                    self.starts[line.split("|")[0], line.split("|")[1]] += now - before
            before = now

    def _kill(self) -> None:
        nodes = itertools.cycle(self.cluster.site.nodes)
        while self.kill_every_s and not self._stopped.wait(self.kill_every_s):
            node = next(nodes)
            with self._asking:
                self.controller_deaths += self.cluster.keep_controller()
                self.cluster.kill_node(node, tell=True)
            self.kills += 1
            # Slurm tells a node that is back of the job that it lost, and may end the same job's next start there by that: it
            # is back before the job may start again, which is after AuthInfo's cred_expire.
            self._stopped.wait(2)
            with self._asking:
                self.cluster.start_node(node)
                self.cluster.run("scontrol", "update", f"nodename={node}", "state=resume", check=False)


def measure_pull(folder: Path, trials_n: int, peer_n: int, kill_s: float) -> None:
    path = folder / "short.yaml"
    path.write_text(SHORT.format(seeds=max(1, trials_n // 4)))
    plan = make_plan(load_spec(path))
    ids = [trial.trial_id for trial in plan.trials]
    ours = Layout(folder / "ours")
    write_record(ours.sweep("short").plan, plan_record(plan))
    nodes_n = len(Cluster.load(Path(os.environ[CLUSTER_VARIABLE])).site.nodes)
    profile = SlurmProfile(parallel=nodes_n, sbatch={"exclusive": True}, environment={"OMP_NUM_THREADS": "1"})
    rpcs: list[int] = []
    with Watch(kill_s) as watch:
        began = asked = time.perf_counter()
        submit(ours, plan, ids, profile, Silent(), canary=False)
        while not _all_there(ours, ids):
            time.sleep(1)
            if time.perf_counter() - asked > 30:
                asked = time.perf_counter()
                SlurmQueue(ours.queue).forget()
                with watch.paused():
                    before = _rpcs()
                    states = reader_of(ours, plan_record(plan)).read()
                    rpcs.append(_rpcs() - before - 1)
                if not any(state.status.value in ("queued", "running") for state in states.values()):
                    submit(ours, plan, to_start(states, on_slurm=True), profile, Silent(), canary=False)
        seconds = time.perf_counter() - began
    results = [read_record(ours.trial(trial_id).result, TrialResult) for trial_id in ids]
    _print(measure="pull", trials=len(ids), **_shares(results, watch), seconds=round(seconds, 1), rpcs_a_status=rpcs)
    if peer_n:
        _measure_peer(folder, plan, ids[:: max(1, len(ids) // peer_n)], nodes_n, kill_s)


def _measure_peer(folder: Path, plan: Plan, ids: list[str], at_once: int, kill_s: float) -> None:
    theirs = Layout(folder / "theirs")
    theirs.root.mkdir()
    executor = submitit.AutoExecutor(folder=folder / "submitit", cluster="slurm")
    executor.update_parameters(timeout_min=5, mem_gb=1, slurm_array_parallelism=at_once, slurm_exclusive=True)
    executor.update_parameters(slurm_setup=["export OMP_NUM_THREADS=1"])
    jobs = jobs_for(plan, ids, 1)
    with Watch(kill_s) as watch:
        began = time.perf_counter()
        executor.map_array(_run_one, jobs, [theirs] * len(jobs))
        while not _all_there(theirs, ids):
            time.sleep(1)
            if not watch.cluster.run("squeue", "-h", check=False).strip():
                break  # what it lost it does not bring back
        seconds = time.perf_counter() - began
    done = [trial_id for trial_id in ids if theirs.trial(trial_id).result.exists()]
    results = [read_record(theirs.trial(trial_id).result, TrialResult) for trial_id in done]
    _print(measure="submitit map_array", trials=len(ids), **_shares(results, watch), seconds=round(seconds, 1))
    began = time.perf_counter()
    for job in jobs:
        run_on_node(job, Layout(folder / "inline"), executor="inline")
    _print(measure="in this process", trials=len(ids), seconds=round(time.perf_counter() - began, 1))


def _shares(results: list[TrialResult], watch: Watch) -> dict[str, Any]:
    spans = {result.trial_id: (_time(result.started_at), _time(result.finished_at)) for result in results}
    begun = {key: time.mktime(time.strptime(key[1], "%Y-%m-%dT%H:%M:%S")) for key in watch.starts}
    of_start: dict[tuple[str, str], list[tuple[float, float]]] = {key: [] for key in begun}
    for result in results:
        start = spans[result.trial_id][0]
        own = [key for key in begun if result.task in (None, f"slurm/{key[0]}") and begun[key] <= start]
        if own:
            of_start[max(own, key=begun.__getitem__)].append(spans[result.trial_id])
    allocated_s, training_s = sum(watch.starts.values()), sum(end - start for start, end in spans.values())
    firsts = {key: min(mine) for key, mine in of_start.items() if mine}
    starting_s = sum(
        min(watch.starts[key], firsts[key][0] - begun[key]) if key in firsts else watch.starts[key] for key in begun
    )
    later_s = sum(watch.starts[key] - min(watch.starts[key], firsts[key][1] - begun[key]) for key in firsts)
    later_training_s = training_s - sum(end - start for start, end in firsts.values())
    return {
        "finished": len(results),
        "attempts": sum(result.attempts for result in results),
        "kills": watch.kills,
        "controller_deaths": watch.controller_deaths,
        "starts": len(watch.starts),
        "start_s": round(statistics.median(firsts[key][0] - begun[key] for key in firsts), 1) if firsts else None,
        "first_s": round(statistics.median(firsts[key][1] - begun[key] for key in firsts), 1) if firsts else None,
        "allocated_s": round(allocated_s),
        "training_s": round(training_s),
        "training_frac": _share(training_s, allocated_s),
        "after_start": _share(training_s, allocated_s - starting_s),
        "after_first": _share(later_training_s, later_s),
    }


def _share(part: float, whole: float) -> float | None:
    return round(part / whole, 3) if whole >= 1 else None


def _time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _all_there(layout: Layout, ids: list[str]) -> bool:
    return all(layout.trial(trial_id).result.exists() for trial_id in ids)


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
