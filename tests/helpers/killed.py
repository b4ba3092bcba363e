"""A program that begins to train a spec's trials and is killed by SIGKILL on the way, once all of a cohort have a checkpoint,
and again a few steps later.

    python -m tests.helpers.killed SPEC RESULTS

Each cohort has a process of its own, forked from this one, which has imported torch and done nothing with it. Trials that are
fitted and not trained, from which others start, are left alone. Prints how often it was killed.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import torch._dynamo  # noqa: F401 - optimisers import it, which takes seconds: once, not in each process

from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.planning.plan import Cohort, Job, Resources, make_plan
from cifar_hpc.records.layout import Layout
from cifar_hpc.spec.load import load_spec
from cifar_hpc.train import loop
from cifar_hpc.worker.job import run_job

KILLED_AT = 3  # looks between two steps


def main(spec: Path, layout: Layout) -> None:
    kills = 0
    for members in cohorts_of(spec):
        for _ in range(2 if members[0].trains else 1):
            child = os.fork()
            if not child:
                train(members, layout)
                os._exit(0)
            _, status = os.waitpid(child, 0)
            kills += os.WIFSIGNALED(status)
            assert os.WIFSIGNALED(status) == members[0].trains, status
    print(kills)


def cohorts_of(spec: Path) -> list[list[TrialConfig]]:
    """Of trials that have the weights in common, those first from which others start."""
    plan, found = make_plan(load_spec(spec)), {}
    configs = {trial.trial_id: trial for trial in plan.trials}
    for config in (configs[trial_id] for level in plan.levels for trial_id in level):
        found.setdefault((config.weights, config.trains), []).append(config)
    return sorted(found.values(), key=lambda members: members[0].trains)


def train(members: Sequence[TrialConfig], layout: Layout) -> None:
    """Saves after every step."""
    loop.POLL_EVERY_S = 0.0
    looks, checkpoints = itertools.count(), [layout.trial(config.trial_id).checkpoint for config in members]

    def interrupted() -> bool:
        if next(looks) >= KILLED_AT and members[0].trains and all(path.exists() for path in checkpoints):
            os.kill(os.getpid(), signal.SIGKILL)
        return False

    resources = Resources(gpus=0, checkpoint_minutes=1e-9)
    job = Job(sweep="x", job_id="job-0001", cohorts=(Cohort(trials=tuple(members)),), resources=resources)
    run_job(job, layout, executor="inline", interrupted=interrupted)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Layout(Path(sys.argv[2])))
