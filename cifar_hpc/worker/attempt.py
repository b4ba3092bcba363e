"""One execution of a trial by this process: the claim it owns, and all that it writes from trial.json to result.json.

Owns: Attempt. Knows neither cohorts nor jobs nor how a member trains.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.distributed.rendezvous import Failure
from cifar_hpc.errors import RecordError
from cifar_hpc.records import claims
from cifar_hpc.records.layout import Layout, TrialFiles
from cifar_hpc.records.schema import Claim, EpochRecord, ErrorRecord, TrialRecord, TrialResult
from cifar_hpc.records.store import append_records, read_record, utc_now, write_atomic, write_record, write_records
from cifar_hpc.train.measure import write_arrays
from cifar_hpc.train.member import Member
from cifar_hpc.worker.checkpoint import CheckpointWriter, load_checkpoint


@dataclass
class Attempt:
    """One trial that this process owns. Everything but `fail` and `release` raises ClaimLostError once it does not any more."""

    config: TrialConfig
    files: TrialFiles
    claim: Claim
    started_at: str = field(default_factory=utc_now)
    over: bool = False  # finished, failed or lost to another attempt
    _writer: CheckpointWriter | None = field(default=None, repr=False)

    @classmethod
    def begin(
        cls,
        config: TrialConfig,
        layout: Layout,
        job: str,
        shared_by: int = 1,
        *,
        waits: bool = False,
        on: claims.Devices | None = None,
    ) -> Attempt | None:
        """Claims the trial; None where it is finished or a living attempt has it. The others: as claim_trial has them."""
        files = layout.trial(config.trial_id)
        claim = claims.claim_trial(files, config.trial_id, job, shared_by, waits=waits, on=on)
        return None if claim is None else cls(config, files, claim)

    @property
    def claim_path(self) -> Path:
        return self.files.claim(self.claim.attempt)

    def describe(self) -> None:
        """Writes what the trial is, once for all its attempts."""
        if not self.files.trial.exists():
            record = TrialRecord(trial_id=self.claim.trial_id, config=self.config.to_json(), created_at=utc_now())
            write_record(self.files.trial, record)

    def let_wait(self, waits: bool) -> None:
        """Tells readers whether others train before it, as rank 0 and its launcher both do. Where that fails nothing ends."""
        with contextlib.suppress(OSError, RecordError, claims.ClaimLostError):
            self.claim = read_record(self.claim_path, Claim)
            if self.claim.waits is not waits:
                self.check()
                self.claim = replace(self.claim, waits=waits, claimed_at=self.claim.claimed_at if waits else utc_now())
                write_record(self.claim_path, self.claim)

    def check(self) -> None:
        claims.check_claim(self.files, self.claim)

    def load(self) -> dict[str, object] | None:
        """The checkpoint's state; None where there is none: a corrupt one is none, and the trial begins again."""
        with contextlib.suppress(RecordError):
            return load_checkpoint(self.files.checkpoint)
        return None

    def rewind(self, member: Member) -> None:
        """Cuts the stream of epochs to those that the member has behind it."""
        if member.progress.curves or self.files.metrics.exists():
            write_records(self.files.metrics, member.progress.curves)

    def save(self, member: Member) -> None:
        """Begins to write a checkpoint. Raises what the one before it met."""
        self.check()
        self._writer = self._writer or CheckpointWriter(self.files.checkpoint)
        self._writer.write(member.state_dict())

    def wait_for_checkpoint(self) -> None:
        if self._writer is not None:
            self._writer.wait()

    def append(self, record: EpochRecord) -> None:
        append_records(self.files.metrics, [record])

    def finish(self, result: TrialResult, predictions: Mapping[str, NDArray[np.generic]], weights: bytes | None) -> None:
        """Predictions first, the result last and atomically; then what only a running trial needs goes."""
        self.wait_for_checkpoint()
        self.check()
        write_atomic(self.files.predictions, lambda stream: write_arrays(stream, predictions))
        if weights is not None:
            write_atomic(self.files.weights, lambda stream: stream.write(weights))
        self.check()
        write_record(self.files.result, result)
        for path in (self.files.metrics, self.files.checkpoint, self.files.error):
            path.unlink(missing_ok=True)
        claims.remove_claims(self.files)
        self.over = True

    def fail(self, failure: Failure) -> None:
        """Leaves error.json and gives the trial up; where another attempt owns it now, leaves it alone."""
        self.over = True
        if failure.kind == claims.ClaimLostError.__name__:
            return
        record = ErrorRecord(
            trial_id=self.claim.trial_id,
            attempt=self.claim.attempt,
            kind=failure.kind,
            message=failure.message,
            traceback=failure.traceback,
            host=self.claim.host,
            job=self.claim.job,
            failed_at=utc_now(),
            task=self.claim.restart_token,
        )
        try:
            write_record(self.files.error, record)
        except OSError as unwritable:  # a full disk: the next attempt may still begin at once
            print(f"trial {record.trial_id}: {record.kind}: {record.message}; not recorded: {unwritable}", file=sys.stderr)
        self.release()

    def release(self) -> None:
        """Gives the trial back, once its checkpoint is written, so that another attempt may begin at once."""
        try:
            self.wait_for_checkpoint()
        except Exception as error:  # the one before it stands
            print(f"trial {self.claim.trial_id}: its last checkpoint was not written: {error}", file=sys.stderr)
        with contextlib.suppress(OSError, claims.ClaimLostError):
            self.check()
            claims.release_claim(self.files, self.claim)
