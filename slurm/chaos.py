#!/usr/bin/env python3
"""A sweep under attack: power cuts, preemptions, requeues, cancels and controller restarts at random on a local cluster of its
own; the canary is preempted twice before anything else.

    python slurm/chaos.py [--minutes 10] [--trials 60] [--seed 0]

Attacks come at the machine's own pace, the time that the first trial beside them takes from the start of Python on: where they
came faster, no worker would live until torch is loaded. After the attacks the sweep is left to end, with `sweep` typed again as
a person would. Exit status 0 where every trial ended exactly once, with the numbers of an undisturbed run beside it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from cifar_hpc.executors.base import run_on_node
from cifar_hpc.executors.slurm.handles import local_part
from cifar_hpc.executors.slurm.profile import SlurmProfile
from cifar_hpc.planning.plan import Plan, jobs_for, make_plan, plan_record
from cifar_hpc.records.claims import read_state
from cifar_hpc.records.jobs import JobEvent
from cifar_hpc.records.layout import Layout, SweepFiles
from cifar_hpc.records.schema import Status, TrialResult
from cifar_hpc.records.store import read_records, write_record
from cifar_hpc.spec.load import load_spec
from cifar_hpc.sweep.listener import Silent
from cifar_hpc.sweep.missing import to_start
from cifar_hpc.sweep.submit import submit
from cifar_hpc.sweep.where import reader_of
from slurm.local.cluster import Cluster, Site

SPEC = """\
name: chaos
dataset: {{name: digits, train_size: 400}}
base: {{arch: simple_cnn, image_size: 8, epochs: {epochs}, batch_size: 64}}
grid: {{lr: [0.01, 0.02, 0.05]}}
seeds: {seeds}
resources: {{gpus: 1, minutes: 5, memory_gb: 1}}
"""
WORKERS = min(12, 3 * (os.cpu_count() or 1))
PROFILE = SlurmProfile(gpu_partition="scavenge", parallel=WORKERS, job_minutes=15)  # jobs of the partition main preempt it
PAUSES = (0.3, 1.2)  # between two attacks, of the machine's pace
CANARY_PREEMPTIONS, CANARY_S = 2, 90.0  # so long the canary may take to begin so often
ENDED = (Status.COMPLETED, Status.STOPPED)


class Attack:
    """The cluster, and what is done to it. Every act leaves it able to recover."""

    def __init__(self, cluster: Cluster, dice: random.Random) -> None:
        self.cluster = cluster
        self.dice = dice
        self.counts: Counter[str] = Counter()
        self.down: dict[str, float] = {}  # node -> when it comes back

    def step(self) -> None:
        now = time.monotonic()
        self.counts["controller deaths"] += self.cluster.keep_controller()
        for node in [node for node, back in self.down.items() if back <= now]:
            self._raise(node)
        acts = [self._cut, self._preempt, self._requeue, self._cancel, self._restart_controller]
        self.dice.choices(acts, weights=[3, 3, 4, 3, 1])[0]()

    def end(self) -> None:
        for node in list(self.down):
            self._raise(node)

    def _cut(self) -> None:
        up = [node for node in self.cluster.site.nodes if node not in self.down]
        if len(up) > 1:
            node = self.dice.choice(up)
            self.cluster.kill_node(node, tell=self.dice.random() < 0.5)
            self.down[node] = time.monotonic() + self.dice.uniform(5, 40)
            self.counts["power cuts"] += 1

    def _raise(self, node: str) -> None:
        del self.down[node]
        self.cluster.start_node(node)
        self.cluster.run("scontrol", "update", f"nodename={node}", "state=resume", check=False)

    def preempt(self, task: str, name: str) -> bool:
        """A job of a higher partition takes the task's whole node, if it runs."""
        node = self.cluster.run("squeue", "-h", "-t", "running", "-j", task, "-o", "%N", check=False).strip()
        if node not in self.cluster.site.nodes or node in self.down:
            return False
        flags = ["--partition=main", f"--nodelist={node}", "--exclusive", "--no-requeue", "--time=1", "--output=/dev/null"]
        self.cluster.run("sbatch", *flags, "--job-name=intruder", "--wrap", "sleep 4", check=False)
        self.counts[name] += 1
        return True

    def _running(self) -> list[str]:
        lines = self.cluster.run("squeue", "-h", "-t", "running", "-o", "%i %j", check=False).splitlines()
        return [line.split()[0] for line in lines if len(line.split()) == 2 and line.split()[1] != "intruder"]

    def _preempt(self) -> None:
        if tasks := self._running():
            self.preempt(self.dice.choice(tasks), "preemptions")

    def _requeue(self) -> None:
        self._on_running("requeues", lambda handle: ["scontrol", "requeue", handle])

    def _cancel(self) -> None:
        self._on_running("cancels", lambda handle: ["scancel", handle])

    def _on_running(self, name: str, command: Callable[[str], list[str]]) -> None:
        if tasks := self._running():
            self.cluster.run(*command(self.dice.choice(tasks)), check=False)
            self.counts[name] += 1

    def _restart_controller(self) -> None:
        self.cluster.stop_controller()
        time.sleep(self.dice.uniform(0, 5))
        self.cluster.start_controller()
        self.counts["controller restarts"] += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="of attacks")
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--port", type=int, default=19000)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="chaos-", dir="/tmp"))
    folder.chmod(0o755)  # munged wants its socket reachable
    nodes = ("n1", "n2", "n3", "n4")
    site = Site(root=folder / "slurm", nodes=nodes, isolated=os.getuid() == 0, port=arguments.port, node_timeout_s=10)
    cluster = Cluster(site, die_with_parent=True)
    cluster.up()
    os.environ["SLURM_CONF"] = str(site.slurm_conf)
    try:
        spec = folder / "chaos.yaml"
        spec.write_text(SPEC.format(epochs=arguments.epochs, seeds=max(1, arguments.trials // 3)))
        plan = make_plan(load_spec(spec))
        attack = Attack(cluster, random.Random(arguments.seed))
        layout, alone = Layout(folder / "results"), Layout(folder / "alone")
        undisturbed = multiprocessing.get_context("spawn").Process(target=_train_alone, args=(spec, alone), daemon=True)
        undisturbed.start()
        changed = _run(layout, plan, attack, arguments.minutes * 60, alone)
        undisturbed.join()
        return _judge(layout, plan, attack, changed, alone)
    finally:
        cluster.down()
        shutil.rmtree(folder, ignore_errors=True)


def _run(layout: Layout, plan: Plan, attack: Attack, attack_s: float, alone: Layout) -> list[str]:
    """Trials whose result changed after it was written: none may."""
    record = plan_record(plan)
    write_record(layout.sweep(plan.spec.name).plan, record)
    reader, seen, changed = reader_of(layout, record), {}, []
    began = time.monotonic()
    submitted_at, attack_at, pace_s = 0.0, 0.0, 0.0
    while True:
        attacking = time.monotonic() - began < attack_s
        if time.monotonic() - submitted_at > 15:
            states = reader.read()
            submitted_at = time.monotonic()
            if todo := to_start(states, on_slurm=True):
                submit(layout, plan, todo, PROFILE, Silent(), canary=True)
            if not attacking:
                attack.end()
                if all(state.status in ENDED for state in states.values()):
                    return changed
                if any(state.status is Status.FAILED for state in states.values()):
                    return changed
        if not pace_s and any(alone.trial(trial.trial_id).result.exists() for trial in plan.trials):
            pace_s = time.monotonic() - began
        if attack.counts["preemptions of canaries"] < CANARY_PREEMPTIONS and time.monotonic() - began < CANARY_S:
            _preempt_canary(layout.sweep(plan.spec.name), attack)
        elif attacking and pace_s and time.monotonic() > attack_at:
            attack.step()
            attack_at = time.monotonic() + pace_s * attack.dice.uniform(*PAUSES)
        for trial in plan.trials:
            path = layout.trial(trial.trial_id).result
            if path.exists():
                content = path.read_bytes()
                if seen.setdefault(trial.trial_id, content) != content:
                    changed.append(trial.trial_id)
        time.sleep(1)


def _preempt_canary(files: SweepFiles, attack: Attack) -> None:
    """Once it has begun: it writes its class's file when it has ended."""
    canaries = [event for event in read_records(files.jobs, JobEvent) if event.job_id.startswith("canary-")]
    for event in canaries[-1:]:
        if event.event == "submitted":
            attack.preempt(local_part(event.handle), "preemptions of canaries")


def _train_alone(spec: Path, layout: Layout) -> None:
    """The same trials one after another in a process that nothing attacks, meanwhile."""
    plan = make_plan(load_spec(spec))
    for job in jobs_for(plan, [trial.trial_id for trial in plan.trials], 1):
        run_on_node(job, layout, executor="inline")


def _judge(layout: Layout, plan: Plan, attack: Attack, changed: list[str], alone: Layout) -> int:
    wrong, attempts = [], 0
    states: Counter[str] = Counter()
    for trial in plan.trials:
        state = read_state(layout.trial(trial.trial_id), trial.trial_id)
        states[state.status.value] += 1
        expected = read_state(alone.trial(trial.trial_id), trial.trial_id).result
        if state.result is None or expected is None or _numbers(state.result) != _numbers(expected):
            wrong.append(trial.trial_id)
        attempts += state.result.attempts if state.result else 0
    print(
        json.dumps(
            {
                "trials": len(plan.trials),
                **states,
                **attack.counts,
                "attempts": attempts,
                "changed_after_the_end": len(changed),
                "not_equal_to_undisturbed": len(wrong),
            }
        )
    )
    return int(bool(wrong or changed))


def _numbers(result: TrialResult) -> Any:
    curves = [(c.epoch, c.lr, c.train_loss, c.train_acc, c.val_loss, c.val_acc) for c in result.curves]
    return curves, result.best_epoch, result.test, result.outcome


if __name__ == "__main__":
    sys.exit(main())
