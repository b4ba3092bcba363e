"""The spec that is meant by a path or by a sweep's name.

Owns: where the spec of a name lies, and what was set for it. A sweep's name means the sweep as it was planned, `--set`
included; what has not been planned yet is looked for as sweeps/NAME.yaml. Reads no results.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cifar_hpc.errors import CifarHpcError, Problem, SpecError, nearest
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.plans import read_plan
from cifar_hpc.spec.load import load_spec, spec_of
from cifar_hpc.spec.sweep import SweepSpec

FOLDER = Path("sweeps")
_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class FoundSpec:
    """path: of the spec file; overrides: what was set when its sweep was planned; in_place: whether the file is the sweep's own
    copy of what Python gave, whose paths are relative to the working directory."""

    path: Path
    overrides: tuple[str, ...] = ()
    in_place: bool = False

    def load(self, overrides: Sequence[str] = ()) -> SweepSpec:
        """Raises SpecError with every problem of the spec."""
        given = (*self.overrides, *overrides)
        if self.in_place:
            return spec_of(self.path.read_text(encoding="utf-8"), self.path, given)
        return load_spec(self.path, given)


def find_spec(layout: Layout, text: str, note: Callable[[str], None] | None = None) -> FoundSpec:
    """The spec of a path or of a sweep's name. note: is told what else the name brings. Raises CifarHpcError."""
    path = Path(text)
    if path.is_file() or path.suffix in _SUFFIXES:
        return FoundSpec(path)
    if layout.has_sweep(text):
        return _planned(layout, text, note)
    for folder in (FOLDER, Path()):
        for suffix in _SUFFIXES:
            if path.name == text and (folder / f"{text}{suffix}").is_file():
                return FoundSpec(folder / f"{text}{suffix}")
    names = [sweep.name for sweep in layout.sweeps()]
    files = {file.stem: str(file) for folder in (Path(), FOLDER) for file in sorted(folder.glob("*.y*ml"))}
    near = nearest(path.stem, [*names, *files])
    there = f"the path of a YAML file or a sweep's name is needed; sweeps: {', '.join(names) or 'none yet'}"
    raise SpecError([Problem(text, "neither a file nor a sweep", there, near if near in names else files.get(near or ""))])


def load_named(
    layout: Layout, text: str, overrides: Sequence[str] = (), note: Callable[[str], None] | None = None
) -> SweepSpec:
    """The spec of a path or of a sweep's name, with overrides. Raises SpecError, CifarHpcError."""
    return find_spec(layout, text, note).load(overrides)


def _planned(layout: Layout, name: str, note: Callable[[str], None] | None) -> FoundSpec:
    plan = read_plan(layout, name)
    if plan.command:
        raise CifarHpcError(f"{name} has no spec of its own: {' '.join(plan.command)} goes on with it")
    path, kept = Path(plan.spec_path), layout.sweep(name).spec
    if not path.is_file():
        raise CifarHpcError(
            f"{name} was planned from {path}, which is not there as seen from {Path.cwd()}; a copy is {kept}, in which "
            "relative paths hold from where that file lay"
        )
    if note is not None and plan.overrides:
        note(f"{name} as it was planned, with {' '.join(f'--set {one}' for one in plan.overrides)}")
    return FoundSpec(path, plan.overrides, in_place=path.absolute() == kept.absolute())
