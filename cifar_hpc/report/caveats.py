"""What a reader must know before trusting a report's numbers: how far the trials are, what their intervals cover, what is
left out and why. In words; computes nothing that collect does not know, and says nothing of who won."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from cifar_hpc.collect.leaderboard import Leaderboard, runs_of
from cifar_hpc.collect.scan import Pool
from cifar_hpc.collect.sections import CHECKED
from cifar_hpc.collect.trials import DATASET, FINGERPRINT, Trial, Unfinished
from cifar_hpc.config.dataset import BY_SEED
from cifar_hpc.config.registry import CLASSIFIERS
from cifar_hpc.config.sources import is_own
from cifar_hpc.config.words import plural
from cifar_hpc.records.schema import Status
from cifar_hpc.report.words import diverged_later, shortened
from cifar_hpc.status.words import total_text

_KINDS = {  # by field of Last, in whose order the rows stand
    "diverged": "of which every finished trial diverged",
    "seen": "validated on images seen before",
    "cut": "of which the search ended a trial early",
    "partial": "measured by a part of the {runs} only",
}


def covers_text(trials: Sequence[Trial]) -> str:
    """Which sources of luck the intervals and the ± of these trials' validation cover; of unlike ones, those of each kind."""
    kinds: dict[str, list[Trial]] = {}
    for trial in trials:
        of_own = "Of configurations whose seeds have splits of their own: " if trial.own_split else "Of those on one split: "
        kinds.setdefault("Of configurations in folds: " if trial.fold is not None else of_own, []).append(trial)
    said = [f"{whose if len(kinds) > 1 else ''}{_covers_of_alike(kinds[whose])}" for whose in sorted(kinds)]
    of_epochs = any(trial.epochs > 1 and trial.best_epoch is not None for trial in trials)
    chosen = [*(["epoch"] if of_epochs else []), *(["C"] if any(map(_seeks_its_c, trials)) else [])]
    if chosen:
        many = " and ".join({"epoch": "epochs", "C": "values of C"}[what] for what in chosen)
        said.append(
            f"A trial's validation figure is that of its best {' or '.join(chosen)}, which the same images chose: it is"
            f" flattered, more where they are few and the {many} many, and no interval counts that."
        )
        if "C" in chosen:
            said.append("That of a classifier whose C was given is not.")
    return " ".join(said)


def _seeks_its_c(trial: Trial) -> bool:
    """Whether its solved classifier was measured with several C on validation."""
    info = CLASSIFIERS[str(trial.config.get("classifier", "linear"))]
    value = trial.config.get(info.argument) if info.argument else None
    return trial.val_acc is not None and (info.default if value is None else value) == "auto"


def _covers_of_alike(trials: Sequence[Trial]) -> str:
    """Of trials that are all in folds, all on splits of their own, or neither."""
    runs = runs_of(trials)
    shares = all(trial.config.get("objective") == "val_acc" for trial in trials)
    of_test = "" if shares else " On test those of other objectives than accuracy do not count that of the images."
    cover = "count the luck of split, seed and images; the intervals allow for training images that splits share (Nadeau and"
    several = any(trial.own_split for trial in trials) and len({trial.split for trial in trials}) > 1  # a filter may leave one
    if several and "folds" in runs:
        return (
            "Validation is out of fold: an image is measured by networks that did not train on it. The ± over"
            f" {runs} and the intervals, at 95 %, {cover} Bengio 2003).{of_test}"
        )
    if several:
        return f"Each seed has a split of its own: the ± over seeds and the intervals, at 95 %, {cover} Bengio 2003).{of_test}"
    others = (
        "The bands of learning curves count" if shares else "Those of other objectives, and the bands of learning curves, count"
    )
    return (
        "Intervals are at 95 %. Those of accuracy count two kinds of luck: that of the seeds (the first weights, the order of"
        " the images), where there are several, and that of which images happen to be measured."
        f" {others} that of the seeds only. {_split_text(trials)}"
    )


def _split_text(trials: Sequence[Trial]) -> str:
    """Whose luck the seeds' common split is."""
    drawn = [
        bool(
            not trial.own_split and trial.config.get("dataset.split_seed") == BY_SEED and trial.config.get("dataset.train_size")
        )
        for trial in trials
    ]
    if any(drawn):
        whose = "Each seed trains" if all(drawn) else "Of some configurations, not of all, each seed trains"
        return (
            f"{whose} on images that it draws itself, whose luck the ± counts; all are measured on the validation"
            " images that the data set brings."
        )
    whose = "the data set's own split" if all(trial.own_val for trial in trials) else "one split"
    return f"All trials share {whose} into training and validation images: how lucky that split is, nothing here tells."


def progress_text(pool: Pool, board: Leaderboard) -> str:
    """'12 of 20 trials finished, 5 of 7 configurations measured: 1 failed, 2 running, 5 planned.'"""
    finished = len(pool.trials) + len(pool.contradicted)
    total = finished + len(pool.unfinished)
    counts = {status: sum(trial.status is status for trial in pool.unfinished) for status in Status}
    parts = [f"{count:,} {status}" for status, count in counts.items() if count]
    parts += [f"up to {pool.to_come:,} more to sample"] if pool.to_come else []
    points = f"{len(board.measured):,} of {plural(len(board.rows), 'configuration')}"
    rest = f": {', '.join(parts)}." if parts else "."
    left_out = f", {len(pool.contradicted):,} of them in no number" if pool.contradicted else ""
    on = " on validation" if any(row.test_acc and row.score is None for row in board.rows) else ""
    return f"{finished:,} of {total_text(total, pool.to_come)} finished{left_out}, {points} measured{on}{rest}"


def caveats(pool: Pool, board: Leaderboard) -> list[str]:
    """What a reader must know before trusting the order of the rows."""
    notes = [*(finding.sentence for finding in pool.findings), *pool.ranked.notes, *pool.notes, *_of_several(pool)]
    whole = [row for row in board.rows if row.trials and row.config.get("dataset.val_frac") == 0]
    if whole:
        stay = " Networks of other trials that they start from stay as they were." if any(row.begun for row in whole) else ""
        notes.append(f"Nothing ranks {plural(len(whole), 'configuration')} that held out no images to validate on.{stay}")
    notes += _several_starts(board)
    told = [trial.config for trial in pool.trials if is_own(trial.config[DATASET]) and not trial.config.get(FINGERPRINT)]
    notes += [
        f"Which images {name} had when these trials trained, an older version did not record: a mean over seeds, and the order"
        " of the rows, may be of unlike ones. Sweeping the spec again trains trials that tell."
        for name in dict.fromkeys(str(config[DATASET]) for config in told)
    ]
    margins = [row for row in board.measured if not CLASSIFIERS[str(row.config.get("classifier", "linear"))].probabilistic]
    if margins and board.info.metric == "loss":
        notes.append("The loss of an svm is that of a softmax of its margins, which are no probabilities.")
    notes += _standing(board)
    notes += _warnings(pool)
    if (n := sum(bool(row.trials) for row in board.rows)) > CHECKED:
        notes.append(
            f"Of {CHECKED} of these {n:,} configurations, the best ones first, it was checked that their predictions give the"
            " numbers of their records."
        )
    return [*notes, *left_out(pool)]


def _of_several(pool: Pool) -> list[str]:
    """Of finished trials."""
    n = sum(trial.trial_id in pool.of_several for trial in pool.trials)
    trials, are, count = ("1 trial", "is", "counts") if n == 1 else (f"{n} trials", "are", "count")
    told = f"{trials} {are} of several configurations, of different sweeps, and {count} in one here"
    return [f"{told}; the report of one sweep is whole."] if n else []


def _standing(board: Leaderboard) -> list[str]:
    """Which rows stand below others for more than their numbers, are measured in part, or have no place."""
    notes = []
    if seen := [row for row in board.measured if row.seen]:
        are, start, take = ("is", "it starts", "It takes") if len(seen) == 1 else ("are", "they start", "They take")
        notes.append(
            f"{plural(len(seen), 'configuration')} {are} validated with images that a network from which {start} may have"
            f" trained on: the validation is flattered, and so is what is chosen by it. {take} no place and {are} not tested."
        )
    if hidden := sum(row.hidden > 0 for row in board.rows):
        notes.append(
            f"Of {plural(hidden, 'configuration')} the filter leaves out some trials: the numbers are of the others alone, and"
            " flattered where it asks what they measured."
        )
    groups = Counter(next((kind for kind, is_it in row.last._asdict().items() if is_it), "") for row in board.measured)
    if any(groups) and not all(row.hidden_alone for row in board.measured):
        in_order = "In this order, whatever the numbers" if len(groups) > 1 else "All that was measured"
        lead = "Below the others, whatever the numbers" if "" in groups else in_order
        below = [f"{plural(n, 'configuration')} {_KINDS[kind].format(runs=board.runs)}" for kind, n in groups.items() if kind]
        notes.append(f"{lead}: {', then '.join(below)}.")
    few = [row for row in board.measured if row.place is None and not (row.last.diverged or row.partial or row.seen)]
    why = f"Fewer than three {board.runs}"
    if few and len(few) == len(board.measured):
        order = "" if any(groups) else "rows are in the order of their numbers, and "
        notes.append(f"{why}: {order}no ranking is claimed.")
    elif few:
        notes.append(f"{why}: no place is claimed for {plural(len(few), 'configuration')}, placed by number alone.")
    if wide := [row for row in board.measured if any(one and one.too_few for one in (row.score, row.val_acc, row.test_acc))]:
        notes.append(
            f"So few {board.runs} tell no interval, for {plural(len(wide), 'configuration')}: it would be the whole scale."
        )
    if any(diverged_later(row) for row in board.measured):
        notes.append("A trial that diverged counts by its best epoch before that, as every trial by its best.")
    return notes


def _warnings(pool: Pool) -> list[str]:
    """What trials warn of, but for what the sweep was told of their weights before it began."""
    told = [finding.sentence for finding in pool.findings]
    pairs = [(warning, trial.trial_id) for trial in pool.trials for warning in trial.warnings]
    return _by_reason((warning, who) for warning, who in pairs if not any(warning in sentence for sentence in told))


def _several_starts(board: Leaderboard) -> list[str]:
    """What the number of a seed is where that trained several times."""
    rows = [row.trials for row in board.rows if not any(trial.fold for trial in row.trials)]
    several = [trials for trials in rows if len({trial.seed for trial in trials}) < len(trials)]
    if not several:
        return []
    of_seed = [trial for trial in several[0] if trial.seed == several[0][0].seed]
    return [
        f"Of {plural(len(several), 'configuration')} a seed trained from more than one network, such as from {len(of_seed)}:"
        " its number is their mean, and intervals count seeds."
    ]


def left_out(pool: Pool) -> list[str]:
    """The files that are in no number, by reason."""
    return [f"Left out: {line}" for line in _by_reason((r.reason, r.path) for r in pool.rejected)]


def failures(trials: Sequence[Unfinished]) -> list[str]:
    """'Failed: REASON [TRIALS]', a line for each reason, then those of the lost ones."""
    found = {status: [(t.reason, t.trial_id) for t in trials if t.status is status] for status in (Status.FAILED, Status.LOST)}
    return [f"{status.value.capitalize()}: {line}" for status, pairs in found.items() for line in _by_reason(pairs)]


def _by_reason(pairs: Iterable[tuple[str, str]]) -> list[str]:
    names: dict[str, list[str]] = {}
    for reason, name in pairs:
        names.setdefault(reason, []).append(name)
    return [f"{reason} [{shortened(who)}]" for reason, who in names.items()]
