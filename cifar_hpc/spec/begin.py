"""A new spec to begin with: commented, running as it stands, with the schema for editors beside it. Nothing is overwritten."""

from __future__ import annotations

from pathlib import Path

from cifar_hpc.errors import CifarHpcError
from cifar_hpc.spec.schema import schema_text
from cifar_hpc.spec.values import wrong_name

_NEW_SPEC = """\
# yaml-language-server: $schema=./{schema}
# The question that this sweep answers.
#
# Cost: the trials times the minutes of one (`cifar-hpc sweep {file} --dry-run` counts them).
# Expect: what you think the answer is, before you look.
name: {name}
dataset: {{name: cifar10, train_size: 5000}}   # or cifar100, mnist, fashion_mnist, digits, {{folder: PATH}}
base:                                        # the same in every trial
  epochs: 5
  batch_size: 128
grid:                                        # every combination
  arch: [linear, simple_cnn]
  augment: [none, flip_crop]
  lr: [1e-2, 1e-1]
seeds: 1                                     # 3 or more before a difference means anything
objective: {{metric: val_acc, mode: max}}
# stop: {{patience: 3}}                        # epochs without improvement
# exclude: [{{arch: linear, augment: flip_crop}}]
# when: [{{if: {{arch: linear}}, set: {{weight_decay: 0}}}}]
# resources: {{gpus: 1, cpus_per_gpu: 4, memory_gb: 16, minutes: 30}}
"""
_SCHEMA_FILE = "spec.schema.json"


def write_new_spec(name: str) -> Path:
    """name: of the sweep, or the path of the new file, which is returned; a bare name goes to sweeps/ where there is one.

    Raises CifarHpcError.
    """
    given = Path(name)
    path = given if given.suffix in (".yaml", ".yml") else given.with_name(f"{given.name}.yaml")
    if given.parent == Path() and given.suffix == "" and Path("sweeps").is_dir():
        path = Path("sweeps") / path
    if problem := wrong_name(path.stem):
        raise CifarHpcError(f"init: {problem}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as stream:
            stream.write(_NEW_SPEC.format(name=path.stem, file=path, schema=_SCHEMA_FILE))
        (path.parent / _SCHEMA_FILE).write_text(schema_text() + "\n", encoding="utf-8")
    except FileExistsError as error:
        raise CifarHpcError(f"{path} is there already; choose another name") from error
    except OSError as error:
        raise CifarHpcError(f"{path} cannot be written: {error.strerror}") from error
    return path
