"""The report in words: what won, by how much, how sure, what it cost, what to try next. Computes nothing that collect
does not know."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from cifar_hpc.collect.comparison import FAR_BELOW, Comparison
from cifar_hpc.collect.ensemble_pool import Ensembles
from cifar_hpc.collect.leaderboard import Leaderboard, Row, comparable_s, runs_of
from cifar_hpc.collect.ledger import WASTED, Ledger
from cifar_hpc.collect.ranking import no_difference
from cifar_hpc.collect.refitted import Refitted
from cifar_hpc.collect.statistics import Difference, Estimate
from cifar_hpc.collect.trials import DATASET, value_text
from cifar_hpc.config.trial import PARENT_PREFIX
from cifar_hpc.config.words import plural
from cifar_hpc.records.plans import MIN_SEEDS
from cifar_hpc.report.findings import Findings
from cifar_hpc.report.tables import seeds_text
from cifar_hpc.report.words import LOST, difference_text, p_text, shortened, these_networks, words_of
from cifar_hpc.status.words import decimals_of, device_hours_text, digits_of, duration_text, fixed_text, hours_text, score_text

_TELLING_S = 1.0  # below it the time of a trial is that of beginning it, which the first of a process pays for the others


def headline(found: Findings) -> list[str]:
    """What won, by how much, how sure, what it cost, what to try next: a sentence or two each."""
    board, comparison = found.board, found.comparison
    if not board.measured:
        without = [row.config.get("dataset.val_frac") == 0 for row in board.rows if row.trials]
        refitted = any(without) and all(without)
        none = f"No trial here has a validation {board.info.noun} that counts"
        why = "These trials had no validation images" if refitted else none
        return [f"{why}.", *refitted_text(found.refitted), cost_text(found.ledger)]
    lines = [f"{best_text(board, found.pool.to_come)} {certainty_text(board, comparison)}".rstrip()]
    if comparison and comparison.optimism is not None:
        lines.append(_flattery(board, comparison, comparison.optimism))
    if found.ensembles:
        lines.append(_ensemble(found.ensembles))
    lines += refitted_text(found.refitted)
    lines.append(cost_text(found.ledger))
    return lines + _next_steps(found)


def in_short(found: Findings) -> list[str]:
    """What won, how sure that is, and what to try next."""
    if not found.board.measured:
        return refitted_text(found.refitted)
    return [headline(found)[0], *refitted_text(found.refitted), *_next_steps(found)]


def best_text(board: Leaderboard, to_come: int = 0) -> str:
    """'Best: linear, no augmentation, lr 0.01: 29.4 % on validation (mean of 3 seeds, 27.1 to 31.8), 27.7 % on test.' to_come:
    as of Pool."""
    best = board.measured[0]
    if len(board.measured) == 1:
        first = "The only configuration measured"
    elif best.partial or best.cut:
        first = "First"
    else:
        first = "Best" if board.claims_ranking else "First by validation"
    first += " so far" if to_come or _goes_on(board) else ""
    parts = []
    info = board.info
    if info.metric != "acc" and best.score:
        scale, unit = (100, " %") if info.share else (1, "")
        digits = decimals_of(best.score.images, share=info.share, most=1)
        value = f"{fixed_text(scale * best.score.mean, digits)}{unit} validation {info.noun}"
        parts.append(f"{value}{_spread_text(board, best, best.score, scale, digits)}")
    if best.val_acc:
        digits = digits_of(best.val_acc.images)
        spread = _spread_text(board, best, best.val_acc, 100, digits)
        accuracy = "accuracy " if info.metric != "acc" else ""
        parts.append(f"{accuracy}{_share(best.val_acc)} % on validation{spread}")
    if best.test_acc:
        parts.append(f"{_share(best.test_acc)} % on test")
    return f"{first}: {words_of(best)}: {', '.join(parts)}."


def _goes_on(board: Leaderboard) -> bool:
    """Whether a configuration has trials to come, so that the first one may be another at the end."""
    return any(row.unfinished for row in board.rows)


def certainty_text(board: Leaderboard, comparison: Comparison | None) -> str:
    """What the tests say of the first row against the others; of one seed each only of two networks."""
    others = board.measured[1:]
    if comparison is None or not others:
        return ""
    decisions = [comparison.decision(row.point_id) for row in others]
    tied, worse = decisions.count("tied"), decisions.count("worse")
    if not tied and not worse:
        return _of_networks(board, comparison)
    why_not = [comparison.untested[row.point_id] for row in others if row.point_id in comparison.untested]
    how_many = "the other" if len(others) == 1 else plural(tied or worse, "other")
    parts = [f"Not distinguishable from {how_many}." if tied else f"Better than {how_many}."]
    parts += _cheapest(board, [row for row, decision in zip(others, decisions, strict=True) if decision == "tied"])
    second = comparison.differences.get(others[0].point_id)
    if second:
        parts.append(
            f"The second, {words_of(others[0])}, {_behind(second, board)} (p {p_text(second.p_value)}, {second.test})."
        )
    if far_n := why_not.count(FAR_BELOW):
        parts.append(f"Not tested, below these: {far_n:,}.")
    if reasons := list(dict.fromkeys(why for why in why_not if why != FAR_BELOW)):
        parts.append(f"{len(why_not) - far_n:,} could not be tested ({shortened(reasons, 2)}).")
    return " ".join(parts)


def _cheapest(board: Leaderboard, tied: Sequence[Row]) -> list[str]:
    """Which of those that are not told from the best trains in half its time or less."""
    best_s, *others_s = comparable_s([board.measured[0], *tied])
    timed = [(seconds, row) for seconds, row in zip(others_s, tied, strict=True) if seconds is not None]
    if best_s is None or best_s < _TELLING_S or not timed:
        return []
    least_s, row = min(timed, key=lambda one: one[0])
    if least_s > best_s / 2 or duration_text(least_s) == duration_text(best_s):
        return []
    if {t.trunk_shared_by for t in row.trials} != {t.trunk_shared_by for t in board.measured[0].trials}:
        return []  # the time of a trial among others is its part of theirs
    times = f"{duration_text(least_s)} a trial against {duration_text(best_s)}"
    before = ", with those that they start from" if row.begun or board.measured[0].begun else ""
    return [f"Of these {words_of(row)} took {times} of the best{before}."]


def _of_networks(board: Leaderboard, comparison: Comparison) -> str:
    second = board.measured[1]
    found = comparison.differences.get(second.point_id)
    if found is None:
        reason = comparison.untested.get(board.measured[0].point_id) or comparison.untested.get(second.point_id, "")
        return f"The second, {words_of(second)}, was not tested against it: {reason or 'too few seeds'}."
    networks = these_networks(board.measured[0], second)
    few = "one seed each says" if networks == "these two networks" else f"so few {board.runs} say"
    return (
        f"The second, {words_of(second)}, {_behind(found, board)}: of {networks}, on these {found_images(board)} images,"
        f" {found.test} gives p {p_text(found.p_value)}; {few} nothing of the configurations."
    )


def found_images(board: Leaderboard) -> str:
    images = board.measured[0].val_acc.images if board.measured[0].val_acc else None
    return f"{images:,}" if images else "same"


def _flattery(board: Leaderboard, comparison: Comparison, optimism: float) -> str:
    """What being the best adds. That it adds nothing is said only where the tests, too, tell the best from all others: a lucky
    one is chosen again as a good one is."""
    info, of_networks = board.info, comparison.of_networks
    unit, digits = 100 if info.share else 1, decimals_of(board.images, share=info.share)
    least = 10.0**-digits
    left = "one fold" if comparison.by_folds else "a tenth of the images"
    several = "seeds or repeats" if "folds" in board.runs else "seeds"
    again = f"choosing again without {left}{'' if of_networks else f' and, of several {several}, one'}, and measuring on those"
    whose = "this network's" if of_networks else "its"
    cut_n = sum(row.cut > 0 and row.last != board.measured[0].last for row in board.measured)
    ended = f" That the search ended {plural(cut_n, 'other')} by the same images is not in that." if cut_n else ""
    if unit * optimism >= least:
        amount = f"about {fixed_text(unit * optimism, digits)}"
    elif of_networks or not comparison.is_clear(board.rivals):
        lost = f"{again.capitalize()}, loses nothing"
        return f"{lost}: by how much being the best flatters {whose} number, that does not tell.{ended}"
    else:
        amount = f"less than {least:.{digits}f}"
    noun = "pp" if info.share else f"of {info.noun}"
    if of_networks:
        return (
            f"Being the best flatters this network's number by {amount} {noun} on these images; the luck of its"
            f" seed is not in that.{ended}"
        )
    rough = "a rough estimate, " if unit * optimism >= least else ""
    return f"Being the best flatters its number by {amount} {noun} ({rough}found by {again}).{ended}"


def _ensemble(found: Ensembles) -> str:
    best = found.highest
    test = f"; on test {difference_text(best.test)}" if best.test else ""
    of_folds = f"its most accurate member, the {found.best_n} networks of its folds"
    alone = f"the most accurate of {plural(found.trials, 'trial')}" if found.best_n == 1 else of_folds
    if found.seed is not None:
        alone += f" of seed {found.seed}, whose split the ensembles are of"
    if not found.gains:
        against = f"{difference_text(best.val)} on validation{test}"
        return f"The most accurate ensemble, {best.record.method}, is not measurably better than {alone}: {against}."
    members = plural(len(best.record.members), "trial")
    value = score_text(best.record.val_acc, best.record.val_n)
    against = f"{difference_text(best.val)} on validation against {alone}{test}"
    return f"Best ensemble: {best.record.method} of {members}, {value} % on validation, {against}."


def refitted_text(found: Sequence[Refitted]) -> list[str]:
    """A sentence for each ensemble of refits: what was measured of it when it was made."""
    lines = []
    for one in found:
        if one.record is None:
            lines.append(f"Ensemble {one.name}: {one.why}.")
            continue
        record = one.record
        of = f"Ensemble {one.name}, {record.method} of {plural(len({member.trial_id for member in record.members}), 'refit')}"
        if record.test_acc is None:
            lines.append(f"{of}: test was not measured.")
            continue
        images = f" of {plural(record.test_n, 'image')}" if record.test_n else ""
        lines.append(
            f"{of}: {score_text(record.test_acc, record.test_n)} % on test{images}, measured once, when it was made"
            f" ({record.created_at[:10]}); nothing measured it on validation, on which its members trained."
        )
    return lines


def cost_text(ledger: Ledger) -> str:
    """'Training took 1.5 GPU-hours, 0.2 of them in trials that diverged, failed, were lost or stopped.'"""
    parts = []
    for device in ledger.devices:
        entries = {outcome: entry for (where, outcome), entry in ledger.by_outcome.items() if where == device}
        lost = sum(entry.hours for outcome, entry in entries.items() if outcome in WASTED)
        waste = f", {hours_text(lost)} of them in trials that diverged, failed, were lost or stopped" if lost else ""
        killed = f", {hours_text(ledger.lost[device].hours)} of them {LOST}" if device in ledger.lost else ""
        parts.append(f"{device_hours_text(ledger.hours(device), device)}{waste}{killed}")
    spent = f"Training took {' and '.join(parts)}." if parts else f"Nothing was trained{' here' if ledger.reused else ' yet'}."
    if not ledger.reused:
        return spent
    others = " and ".join(device_hours_text(entry.hours, device) for device, entry in ledger.reused.items())
    n = sum(entry.trials for entry in ledger.reused.values())
    them = "it" if n == 1 else "them"
    return f"{spent} {plural(n, 'trial')} came through the pool from other sweeps, which spent {others} on {them}."


def _next_steps(found: Findings) -> list[str]:
    board = found.board
    best = board.measured[0]
    if best.seen:
        split = "in the same folds, as a stage of this sweep" if "folds" in board.runs else "on the same split"
        return [f"Next: train what it starts from {split}, so that the images that validate it are new to it."]
    if not board.claims_ranking and len(board.measured) > 1:
        few = [row for row in board.measured[:2] if row.runs_n + row.hidden < MIN_SEEDS]
        of_one_trial = any(str(row.axes.get("weights")).startswith(PARENT_PREFIX) for row in few)  # as in a population
        if not few or of_one_trial or found.pool.samples_anew:
            return []  # some failed, diverged, are to come or are left out by a filter: more would not mend that
        if "folds" in board.runs:  # seeds of two folds tell nothing of others
            return [
                "Next: more folds, or these dealt again (`repeats` of `folds`), so that an order of the configurations means"
                " something."
            ]
        if still := [row for row in few if row.draws_nothing]:
            brought = any(trial.own_val for row in few for trial in row.trials)  # which no seed splits
            splits = "`folds`" if brought else "three seeds or more with `dataset: {split_seed: seed}`, or `folds`"
            return [
                f"Next: {splits}, so that an order of the configurations means something: of {still[0].label} nothing is drawn,"
                " so that its seeds measure the same."
            ]
        return ["Next: three seeds or more (`seeds: 3`), so that an order of the configurations means something."]
    steps = []
    kept = next((row for row in board.measured if row.keeps_weights), None)
    if "folds" in board.runs and not _goes_on(board) and kept is not None:
        name, stay = _named(found, kept), "; what it starts from stays as it was trained" if kept.begun else ""
        which = "the best configuration" if kept is best else f"{kept.label}, the best configuration that keeps weights,"
        again = f"trains {which} {_refits(kept)} on the images of all its folds{stay}"
        steps.append(f"Next: `cifar-hpc refit {name}` {again}.")
    comparison = found.comparison
    close = [row for row in board.measured if row is best or (comparison and comparison.decision(row.point_id) == "tied")]
    for axis in board.axes:
        tried = board.tried.get(axis) or board.values(axis)
        compared = {row.axes[axis] for row in board.measured if not row.partial}  # of others it is not known yet
        numeric = all(isinstance(value, int | float) for value in tried)
        value = best.axes[axis]
        alike = {row.axes[axis] for row in close} == {value}  # else what is not told from the best stands elsewhere
        if numeric and len(compared) > 2 and alike and value and value in (tried[0], tried[-1]):
            end, beyond = ("smallest", "smaller") if value == tried[0] else ("largest", "larger")
            steps.append(f"{axis}={value_text(value)} is the {end} value tried: no {beyond} one was measured.")
    return steps


def _refits(best: Row) -> str:
    """How often a refit trains a row in folds: 'once', 'with each of its 3 seeds', 'from each of the 4 networks ...'; 'again'
    where a filter hides some of its trials, which a refit trains too."""
    if best.hidden:
        return "again"
    trials = [trial for trial in best.trials if trial.best_epoch is not None]  # of one that diverged nothing trains again
    seeds, starts = {trial.seed for trial in trials}, {(trial.parent_id, trial.seed) for trial in trials}
    if len(starts) > len(seeds):
        networks_n = len({parent_id for parent_id, _ in starts})
        return f"from each of the {networks_n} networks that its folds start from, {len(starts)} times in all,"
    return "once" if len(seeds) == 1 else f"with each of its {len(seeds)} seeds"


def _named(found: Findings, best: Row) -> str:
    """What a command takes for the first row shown: the sweep where that is its best, which a filter may hide and several data
    sets or splits leave open, else the configuration's id."""
    pool = found.pool
    one_set = not any(axis == DATASET or axis.startswith(f"{DATASET}.") for axis in pool.planned_axes or ())
    return shlex.quote(pool.sweeps[0]) if len(pool.sweeps) == 1 and one_set and best.number == 1 else best.point_id


def _share(found: Estimate) -> str:
    return score_text(found.mean, found.images)


def _spread_text(board: Leaderboard, row: Row, found: Estimate, scale: float, digits: int) -> str:
    """' (mean of 3 seeds, 27.1 to 31.8)', ' (3 of 5 seeds, 2 diverged, 27.1 to 31.8)'. found: an estimate of the row's."""
    of_n, others = row.asked_n, seeds_text(row)
    seeds = f"{found.n} of {of_n} {board.runs}" if of_n else runs_words(row, found.n)
    seeds += f", {others}" if others else ""
    if found.low is None or found.high is None:
        return f" ({seeds}{', too few to tell an interval' if found.too_few else ''})"
    of_seeds = "" if found.of_images else " without the luck of the images"
    return f" ({seeds}, {fixed_text(scale * found.low, digits)} to {fixed_text(scale * found.high, digits)}{of_seeds})"


def runs_words(row: Row, n: int) -> str:
    """'mean of 3 seeds', 'mean of 10 folds of 2 seeds', 'one seed': of the row's own trials, of which others may have more."""
    runs = runs_of(row.trials)
    if n == 1:
        return "one seed" if runs == "seeds" else "one fold"
    if runs != "seeds and folds":
        return f"mean of {n} {runs}"
    return f"mean of {n} folds of {len({trial.seed for trial in row.trials})} seeds"


def _behind(found: Difference, board: Leaderboard) -> str:
    if no_difference(found):
        return "measures the same"
    return f"is {_by(found, board)} behind" if found.difference > 0 else "is not behind"


def _by(found: Difference, board: Leaderboard) -> str:
    """'0.8 pp', '0.031 of loss'."""
    info = board.info
    scale, unit = (100, "pp") if info.share else (1, f"of {info.noun}")
    digits = decimals_of(board.images, share=info.share)
    text = fixed_text(scale * found.difference, digits)
    return f"{text} {unit}" if float(text) else f"less than {10.0**-digits:.{digits}f} {unit}"
