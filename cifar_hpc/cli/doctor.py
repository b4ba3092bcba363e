"""`cifar-hpc doctor`: looks at the Slurm cluster and at this machine, tries one short job, and writes a filled profile."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping
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
    """Look at this Slurm cluster, try one short job on two nodes, and write a profile with what was found."""
    from cifar_hpc.executors.slurm import probe as tests
    from cifar_hpc.executors.slurm.profile import SlurmProfile, find_profile, profile_folders, profile_text
    from cifar_hpc.executors.slurm.site import read_config, read_partitions

    if shutil.which("sbatch") is None:
        raise CifarHpcError(
            "sbatch is not on PATH: this is no Slurm login node. `cifar-hpc sweep SPEC --on ray` runs on this machine"
        )
    config, partitions = read_config(), read_partitions()
    site = find_profile(profile) if profile else None
    keys = tests.suggest(partitions, None if site else _chosen_type(tests.gpu_types(partitions)))
    notes = [
        *tests.cluster_facts(config),
        *(tests.partition_text(p) for p in partitions),
        tests.limits_text(site or SlurmProfile(**keys)),
    ]
    for note in notes:
        typer.echo(note)
    if probe:
        wanted = site or SlurmProfile(**keys)
        name = wanted.gpu_partition if wanted.gres else wanted.cpu_partition
        nodes = sum(p.nodes for p in partitions if p.name == name or (name is None and p.is_default))
        answer = tests.probe(wanted, max(1, nodes), wait_s)
        if tests.grants_less_time(config, wanted):
            keys["time_min"] = True
            answer.append("a job that can do with less time than it asks for begins earlier where there is a gap: time_min")
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


def _chosen_type(types: Mapping[str, int]) -> str | None:
    """The type of GPU that a person at a terminal chooses of several; None: any."""
    if len(types) < 2:
        return None
    told = ", ".join(f"{kind} ({n})" for kind, n in types.items())
    if not sys.stdin.isatty():
        typer.echo(f"several types of GPUs: {told}; `gres: gpu:TYPE` takes one alone", err=True)
        return None
    wanted = typer.prompt(f"types of GPUs: {told}. Which one alone", default="any", err=True)
    while wanted != "any" and wanted not in types:
        wanted = typer.prompt(f"{wanted!r} is none of {', '.join(types)} and any", default="any", err=True)
    return None if wanted == "any" else str(wanted)
