"""A small job that submits what had no room in the queue: `python -m cifar_hpc.sweep.relay RESULTS SWEEP PROFILE CANARY`, as
`submit` has it stand in the queue.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from cifar_hpc.errors import CifarHpcError
from cifar_hpc.executors.slurm.commands import clean_environment
from cifar_hpc.executors.slurm.profile import load_profile
from cifar_hpc.sweep.listener import Silent
from cifar_hpc.sweep.submit import submit_waiting


class Printed(Silent):
    """Into the log of the job that submits."""

    def note(self, text: str) -> None:
        print(text, flush=True)


def main(arguments: Sequence[str]) -> int:
    root, sweep, profile, canary = arguments
    kept = clean_environment()  # what it submits knows nothing of the job that it was submitted in
    for key in [key for key in os.environ if key not in kept]:
        del os.environ[key]
    try:
        submit_waiting(Path(root), sweep, load_profile(Path(profile)), canary == "canary", Printed())
    except CifarHpcError as error:
        print(error, file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
