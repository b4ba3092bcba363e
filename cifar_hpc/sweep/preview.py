"""What `sweep` would do, in lines, before anything starts. Starts and writes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from cifar_hpc.config.words import plural
from cifar_hpc.executors.slurm.usage import spent_budget, spent_words
from cifar_hpc.planning.lineage import Lineage
from cifar_hpc.planning.plan import Plan, jobs_for, plan_record, trunk_passes
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.plans import known_plan, since_when
from cifar_hpc.records.schema import PlannedTrial, Status
from cifar_hpc.search.run import ended_journal, journal_of
from cifar_hpc.search.samplers import check_sampler
from cifar_hpc.spec.search import Scheduler, expected_epochs, replaced_n
from cifar_hpc.spec.sweep import SweepSpec
from cifar_hpc.status.advice import stage_lines
from cifar_hpc.sweep import cost
from cifar_hpc.sweep.listener import Listener
from cifar_hpc.sweep.missing import States, to_start
from cifar_hpc.sweep.preflight import inputs_lines
from cifar_hpc.sweep.search_rounds import UNDONE, in_words, not_here
from cifar_hpc.sweep.submit import array_lines
from cifar_hpc.sweep.where import Where, reader_of


def preview_lines(layout: Layout, plan: Plan, where: Where, listener: Listener, *, verbose: bool = False) -> list[str]:
    """verbose: on Slurm the first batch script too. The listener hears of what takes its time."""
    spec = plan.spec
    if spec.search is not None:
        return search_lines(layout, spec, where, listener)
    record = since_when(layout, plan_record(plan))
    states = reader_of(layout, record).read()
    site, files = where.slurm(), layout.sweep(spec.name)
    spent = None if site is None else spent_budget(files, where.budget)
    todo = set() if spent is not None else to_start(states, on_slurm=site is not None)
    todo = Lineage(plan.trials).without_orphans(todo, states)
    lines = _plan_lines(plan, record.trials, states, todo)
    if site is not None and (words := spent_words(files, where.budget)) is not None:
        more = "" if spent is None else f": --budget {spent.more} submits more, --budget none all"
        lines.append(f"  budget    {words} are spent{more}")
    if site is None:
        lines += cost.local_lines(layout, plan, states, todo, listener)
    elif todo:
        lines += array_lines(layout, plan, todo, states, site, verbose=verbose, canary=where.canary)
    return lines


def _plan_lines(plan: Plan, planned: Sequence[PlannedTrial], states: States, todo: Collection[str]) -> list[str]:
    """What would start."""
    counts = Counter(state.status for state in states.values())
    trained = [trial for trial in plan.trials if trial.trial_id in todo and trial.trains]
    epochs = sum(trial.epochs - states[trial.trial_id].epochs_kept for trial in trained)
    most = f", at most {plural(epochs, 'epoch')}" if trained else ""
    points = len({trial.point_id for trial in plan.trials})
    lines = [
        f"{plan.spec.name}: {plural(len(plan.trials), 'trial')} ({plural(points, 'configuration')}), "
        f"{plural(len(plan.cohorts), 'cohort')}",
        f"  to start  {plural(len(todo), 'trial')} in {plural(len(jobs_for(plan, todo, 1)), 'job')}{most}"
        f"{_since_checkpoints(states, todo)}"
        if todo
        else "  to start  none",
        *(f"  {status.value:<9} {n}" for status, n in sorted(counts.items()) if status is not Status.PLANNED),
        *stage_lines(planned, states),
    ]
    lines += inputs_lines(plan.trials)
    cohorts = [[trial for trial in cohort.trials if trial.trial_id in todo] for cohort in plan.cohorts]
    alone_n = sum(trunk_passes([trial]) for trials in cohorts for trial in trials)
    shared_n = sum(trunk_passes(trials) for trials in cohorts if trials)
    if shared_n < alone_n:
        lines.append(f"  sharing   the frozen trunks see the images {plural(shared_n, 'time')} instead of {alone_n}")
    if plan.spec.halving is not None:
        lines.append(_halving_line(plan, plan.spec.halving))
    return lines


def _since_checkpoints(states: States, todo: Collection[str]) -> str:
    """What epochs cannot count: how far the last checkpoints of killed trials lie back."""
    killed_n = sum(states[trial_id].status is Status.LOST and states[trial_id].checkpoint for trial_id in todo)
    return f", and what {plural(killed_n, 'lost trial')} had trained since the last checkpoint" if killed_n else ""


def _halving_line(plan: Plan, halving: Scheduler) -> str:
    rungs = sorted({epoch for cohort in plan.cohorts if cohort.rungs for epoch in cohort.rungs.epochs})
    judged = f"the best 1/{halving.reduction:g} of each cohort, rounded up, go on after epoch {', '.join(map(str, rungs))}"
    alone = unjudged_text(plan)
    return "  halving   " + "; ".join([*([judged] if rungs else []), *([alone] if alone else [])])


def unjudged_text(plan: Plan) -> str:
    """Of which trials halving, that the spec asks for, ends none; empty where it judges all, or is not asked for."""
    if plan.spec.halving is None:
        return ""
    first = [
        (trial, cohort.rungs.epochs[0] if cohort.rungs else trial.epochs) for cohort in plan.cohorts for trial in cohort.trials
    ]
    whole_n = sum(trial.trains and trial.epochs <= rung for trial, rung in first)
    has = "has" if whole_n == 1 else "have"
    return f"{plural(whole_n, 'trial')}, too short or alone in a cohort, {has} all epochs" if whole_n else ""


def search_lines(layout: Layout, spec: SweepSpec, where: Where, listener: Listener) -> list[str]:
    """What `--dry-run` can know of a search: its bounds."""
    search = spec.search
    assert search is not None
    before = known_plan(layout, spec.name)
    check_sampler(search)
    ended = ended_journal(layout, spec)
    record = ended or journal_of(spec, before, 1)
    states = reader_of(layout, record).read()
    open_ = [trial for trial in record.trials if states[trial.trial_id].status in UNDONE]
    sampled_n = None if record.to_come else len({trial.point_id for trial in record.trials})
    each = search.max_epochs // search.generations
    begun = any(states[trial.trial_id].epochs_kept for trial in open_)
    left = sum(int(trial.config["epochs"]) - states[trial.trial_id].epochs_kept for trial in open_) + record.to_come * each
    trials_n = len(open_) + record.to_come
    most = f", at most {plural(left, 'epoch')}" if any(config.trains for config in spec.configs) else ""
    size = f"a grid of {plural(search.space.size, 'configuration')}" if search.space.size is not None else "ranges"
    lines = [
        f"{spec.name}: {in_words(spec, sampled_n)}, from {size}",
        f"  to start  at most {plural(trials_n, 'trial')}{most}"
        + _since_checkpoints(states, [trial.trial_id for trial in open_])
        if trials_n
        else "  to start  none: the search has ended",
        *(
            f"  {status.value:<9} {n}"
            for status, n in sorted(Counter(state.status for state in states.values()).items())
            if status is not Status.PLANNED
        ),
    ]
    if search.is_population and search.scheduler:
        worst_n = replaced_n(search.num_points, search.scheduler.reduction)
        lines.append(
            f"  pbt       {search.generations} generations of {plural(search.scheduler.grace_epochs, 'epoch')}; after each the"
            f" worst {worst_n} of {search.num_points} {'goes' if worst_n == 1 else 'go'} on from the best; all weights are kept"
        )
    elif search.scheduler and search.scheduler.name == "asha" and trials_n and not begun:
        about = expected_epochs(search.scheduler, trials_n, search.max_epochs)
        lines.append(f"  asha      stops trials: about {about} epochs if 1/{search.scheduler.reduction:g} go on at each rung")
    lines += inputs_lines(spec.configs)
    why = not_here(spec, where)
    lines += [f"  not here  {why}"] if why else cost.search_lines(layout, spec, states, left, listener)
    if before is not None and before.search and before.search["definition"] != search.definition:
        lines.append(f"  again     it is another search than that of the {len(before.trials)} trials under this name")
    return lines
