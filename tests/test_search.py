"""`search`: what is sampled, what ends early and why, what a killed search goes on with."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from cifar_hpc.collect.leaderboard import make_leaderboard
from cifar_hpc.collect.scan import scan
from cifar_hpc.errors import SpecError
from cifar_hpc.executors.base import record_death
from cifar_hpc.executors.ray.executor import RayTuneExecutor
from cifar_hpc.executors.ray.search import _why, tune_judge
from cifar_hpc.executors.ray.worker import Orders
from cifar_hpc.planning.plan import make_plan, plan_record
from cifar_hpc.records.claims import read_state
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.records.schema import EpochRecord, Outcome, PlanRecord, Status, TrialResult
from cifar_hpc.records.store import read_record, write_record
from cifar_hpc.search import run
from cifar_hpc.search.run import SearchRun, Suggestion
from cifar_hpc.search.samplers import Tried, propose
from cifar_hpc.spec.load import load_spec
from cifar_hpc.status.progress import best_point
from cifar_hpc.status.state import SweepReader
from cifar_hpc.sweep.listener import Silent
from cifar_hpc.sweep.search_rounds import SearchRounds
from cifar_hpc.sweep.where import Where
from cifar_hpc.worker.job import run_job
from tests.helpers.training import digits_config, job_of, numbers
from tests.test_cli_sweep import call

SPEC = """\
name: hunt
dataset: {name: digits, train_size: 400}
base: {arch: simple_cnn, epochs: 9, batch_size: 64}
grid: {optimizer: [sgd, adam], augment: [none, flip]}
exclude: [{optimizer: adam, augment: flip}]
search:
  algorithm: random
  num_points: 6
  ranges: {lr: {low: 1e-4, high: 0.3, log: true}, warmup_epochs: {low: 0, high: 1}}
  scheduler: {name: asha, grace_epochs: 1, reduction: 3}
"""


@pytest.fixture
def spec(tmp_path) -> Path:
    path = tmp_path / "hunt.yaml"
    path.write_text(SPEC)
    return path


def journal() -> PlanRecord:
    return read_record(Layout(results_root()).sweep("hunt").plan, PlanRecord)


def results() -> dict[str, TrialResult]:
    layout = Layout(results_root())
    return {trial.trial_id: read_record(layout.trial(trial.trial_id).result, TrialResult) for trial in journal().trials}


def start_of(path: Path, **changes) -> SearchRun:
    return SearchRun(Layout(results_root()), load_spec(path), None, first_job=1, write=lambda record: None, **changes)


def answer_to(folder: Path, text: str) -> str:
    """What a spec with a mistake is told."""
    path = folder / "x.yaml"
    path.write_text(text)
    with pytest.raises(SpecError) as error:
        load_spec(path)
    return str(error.value)


def epoch(number: int, val_acc: float) -> EpochRecord:
    return EpochRecord(epoch=number, lr=0.1, train_loss=1.0, train_acc=0.5, val_loss=1.0, val_acc=val_acc, train_s=1, val_s=1)


def test_a_killed_search_goes_on_with_its_points_stops_trials_early_and_run_again_starts_nothing(spec):
    command = [sys.executable, "-m", "cifar_hpc", "sweep", str(spec)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, start_new_session=True)
    while not list(Layout(results_root()).pool.glob("*/metrics.jsonl")):
        assert killed.poll() is None
        time.sleep(0.05)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    first = call("sweep", spec)
    assert first.exit_code == 0, first.output
    found = results()
    undisturbed = [suggestion.trial_id for suggestion in iter(start_of(spec).next, None)]
    assert list(found) == undisturbed and len(found) == 6
    pruned = [result for result in found.values() if result.outcome is Outcome.PRUNED]
    assert pruned and "the search stopped " in first.stderr
    for result in pruned:
        told = f"asha: val_acc {result.curves[-1].val_acc:.4g} after epoch {len(result.curves)} is not among the best 1/3"
        assert len(result.curves) < 9 and result.reason.startswith(told)
    assert all(result.trunk_shared_by == 1 for result in found.values())
    times = {path: path.stat().st_mtime_ns for path in results_root().glob("trials/*/result.json")}
    again = call("sweep", spec)
    assert again.exit_code == 0 and "nothing to start" in again.stderr
    assert times == {path: path.stat().st_mtime_ns for path in results_root().glob("trials/*/result.json")}
    spec.write_text(SPEC.replace("num_points: 6", "num_points: 8"))
    assert "at most 2 trials, at most 18 epochs" in call("sweep", spec, "--dry-run").stdout
    assert "not here  trials are judged" in call("sweep", spec, "--dry-run", "--on", "inline").stdout, "as `sweep` says it"


def test_a_search_never_trains_on_a_login_node_unasked(spec, tmp_path, monkeypatch):
    (tmp_path / "sbatch").touch(mode=0o755)
    (tmp_path / "site.yaml").write_text("gpu_partition: gpu\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    told = call("sweep", spec, "--profile", str(tmp_path / "site.yaml"))
    assert told.exit_code == 2 and f"sbatch slurm/ray_cluster.sbatch {spec}" in told.stderr
    assert call("sweep", spec, "--on", "inline").exit_code == 2
    assert not list(results_root().glob("trials/*"))


def test_only_one_process_runs_a_search(spec):
    with SearchRounds(Layout(results_root()), load_spec(spec), Where()).held():
        told = call("sweep", spec)
    assert told.exit_code == 2 and f"process {os.getpid()}" in told.stderr
    assert not list(results_root().glob("trials/*"))


def test_sampled_points_keep_to_the_spec_and_never_come_twice(spec):
    search = start_of(spec)
    configs = [suggestion.job.cohorts[0].trials[0] for suggestion in iter(search.next, None)]
    assert len({config.trial_id for config in configs}) == 6
    for config in configs:
        assert 1e-4 <= config.lr <= 0.3 and config.lr == float(f"{config.lr:.3g}")
        assert 0 <= config.warmup_epochs <= 1
        assert (config.optimizer, config.augment) != ("adam", "flip")
    assert [trial.picks["lr"] for trial in search.record.trials] == [config.lr for config in configs]


def test_a_search_over_a_grid_ends_when_the_grid_is_used_up(spec):
    spec.write_text(SPEC.split("search:")[0] + "search: {num_points: 50}\nseeds: 2\n")
    loaded = load_spec(spec)
    assert loaded.warnings == ("search.num_points 50: the grid has 3 points, and all are trained",)
    suggestions = list(iter(start_of(spec).next, None))
    assert len({suggestion.trial_id for suggestion in suggestions}) == len(suggestions) == 3 * 2 == loaded.search.trials_at_most


def test_a_point_of_which_a_seed_was_ended_early_stands_below_those_that_went_on(spec):
    """Its mean is of trials of different length; here it would be the higher one."""
    text = "name: hunt\ndataset: {name: digits, train_size: 400}\nseeds: 2\n"
    spec.write_text(text + "base: {arch: simple_cnn, epochs: 2, batch_size: 32}\ngrid: {lr: [1e-5, 0.05]}\n")
    layout, plan = Layout(results_root()), make_plan(load_spec(spec))
    for trial in plan.trials:
        word = "enough" if trial.lr == 0.05 and trial.seed == 1 else True
        run_job(job_of(trial), layout, executor="ray", on_epoch=lambda trial_id, record, word=word: word)
    best, cut = make_leaderboard(scan(layout)).measured
    assert (best.axes["lr"], cut.axes["lr"]) == (1e-5, 0.05) and cut.score.mean > best.score.mean
    record = plan_record(plan)
    assert "lr=1e-5" in str(
        best_point(record, {t.trial_id: read_state(layout.trial(t.trial_id), t.trial_id) for t in plan.trials})
    )


@pytest.mark.parametrize("algorithm", ["random", "optuna"])
def test_what_is_sampled_next_follows_from_the_seed_and_what_came_before_alone(spec, algorithm):
    if algorithm == "optuna":
        pytest.importorskip("optuna")
    spec.write_text(SPEC.replace("random", algorithm).replace("num_points: 6", "num_points: 40"))
    search = load_spec(spec).search
    before: list[Tried] = []
    for number in range(20):
        picks = next(propose(search, before, "max"))
        assert next(propose(search, list(before), "max")) == picks
        value = 1 - abs(picks["lr"] - 0.05)
        before.append(Tried(picks, value if number % 5 else None, 9, pruned=number % 3 == 0, failed=number % 5 == 0))
    assert len({tried.picks["lr"] for tried in before}) > 15


def test_optuna_comes_nearer_to_the_best_than_chance(spec):
    pytest.importorskip("optuna")

    def best_of(algorithm: str) -> float:
        text = SPEC.replace("random", algorithm).replace("num_points: 6", "num_points: 40")
        errors = []
        for seed in range(5):
            spec.write_text(text.replace("search:\n", f"search:\n  seed: {seed}\n"))
            search, before = load_spec(spec).search, []
            for _ in range(40):
                picks = next(propose(search, before, "min"))
                before.append(Tried(picks, abs(picks["lr"] - 0.03) + picks["warmup_epochs"] + picks["optimizer"], 9))
            errors.append(min(tried.value for tried in before))
        return sum(errors)

    assert best_of("optuna") < best_of("random")


@pytest.mark.parametrize("objective", ["val_acc", "macro_f1"])
def test_the_judge_learns_from_epochs_of_earlier_runs_and_says_why_it_ends_a_trial(spec, tmp_path, objective):
    def measured(number, value):
        record = epoch(number, value if objective == "val_acc" else 0.5)
        return record if objective == "val_acc" else replace(record, objective=value)

    spec.write_text(f"{SPEC}objective: {{metric: {objective}}}\n")
    search, orders = start_of(spec), Orders(tmp_path)
    judge = tune_judge(search, orders)
    for number, value in enumerate((0.5, 0.6, 0.7)):
        judge.learn(Suggestion(f"early{number}", [measured(1, value)], None))
    for trial_id, value in (("good", 0.8), ("bad", 0.4), ("late", 0.4)):
        judge.learn(Suggestion(trial_id, [measured(1, 0.8)] if trial_id == "late" else [], None))
        judge.on_trial_result(None, None, {"trial": trial_id, **measured(2 if trial_id == "late" else 1, value).to_json()})
    assert orders.why_end("good") is None and orders.why_end("late") is None
    told = f"asha: {objective} 0.4 after epoch 1 is not among the best 1/3 of the trials that came so far"
    assert orders.why_end("bad") == told
    assert "trials of its bracket that" in _why(replace(search.search.scheduler, name="hyperband"), "x", {"x": 0.4, "epoch": 1})


def test_a_trial_that_a_search_stopped_trains_to_its_end_in_another_sweep(tmp_path):
    layout, config = Layout(results_root()), digits_config(epochs=4)
    run_job(job_of(config), layout, executor="ray", on_epoch=lambda trial_id, record: record.epoch < 2 or "enough")
    files = layout.trial(config.trial_id)
    stopped = read_record(files.result, TrialResult)
    assert (stopped.outcome, stopped.reason, len(stopped.curves)) == (Outcome.PRUNED, "enough", 2)
    path = tmp_path / "grid.yaml"
    path.write_text(
        "name: grid\ndataset: {name: digits, train_size: 400, val_frac: 0.2}\n"
        "base: {arch: simple_cnn, image_size: 8, epochs: 4, batch_size: 64, lr: 0.05}\n"
    )
    plan = make_plan(load_spec(path))
    assert [trial.trial_id for trial in plan.trials] == [config.trial_id]
    state = SweepReader(layout, plan_record(plan)).read()[config.trial_id]
    assert state.status is Status.PLANNED and "by another search" in state.reason
    assert call("sweep", path, "--on", "inline").exit_code == 0
    whole = read_record(files.result, TrialResult)
    assert whole.outcome is Outcome.FINISHED and len(whole.curves) == 4
    assert numbers(whole)["curves"][:2] == numbers(stopped)["curves"]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("name: asha", "name: ahsa", "Did you mean 'asha'?"),
        ("algorithm: random", "algorithm: optune", "Did you mean 'optuna'?"),
        ("reduction: 3", "reductoin: 3", "Did you mean 'reduction'?"),
        ("num_points: 6", "num_points: 0", "search.num_points: 0; a whole number at least 1 or null is needed"),
        ("low: 1e-4, high: 0.3", "low: 0.3, high: 1e-4", "x.yaml:9: search.ranges.lr: low 0.3, high 0.0001; low is below high"),
        ("low: 1e-4", "low: 0", "search.ranges.lr.low: 0; "),
        ("grid: {", "grid: {lr: [0.1], ", "search.ranges.lr: lr is in grid or zip too"),
        ("warmup_epochs: {low: 0, high: 1}", "warmup_epochs: {low: 0, high: 9}", "warm-up is shorter than the training"),
        ("lr: {", "arch: {", "search.ranges.arch"),
    ],
)
def test_a_mistake_in_search_is_told_with_its_line(tmp_path, old, new, told):
    assert told in answer_to(tmp_path, SPEC.replace(old, new, 1))


POPULATION = """\
name: hunt
dataset: {name: digits, train_size: 400}
base: {arch: simple_cnn, epochs: 6, batch_size: 64, schedule: constant}
grid: {optimizer: [sgd, adam]}
search:
  num_points: 4
  ranges: {lr: {low: 1e-4, high: 0.3, log: true}}
  scheduler: {name: pbt, grace_epochs: 2, reduction: 4}
"""


def test_a_population_trains_all_its_generations_whatever_its_trials_measure(spec, monkeypatch):
    """Whatever clashes: a small grid, where places may come upon the settings with which another goes on."""
    spec.write_text(
        POPULATION.replace("epochs: 6", "epochs: 20").replace("num_points: 4", "num_points: 8")
        .replace("  ranges: {lr: {low: 1e-4, high: 0.3, log: true}}\n", "")
        .replace("grid: {", "grid: {lr: [0.001, 0.003, 0.01, 0.03, 0.1], ")
    )  # fmt: skip
    for attempt in range(10):
        rng = random.Random(attempt)
        search = start_of(spec)
        monkeypatch.setattr(search, "_tried", lambda point, rng=rng: Tried(point.picks, rng.random()))
        assert len({suggestion.trial_id for suggestion in iter(search.next, None)}) == 80


def _runner_that_dies_of(trial_id: str):
    def run(job, layout, **arguments):
        import os

        from cifar_hpc.executors.base import run_on_node

        if trial_id in job.trial_ids:
            os._exit(1)
        run_on_node(job, layout, **arguments)

    return run


def test_of_a_population_the_worst_or_dead_goes_on_from_the_best_with_changed_settings_and_the_others_as_they_were(
    spec, monkeypatch
):
    spec.write_text(POPULATION)
    dying = start_of(spec).next().job.trial_ids[0]
    monkeypatch.setattr(RayTuneExecutor.__init__, "__defaults__", (_runner_that_dies_of(dying),))
    swept = call("sweep", spec)
    assert swept.exit_code == 1, swept.output
    layout, trials = Layout(results_root()), journal().trials
    states = {trial.trial_id: read_state(layout.trial(trial.trial_id), trial.trial_id) for trial in trials}
    assert states[dying].status is Status.FAILED and len(states) == 12
    found = {trial_id: state.result for trial_id, state in states.items() if trial_id != dying}
    assert {state.status for trial_id, state in states.items() if trial_id != dying} == {Status.COMPLETED}
    assert {len(result.curves) for result in found.values()} == {2}
    for generation in (1, 2):
        parents, heirs = trials[generation * 4 - 4 : generation * 4], trials[generation * 4 : generation * 4 + 4]
        ranked = sorted(parents, key=lambda trial: -found[trial.trial_id].val.acc if trial.trial_id in found else 1.0)
        for parent, heir in zip(parents, heirs, strict=True):
            if parent == ranked[-1]:
                assert heir.config["weights"] == f"trial/{ranked[0].trial_id}" and heir.picks != ranked[0].picks
            else:
                assert heir.config["weights"] == f"trial/{parent.trial_id}" and heir.picks == parent.picks
    again = call("sweep", spec)
    assert again.exit_code == 1 and "nothing to start" in again.output
    undisturbed = start_of(spec)
    assert [suggestion.trial_id for suggestion in iter(undisturbed.next, None)] == [trial.trial_id for trial in trials]


def test_a_population_waits_for_its_generation_and_ends_where_all_of_it_failed(spec):
    spec.write_text(POPULATION)
    search = start_of(spec)
    given = list(iter(search.next, None))
    assert len(given) == 4 and search.waits
    results_root().mkdir(parents=True, exist_ok=True)
    for suggestion in given:
        record_death(Layout(results_root()), suggestion.job, "WorkerDied", "on purpose")
    assert search.next() is None and not search.waits


def test_a_search_that_ended_before_its_bound_has_no_more_trials_to_come(spec):
    spec.write_text(POPULATION)
    layout = Layout(results_root())
    rounds = SearchRounds(layout, load_spec(spec), Where())
    plan = layout.sweep("hunt").plan
    plan.parent.mkdir(parents=True)
    search = SearchRun(layout, load_spec(spec), None, first_job=1, write=lambda record: write_record(plan, record))
    given = list(iter(search.next, None))
    rounds.prepare(Silent())
    rounds.settle()
    assert journal().to_come == 8
    for suggestion in given:
        record_death(layout, suggestion.job, "WorkerDied", "on purpose")
    rounds.settle()
    assert journal().to_come == 0 and len(journal().trials) == 4


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            "schedule: constant",
            "schedule: cosine",
            "x.yaml:3: base.schedule: schedule cosine; schedule: constant is needed with scheduler pbt",
        ),
        ("grid: {optimizer: [sgd, adam]}", "grid: {ghost_batches: [1, 2]}", "the axis ghost_batches; an axis is one of "),
        ("search:", "when: [{if: {optimizer: adam}, set: {arch: linear}}]\nsearch:", "the axis arch; an axis is one of "),
        ("  ranges: {lr: {low: 1e-4, high: 0.3, log: true}}\n", "", "x.yaml:6: search.num_points: 4; the grid has 2 points"),
        ("num_points: 4", "num_points: 1", "x.yaml:6: search.num_points: 1; a population of 2 or more is needed"),
        ("epochs: 6", "epochs: 5", "epochs 5 in generations of 2; grace_epochs divides epochs into 2 generations or more"),
        ("search:", "seeds: 3\nsearch:", "x.yaml:5: seeds: 3 seeds; one seed is needed"),
    ],
)
def test_what_a_population_cannot_train_is_told_with_its_line(tmp_path, old, new, told):
    assert told in answer_to(tmp_path, POPULATION.replace(old, new, 1))


def test_a_changed_search_begins_anew_and_finds_what_was_trained(spec):
    search = start_of(spec)
    list(iter(search.next, None))
    spec.write_text(SPEC.replace("name: hunt", "name: hunt\nresources: {cpus_per_gpu: 1}"))
    layout, same = Layout(results_root()), load_spec(spec)
    going_on = SearchRun(layout, same, search.record, first_job=9, write=lambda record: None)
    assert len(going_on.record.trials) == 6 and going_on.record.search["first_job"] == 1
    spec.write_text(SPEC.replace("high: 0.3", "high: 0.2"))
    other = SearchRun(layout, load_spec(spec), search.record, first_job=9, write=lambda record: None)
    assert len(other.record.trials) == 0 and other.record.search["first_job"] == 9
    assert json.loads(json.dumps(search.record.to_json())) == search.record.to_json()


def test_of_points_that_have_ended_no_record_is_read_again(spec, monkeypatch):
    spec.write_text(SPEC.replace("epochs: 9", "epochs: 2").replace("num_points: 6", "num_points: 3"))
    reads: list[str] = []
    read = run.state_for
    monkeypatch.setattr(run, "state_for", lambda layout, one, plans: (reads.append(one), read(layout, one, plans))[1])
    search = start_of(spec)
    while (suggestion := search.next()) is not None:
        run_job(suggestion.job, Layout(results_root()), executor="inline")
    assert max(Counter(reads).values()) == 2  # before it trains, and once after
