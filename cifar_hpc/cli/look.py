"""`cifar-hpc lr-find` and `augment`: pictures of a spec before it runs. Computes and draws nothing itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cifar_hpc.cli.speech import SetOption, SpecName, say
from cifar_hpc.config.spelled import as_text
from cifar_hpc.config.trial import StopConfig, TrialConfig
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.planning.lineage import with_parents_file
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.status.query import spell

if TYPE_CHECKING:
    from cifar_hpc.report.figures import Drawing
    from cifar_hpc.spec.sweep import SweepSpec

MOST_CURVES = 12
WHICH = (
    "Take the first, valley, which `lr: auto` takes, too: the middle of the longest fall of the loss, so that a rate somewhat "
    "higher or lower learns as well. steep is where the loss falls fastest, often by a few noisy steps; where it is far above "
    "valley, try a rate between them."
)


def lr_find(
    spec: SpecName,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="the picture; default: results/SWEEP/lr_find.png")
    ] = None,
    set_: SetOption = None,
) -> None:
    """Measure at which learning rates the trials of SPEC learn: a curve and a suggestion for each that differs in more than
    lr, length and seed, by its first seed. `lr: auto` does the same for each trial by itself."""
    from cifar_hpc.data.files import data_root
    from cifar_hpc.report.figures_look import draw_lr_curves
    from cifar_hpc.sweep.preflight import check_there
    from cifar_hpc.sweep.specs import load_named
    from cifar_hpc.train.lr_finder import NO_FALL, range_test_of

    layout = Layout(results_root())
    loaded = load_named(layout, spec, set_ or (), say)
    tested = _differing(loaded)
    if not tested:
        raise CifarHpcError(f"{spec}: no trial has a learning rate")
    if len(tested) > MOST_CURVES:
        raise CifarHpcError(f"{spec}: {len(tested)} curves; choose at most {MOST_CURVES}, as by --set arch=resnet18")
    check_there(layout, list(tested.values()))
    curves = {}
    for name, config in tested.items():
        found = range_test_of(with_parents_file(config, layout), data_root(), loaded.resources.cpus_per_gpu)
        curves[name] = (found.rates, found.losses, found.valley, found.steep, found.falls)
        steep = "" if found.steep is None else f", {found.steep:.1e} (steep)"
        typer.echo(f"{name}: lr {found.valley:.1e} (valley){steep}{'' if found.falls else f'; {NO_FALL}'}")
    if any(falls for *_, falls in curves.values()):
        say(WHICH)
    _save(draw_lr_curves(curves), output or layout.sweep(loaded.name).folder / "lr_find.png")


def augment(
    spec: SpecName,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="the picture, default: results/SWEEP/augment.png; several augmentations: one each, -NAME before the suffix",
        ),
    ] = None,
    set_: SetOption = None,
) -> None:
    """Draw what the network sees: some training images and several augmented draws of each, for each augmentation of SPEC."""
    from cifar_hpc.data.contact_sheet import contact_sheet
    from cifar_hpc.data.files import data_root, why_missing
    from cifar_hpc.report.figures_look import draw_sheet
    from cifar_hpc.sweep.specs import load_named

    layout = Layout(results_root())
    loaded = load_named(layout, spec, set_ or (), say)
    configs = [trial.config for trial in loaded.trials]
    first = {(c.dataset.of_point, c.image_size, c.resize, c.crop_frac, c.augment): c for c in reversed(configs)}
    shown = [first[key] for key in reversed(first)]
    missing = [why_missing(dataset, data_root()) for dataset in dict.fromkeys(config.dataset for config in shown)]
    if any(missing):
        raise CifarHpcError("\n".join(filter(None, missing)))
    names = [_augment_name(config) for config in shown]
    stems = names if len(set(names)) == len(names) else [f"{n}-{name}" for n, name in enumerate(names, 1)]
    for config, stem in zip(shown, stems, strict=True):
        sheet = contact_sheet(config, data_root())
        title = f"{config.dataset.name}, {config.image_size} px, augment: {as_text(config.augment)}"
        shares = [[_mixed(target_K.tolist(), sheet.classes) for target_K in targets_MK] for targets_MK in sheet.targets_RMK]
        drawing = draw_sheet(sheet.pixels_RMCHW.permute(0, 1, 3, 4, 2).numpy(), sheet.row_labels, shares, title)
        path = output or layout.sweep(loaded.name).folder / "augment.png"
        _save(drawing, path if len(shown) == 1 else path.with_stem(f"{path.stem}-{stem}"))


def _augment_name(config: TrialConfig) -> str:
    return config.augment if isinstance(config.augment, str) else "+".join(op.name for op in config.augment)


def _mixed(share_K: Sequence[float], classes: Sequence[str]) -> str:
    """'cat 0.7, dog 0.3'; nothing where the target is one class."""
    parts = [f"{name} {share:.2g}" for name, share in zip(classes, share_K, strict=True) if share > 0]
    return "\n".join(parts) if len(parts) > 1 else ""


def _differing(spec: SweepSpec) -> dict[str, TrialConfig]:
    """A name of its axes -> the first trial of those that the range test cannot tell apart, one fold of several."""
    unfelt = ("lr", "seed", "fold", "epochs", "schedule", "warmup_epochs", "sampler")  # the test takes each image alike often
    first: dict[TrialConfig, tuple[str, TrialConfig]] = {}
    for trial in spec.trials:
        if not trial.config.trains:
            continue
        short: dict[str, Any] = {"lr": "auto", "epochs": 1, "schedule": "constant", "warmup_epochs": 0.0, "stop": StopConfig()}
        plain = dataclasses.replace(trial.config, **short)  # its seed stays: `lr: auto` draws by it
        felt = {axis: value for axis, value in trial.axes.items() if axis not in unfelt and not axis.startswith("stop.")}
        axes = (f"{axis}={spell(value, axis)}" for axis, value in felt.items() if value is not None)
        alike = dataclasses.replace(plain, seed=0, sampler=None, dataset=plain.dataset.of_point)
        first.setdefault(alike, (" ".join(axes) or trial.config.arch, plain))
    return dict(first.values())


def _save(drawing: Drawing, path: Path) -> None:
    from cifar_hpc.report.figures_look import save_picture

    try:
        save_picture(drawing, path)
    except (OSError, ValueError) as error:
        raise CifarHpcError(f"{path} cannot be written: {error}") from error
    typer.echo(path, err=True)
