"""Who runs a trial: atomic, numbered claims, and the status of a trial as its files tell it.

An attempt owns its trial by creating claim-<n>.json, which only one process can. A later claim takes the trial away: the older
owner looks before every write and stops. Whether its owner lives, `owners` tells: the process, or the heartbeat of the file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from cifar_hpc.errors import RecordError
from cifar_hpc.records.layout import TrialFiles, attempt_of, is_name
from cifar_hpc.records.owners import Process, is_touched, lives, own_process
from cifar_hpc.records.repeated import repeated
from cifar_hpc.records.schema import Claim, EpochRecord, ErrorRecord, Outcome, Status, TrialRecord, TrialResult
from cifar_hpc.records.store import create_record, read_record, read_records, utc_now, write_record
from cifar_hpc.records.ties import read_valid

HEARTBEAT_S = 15.0
COPIED_S = 60.0  # a file that is this much younger than what it says of itself was copied; clocks of hosts differ by less


class ClaimLostError(Exception):
    """Another attempt owns the trial now, or it is finished: this one must write nothing more."""


_RESTART_TOKEN: ContextVar[str | None] = ContextVar("restart_token", default=None)
_ENDING: ContextVar[Callable[[], str] | None] = ContextVar("ending", default=None)


@contextlib.contextmanager
def restartable(token: str | None, ending: Callable[[], str] | None = None) -> Iterator[None]:
    """Claims made inside, in this thread, bear the token: what a scheduler keeps calling a job when it starts it again.

    A scheduler that starts a job again has given the first copy up, though that may go on for a while on a node that was cut
    off: the second takes its trials. None: nobody starts this process again. ending: why claims are released now, TIME or
    ASKED of `starts`.
    """
    before, ending_before = _RESTART_TOKEN.set(token), _ENDING.set(ending)
    try:
        yield
    finally:
        _RESTART_TOKEN.reset(before)
        _ENDING.reset(ending_before)


@dataclass(frozen=True, slots=True)
class TrialState:
    """What a reader knows of a trial from its files alone. reason: why it is not simply running or done, for a person;
    epochs: those trained so far; checkpoint: whether one stands, from which the next attempt goes on: it may be of before the
    last of them."""

    trial_id: str
    status: Status
    reason: str = ""
    epochs: tuple[EpochRecord, ...] = ()
    result: TrialResult | None = None
    error: ErrorRecord | None = None
    claim: Claim | None = None
    refused: RecordError | None = None  # why its result.json is no result
    checkpoint: bool = False
    seen: bool = False  # see Ancestry.may_have_seen; only where a plan says what it starts from

    @property
    def waits(self) -> bool:
        """Whether it is running only as far as that a process has it, which trains others first."""
        return self.status is Status.RUNNING and self.claim is not None and self.claim.waits

    @property
    def epochs_done(self) -> int:
        return max((epoch.epoch for epoch in self.epochs), default=0)

    @property
    def epochs_kept(self) -> int:
        """Of those the ones that count for what is left to do: none where the next attempt begins again."""
        lasts = self.status is Status.RUNNING or self.result is not None or self.checkpoint
        return self.epochs_done if lasts else 0


class Devices(NamedTuple):
    """What a trial's processes train on, as Claim has it."""

    kind: str
    n: float


def claim_trial(
    files: TrialFiles, trial_id: str, job: str, shared_by: int = 1, *, waits: bool = False, on: Devices | None = None
) -> Claim | None:
    """Takes the trial for this process; None where a living attempt has it or it is finished.

    One that a search's scheduler ended is not finished for who asks for it here: its weights go and it trains again. What it
    measured stays for the sweep of that search, if that is another.

    Inside `restartable`, an earlier attempt of the same job under the same token does not keep it. shared_by, waits: see Claim.
    on: what it trains on.
    """
    token, own = _RESTART_TOKEN.get(), own_process()
    files.folder.mkdir(parents=True, exist_ok=True)
    while True:
        claims = files.claims()
        newest, alive = _owner(claims)
        restarted = token and newest and (newest.job, newest.restart_token) == (job, token)
        pruned = is_pruned(files)
        if files.result.exists() and not pruned:
            clear_finished(files, trial_id)
            return None
        if alive and not restarted:
            return None
        claim = Claim(
            trial_id=trial_id,
            attempt=(attempt_of(claims[-1]) if claims else 0) + 1,
            host=own.host,
            boot_id=own.boot_id,
            pid=own.pid,
            pid_started=own.started,
            job=job,
            claimed_at=utc_now(),
            restart_token=token,
            shared_by=shared_by,
            waits=waits,
            device=on.kind if on else None,
            devices=on.n if on else None,
            lost_s=lost_before(files, newest) if claims else None if files.has_refused_result() else 0.0,
        )
        if create_record(files.claim(claim.attempt), claim):
            if pruned and is_pruned(files):  # still: another attempt may have finished it meanwhile
                files.weights.unlink(missing_ok=True)  # first: without a result they would pass for those of the whole trial
                _put_aside(files, trial_id)
            if is_name(sweep := job.partition("/")[0]):  # which asks for it again: what it stopped before is no end for it
                before = files.until_stopped(sweep)
                before.result.unlink(missing_ok=True)
                before.predictions.unlink(missing_ok=True)
            return claim


def _put_aside(files: TrialFiles, trial_id: str) -> None:
    """Moves what a search that stopped the trial has measured to where its sweep finds it; a result that is none goes."""
    with contextlib.suppress(RecordError, FileNotFoundError):
        stopped_by = read_valid(files, trial_id)[0].job.partition("/")[0]
        if is_name(stopped_by):
            aside = files.until_stopped(stopped_by)
            with contextlib.suppress(FileNotFoundError):
                os.replace(files.predictions, aside.predictions)  # first: the result says that they are there
            os.replace(files.result, aside.result)
    files.result.unlink(missing_ok=True)


def lost_before(files: TrialFiles, former: Claim | None) -> float | None:
    """Seconds of training that the former attempt and those before it lost, as TrialResult.lost_s; None: not known."""
    if former is None or former.lost_s is None:
        return None
    try:
        if former.released_at is None:
            seen = files.claim(former.attempt).stat().st_mtime
        elif _has_failed(files, former):
            seen = datetime.fromisoformat(former.released_at).timestamp()
        else:
            return former.lost_s
        if former.waits:
            return former.lost_s  # others trained in its place
        kept = [datetime.fromisoformat(former.claimed_at).timestamp()]
        if not files.trial.exists():
            return former.lost_s  # it had not begun to train
        described = datetime.fromisoformat(read_record(files.trial, TrialRecord).created_at).timestamp()
        if files.trial.stat().st_mtime > described + COPIED_S:
            return None  # a copy of the folder, whose files have the times of the copying
        with contextlib.suppress(FileNotFoundError):
            kept.append(files.checkpoint.stat().st_mtime)
    except (OSError, ValueError, RecordError):
        return None
    return former.lost_s + round(max(0.0, seen - max(kept)) / former.shared_by, 3)


def _has_failed(files: TrialFiles, released: Claim) -> bool:
    """Whether the attempt ended by an error and not by a request, with which it saves what it has. Raises RecordError."""
    with contextlib.suppress(FileNotFoundError):
        error = read_record(files.error, ErrorRecord)
        return error.attempt == released.attempt and error.failed_at <= str(released.released_at)
    return False


def check_claim(files: TrialFiles, claim: Claim) -> None:
    """Raises ClaimLostError where a later attempt has begun, the claim is gone or a result stands."""
    claims = files.claims()
    if files.result.exists() or not claims or claims[-1] != files.claim(claim.attempt):
        raise ClaimLostError(f"trial {claim.trial_id}: attempt {claim.attempt} no longer owns it")


def release_claim(files: TrialFiles, claim: Claim) -> None:
    """Says that the attempt ended in order without a result: the next one may begin at once, under the next number.

    Where that cannot be written (a full disk) the claim goes, which needs no space. Raises OSError where it cannot either.
    """
    path, ending = files.claim(claim.attempt), _ENDING.get()
    try:
        write_record(path, dataclasses.replace(claim, released_at=utc_now(), ended=ending() if ending else None))
    except OSError:
        path.unlink(missing_ok=True)


def is_own(claim: Claim) -> bool:
    """Whether this very process made the claim."""
    return _owner_of(claim) == own_process()


def remove_claims(files: TrialFiles) -> None:
    """Removes all claims of a finished trial."""
    for path in files.claims():
        path.unlink(missing_ok=True)


def clear_finished(files: TrialFiles, trial_id: str) -> None:
    """Removes what only a running trial needs where a result stands and nobody lives who would: its writer was killed since."""
    claims = files.claims()
    left = [path for path in (files.metrics, files.checkpoint, files.error) if path.exists()]
    if not (left or claims) or _owner(claims)[1]:
        return
    with contextlib.suppress(OSError, RecordError):
        read_valid(files, trial_id)
        for path in [*left, *claims]:  # the claims last: as long as they stand the rest is found again
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def heartbeat(paths: list[Path]) -> Iterator[None]:
    """Touches the claim files that still exist every HEARTBEAT_S seconds, from a thread."""

    def beat() -> float:
        for path in paths:
            with contextlib.suppress(OSError):
                os.utime(path)
        return HEARTBEAT_S

    with repeated(beat, HEARTBEAT_S, "heartbeat"):
        yield


def is_alive(claim: Claim, path: Path) -> bool:
    """Whether the claim's owner still runs, as far as this host can tell."""
    if claim.released_at is not None:
        return False
    alive = lives(_owner_of(claim))
    return is_touched(path) if alive is None else alive


def read_state(files: TrialFiles, trial_id: str) -> TrialState:
    """The trial's status from its files: COMPLETED, STOPPED, RUNNING, LOST, FAILED or, where nothing tells, PLANNED.

    A result that `read_valid` refuses is no result: the trial is FAILED with the reason, until a retry runs it again.
    """
    if not files.folder.exists():  # one question for the thousands of a sweep that has just been planned
        return TrialState(trial_id, Status.PLANNED)
    refused: RecordError | None = None
    try:
        result, _ = read_valid(files, trial_id)
        status = Status.STOPPED if result.outcome is Outcome.PRUNED else Status.COMPLETED
        return TrialState(trial_id, status, result.reason, result.curves, result=result)
    except FileNotFoundError:
        pass
    except RecordError as unread:
        refused = unread
    epochs: tuple[EpochRecord, ...] = ()
    with contextlib.suppress(RecordError):
        epochs = tuple(read_records(files.metrics, EpochRecord))
    claims = files.claims()
    claim, alive = _owner(claims)
    if alive:
        told = "waits for others that its process trains first" if claim and claim.waits else ""
        return TrialState(trial_id, Status.RUNNING, told if claim else f"{claims[-1]} cannot be read", epochs, claim=claim)
    stands = bool(epochs or claims) and files.checkpoint.exists()
    if refused:  # an error beside it is of an earlier attempt: none begins where a result stands
        reason = f"{files.result.name}: {str(refused).removeprefix(f'{files.result}: ')}"
        return TrialState(trial_id, Status.FAILED, reason, epochs, refused=refused, checkpoint=stands)
    with contextlib.suppress(FileNotFoundError, RecordError):
        error = read_record(files.error, ErrorRecord)
        if claim is None or error.attempt >= claim.attempt:
            return TrialState(trial_id, Status.FAILED, f"{error.kind}: {error.message}", epochs, error=error, checkpoint=stands)
    if claims and not (claim and claim.released_at):
        who = f"{claim.host}, process {claim.pid}" if claim else "its claim is corrupt"
        return TrialState(
            trial_id, Status.LOST, f"attempt ended without a word ({who})", epochs, claim=claim, checkpoint=stands
        )
    begun = (
        f"interrupted after epoch {epochs[-1].epoch}" if epochs else "interrupted before an epoch had ended" if claims else ""
    )
    return TrialState(trial_id, Status.PLANNED, begun, epochs, checkpoint=stands)


def newest_claim(files: TrialFiles) -> Claim | None:
    """Of whoever had the trial last, living or not; None where nobody had, or it cannot be read."""
    return _owner(files.claims())[0]


def is_pruned(files: TrialFiles) -> bool:
    """Whether its result is of a search's decision to stop it, and not of the whole trial. One that `read_valid` refuses tells
    nothing, and stays: of another version of this program it is not ours to judge."""
    with contextlib.suppress(OSError, RecordError):
        return read_valid(files, files.folder.name)[0].outcome is Outcome.PRUNED
    return False


def _owner_of(claim: Claim) -> Process:
    return Process(claim.host, claim.boot_id, claim.pid, claim.pid_started)


def _owner(claims: list[Path]) -> tuple[Claim | None, bool]:
    """The newest claim, None where it is corrupt or cannot be read, and whether its owner lives.

    Of one that cannot be read (another user's, a share that does not answer) only the heartbeat tells.
    """
    if not claims:
        return None, False
    try:
        claim = read_record(claims[-1], Claim)
    except (FileNotFoundError, RecordError):
        return None, False
    except OSError:
        return None, is_touched(claims[-1])
    return claim, is_alive(claim, claims[-1])
