"""Draws the picture of a sweep of many axes that runs, from states that are made up, until its terminal goes."""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path

from cifar_hpc.planning.plan import make_plan, plan_record
from cifar_hpc.records.claims import TrialState
from cifar_hpc.records.schema import Claim, EpochRecord, Status
from cifar_hpc.spec.load import load_spec
from cifar_hpc.terminal.harmless import make_console
from cifar_hpc.terminal.live import make_view

SPEC = """\
name: a_question_with_a_rather_long_name
dataset: {name: cifar10, train_size: 5000}
base: {epochs: 10, image_size: 64}
grid:
  arch: [resnet18, mobilenet_v3_small]
  freeze: [none, 0.5, all]
  augment: [none, flip_crop, randaugment]
  lr: [1e-3, 3e-3]
seeds: 2
"""


def main(folder: Path) -> None:
    (folder / "s.yaml").write_text(SPEC)
    plan = plan_record(make_plan(load_spec(folder / "s.yaml")))
    states = {trial.trial_id: TrialState(trial.trial_id, Status.PLANNED) for trial in plan.trials}
    view = make_view(make_console(stderr=True, highlight=False))
    view.begin("ray")
    view.show(plan, states)
    while not (folder / "go on").exists():
        time.sleep(0.05)
        view.show(plan, states)
    for done, trial in enumerate(plan.trials[10:16]):
        epochs = tuple(_epoch(number) for number in range(1, done + 1))
        states[trial.trial_id] = dataclasses.replace(states[trial.trial_id], status=Status.RUNNING, epochs=epochs)
    claim = dict.fromkeys(("trial_id", "host", "boot_id", "job", "claimed_at"), "x")
    waits = Claim(attempt=1, pid=1, pid_started=1.0, waits=True, **claim)
    last = plan.trials[16].trial_id  # a process has it, and trains the others first
    states[last] = dataclasses.replace(states[last], status=Status.RUNNING, claim=waits)
    while True:
        view.show(plan, states)
        time.sleep(0.5)


def _epoch(number: int) -> EpochRecord:
    loss = {"train_loss": 1.0, "train_acc": 0.5, "val_loss": 1.0}
    return EpochRecord(epoch=number, lr=0.1, val_acc=0.5 + number / 100, train_s=12.5, val_s=1.0, **loss)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
