"""Slurm's commands: one way to run them, in one clean environment, and their failures in their own words.

Owns: which variables of a shell reach Slurm. What stands in the batch script is all that a job is made of: SBATCH_TIMELIMIT or
a shell inside `salloc` change none. Knows no output of a command.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence

from cifar_hpc.errors import CifarHpcError

TIMEOUT_S = 40.0  # Slurm's own commands give up after MessageTimeout, 10 s by default, tried more than once
_WISHES = (
    "SLURM_",
    "SBATCH_",
    "SRUN_",
    "SALLOC_",
    "SQUEUE_",
    "SACCT_",
    "SACCTMGR_",
    "SINFO_",
    "SCANCEL_",
    "SCONTROL_",
    "SUBMITIT_",
)
_KEPT = {"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT"}  # where the controller is, and who asks
_SET = {
    "SLURM_BITSTR_LEN": "0",  # else squeue cuts long index lists after 64 characters
    "SLURM_TIME_FORMAT": "standard",
}


class SlurmError(CifarHpcError):
    """A Slurm command that failed, with its own words."""


def clean_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment without what Slurm's commands would take for wishes: those of this shell, or of a job around it."""
    given = os.environ if environment is None else environment
    return {key: value for key, value in given.items() if key in _KEPT or not key.startswith(_WISHES)}


def run_slurm(command: Sequence[str], timeout_s: float = TIMEOUT_S) -> str:
    """The output of a Slurm command. Raises SlurmError where it fails, is missing or does not answer."""
    environment = {**clean_environment(), **_SET} if command[0] != "sbatch" else clean_environment()  # a job inherits it
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=timeout_s, env=environment)
    except FileNotFoundError as error:
        raise SlurmError(f"{command[0]}: no such command; this is no Slurm login node") from error
    except subprocess.TimeoutExpired as error:
        raise SlurmError(f"{command[0]}: no answer within {timeout_s:g} s: timed out") from error
    if done.returncode:
        words = (done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}").splitlines()
        raise SlurmError(f"{command[0]}: {' '.join(words[-4:])}")
    return done.stdout
