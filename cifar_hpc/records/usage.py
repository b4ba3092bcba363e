"""What a sweep takes of a cluster, and may take. Owns: the records of usage, budget and accounting. Adds nothing up."""

from __future__ import annotations

from dataclasses import dataclass

from cifar_hpc.records.codec import SCHEMA_VERSION, Amount, Count, Int, Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage(Record):
    """A line of usage.jsonl: what one start of a cluster's worker has taken so far. The last line of a start counts."""

    task: str
    restarts: Count
    seconds: Amount  # since it began
    gpus: Amount  # of all its nodes; of a GPU that the site cuts into shards, its part
    cpus: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget(Record):
    """budget.json: beyond this no worker of the sweep claims further trials. One of the two is None."""

    gpu_hours: Amount | None = None
    cpu_hours: Amount | None = None


@dataclass(frozen=True, slots=True)
class Spent:
    """A budget that is spent. words: '24 of 20 GPU-hours'; more: a larger one, as `--budget` takes it: '48gpuh'."""

    words: str
    more: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounting(Record):
    """accounting.json: what a cluster's own accounting says that the jobs of a sweep took. jobs: handles that were asked about;
    starts: of them and their array tasks; hours: of the starts, whatever they were granted; ended: whether all have."""

    schema_version: Int = SCHEMA_VERSION
    at: str
    jobs: Count
    starts: Count
    hours: Amount
    gpu_hours: Amount
    cpu_hours: Amount
    # Of the same jobs, in training and validation; None where trials trained at the same time in one, each by its own clock.
    trained_hours: Amount | None
    ended: bool
