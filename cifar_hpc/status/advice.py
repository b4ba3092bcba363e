"""How a sweep stands in sentences, and what to type next: a command that works as it stands. Reads no files."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from cifar_hpc.config.words import plural
from cifar_hpc.errors import OtherVersionError
from cifar_hpc.records.claims import TrialState
from cifar_hpc.records.schema import Outcome, PlannedTrial, PlanRecord, Status
from cifar_hpc.records.usage import Spent
from cifar_hpc.status.state import ENDED, GOING_ON

MOST_LETTERS = 200
CUT = " ..."
MOST_FOREIGN = 3


def sweep_command(plan: PlanRecord) -> str:
    """What continues the sweep when it is typed, with what was set for it, where it ran."""
    if plan.command:
        return shlex.join([*plan.command, *plan.where])
    words = ["cifar-hpc", "sweep", plan.spec_path, *(word for text in plan.overrides for word in ("--set", text))]
    return shlex.join([*words, *plan.where, *([] if plan.share else ["--no-share"])])


def go_on_command(plan: PlanRecord, spent: Spent | None) -> str:
    """The same, with a larger budget where that of the sweep is spent, and a remark that says so."""
    if spent is None:
        return sweep_command(plan)
    return f"{sweep_command(plan)} --budget {spent.more}   (its budget is spent: {spent.words}; --budget none takes it away)"


def dropped_line(plan: PlanRecord, trials_n: int) -> str:
    """What to type where trials that the spec dropped go on; empty for none."""
    if not trials_n:
        return ""
    go_on = "waits or trains" if trials_n == 1 else "wait or train"
    return f"{plural(trials_n, 'trial')} that the spec no longer has still {go_on}; to end that: {sweep_command(plan)} --prune"


def failure_lines(plan: PlanRecord, states: Iterable[TrialState]) -> list[str]:
    """What to type where trials failed: `retry` runs them as they were planned, so that a mistake in the spec stays one. It
    leaves alone what another version of this program has finished."""
    failed = [state.refused for state in states if state.status is Status.FAILED]
    foreign = [refused for refused in failed if isinstance(refused, OtherVersionError)]
    lines = []
    if len(foreign) < len(failed):
        again = shlex.join(["cifar-hpc", "retry", plan.sweep, *plan.where])
        lines = [
            f"why: cifar-hpc logs {plan.sweep}",
            f"once mended: {again}   (of the spec or the images: mend them, then {sweep_command(plan)})",
        ]
    lines += [left_line(one) for one in foreign[:MOST_FOREIGN]]
    if (more_n := len(foreign) - MOST_FOREIGN) > 0:
        lines.append(f"... and {more_n} more of another version: cifar-hpc status {plan.sweep} --format json")
    return lines


def left_line(foreign: OtherVersionError) -> str:
    """What became of a result of another version of this program, and what to type to do without it."""
    return f"left as it is: {foreign}. To train it again all the same: {foreign.without}"


def next_lines(
    plan: PlanRecord, states: Mapping[str, TrialState], owner: str | None = None, spent: Spent | None = None
) -> list[str]:
    """What to type now, as these trials stand. owner: the living process that runs or submits the sweep, in words."""
    by_status = {status: [s for s in states.values() if s.status is status] for status in Status}
    if by_status[Status.FAILED]:
        first = [] if spent is None else [f"first: {go_on_command(plan, spent)}"]
        return first + failure_lines(plan, states.values())
    open_ = [state for status in (Status.PLANNED, Status.LOST, Status.CANCELLED) for state in by_status[status]]
    if owner is not None and (open_ or plan.to_come):
        return [f"next: nothing yet: {owner} goes on with it"]
    if open_:
        begun = "" if spent else begun_words(open_)
        return [f"next: {go_on_command(plan, spent)}" + (f"   ({begun})" if begun else "")]
    if plan.to_come and not any(by_status[status] for status in GOING_ON):
        return [f"next: {sweep_command(plan)}   (the search goes on: up to {plural(plan.to_come, 'more trial')})"]
    return [f"next: cifar-hpc report {plan.sweep}"] if by_status[Status.COMPLETED] else []


def begun_words(states: Iterable[TrialState]) -> str:
    """From where those of the trials that had begun go on; empty for none."""
    begun = [state for state in states if state.epochs or state.checkpoint]
    kept_n = sum(state.checkpoint for state in begun)
    if kept_n == len(begun):
        return "what had begun goes on from its checkpoint" if begun else ""
    if not kept_n:
        return "of what had begun no checkpoint stands: it begins again"
    others = "the other begins" if len(begun) == kept_n + 1 else "the others begin"
    return f"{kept_n} of {len(begun)} begun trials {'goes' if kept_n == 1 else 'go'} on from a checkpoint, {others} again"


def first_line(reason: str) -> str:
    """The first line of a reason, of MOST_LETTERS at most: an exception may say a page. What ends in CUT goes on."""
    line = next(iter(reason.splitlines()), "")
    return line if line == reason and len(line) <= MOST_LETTERS else f"{line[:MOST_LETTERS].rstrip()}{CUT}"


def left_out_line(plan: PlanRecord, reasons: Counter[tuple[str, str]], most: int) -> list[str]:
    """Where what was not shown of the reasons can be read, where only the `most` frequent ones were."""
    shown = reasons.most_common(most)
    more = [f"{plural(len(reasons) - most, 'more reason')}"] if len(reasons) > most else []
    cut = ["the whole of what is cut off"] if any(reason.endswith(CUT) for (_, reason), _ in shown) else []
    return [f"... {' and '.join([*more, *cut])}: cifar-hpc status {plan.sweep} --format json"] if more or cut else []


def counts_text(counts: Mapping[Status, int]) -> str:
    """'3 running, 2 failed'."""
    return ", ".join(f"{counts[status]} {status.value}" for status in Status if counts.get(status))


def reasons_of(states: Iterable[TrialState]) -> Counter[tuple[str, str]]:
    """How often each word and reason stands for a trial that has no number: ('failed', 'OSError: ...'), ('diverged', '...')."""
    found: Counter[tuple[str, str]] = Counter()
    for state in states:
        if state.result is not None and state.result.outcome is Outcome.DIVERGED:
            found[Outcome.DIVERGED.value, first_line(state.reason)] += 1
        elif state.status not in ENDED:
            found[state.status.value, first_line(state.reason)] += 1
    return found


def stage_lines(trials: Sequence[PlannedTrial], states: Mapping[str, TrialState]) -> list[str]:
    """'  stage     pretrain: 3 completed, 1 failed' for each stage; nothing where there are none."""
    counts: dict[str, Counter[Status]] = {}
    for trial in trials:
        if "stage" in trial.axes:
            counts.setdefault(str(trial.axes["stage"]), Counter())[states[trial.trial_id].status] += 1
    return [
        f"  stage     {stage}: " + ", ".join(f"{found[status]} {status.value}" for status in Status if found[status])
        for stage, found in counts.items()
    ]
