"""`cifar-hpc doctor`: looks at the Slurm cluster and at this machine, tries one short job, and writes a filled profile."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Annotated

import typer

from cifar_hpc.errors import CifarHpcError


def doctor(
    write: Annotated[Path | None, typer.Option(help="where the profile goes; default slurm/<cluster>.yaml, if absent")] = None,
    profile: Annotated[str | None, typer.Option(help="a profile whose partition, account and set-up the probe takes")] = None,
    probe: Annotated[bool, typer.Option(help="try one short job")] = True,
    wait_s: Annotated[int, typer.Option(min=1, help="how long to wait for it, seconds")] = 120,
) -> None:
    """Look at this Slurm cluster, try one short job, and write a profile with what was found."""
    from cifar_hpc.executors.slurm import probe as tests
    from cifar_hpc.executors.slurm.profile import SlurmProfile, find_profile, profile_folders, profile_text
    from cifar_hpc.executors.slurm.site import read_config, read_partitions

    if shutil.which("sbatch") is None:
        raise CifarHpcError(
            "sbatch is not on PATH: this is no Slurm login node. `cifar-hpc sweep --on ray` runs on this machine"
        )
    config, partitions = read_config(), read_partitions()
    site = find_profile(profile) if profile else None
    keys = tests.suggest(partitions)
    notes = [
        *tests.cluster_facts(config),
        *(tests.partition_text(p) for p in partitions),
        tests.limits_text(site or SlurmProfile(**keys)),
    ]
    for note in notes:
        typer.echo(note)
    if probe:
        answer = tests.probe(site or SlurmProfile(**keys), wait_s)
        for line in answer:
            typer.echo(line)
        notes += answer
    path = write or profile_folders()[0] / f"{config.get('ClusterName', 'cluster')}.yaml"
    if path.exists():
        typer.echo(f"{path} is there already and stays as it is; --write names another", err=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        profile_text(keys, [f"Found by `cifar-hpc doctor` on {time.strftime('%Y-%m-%d')}:", *notes]), encoding="utf-8"
    )
    typer.echo(f"wrote {path}; look it over, then: cifar-hpc sweep SPEC --dry-run", err=True)
