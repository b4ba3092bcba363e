"""Optimisers, schedules and augmentation operations that a file of the user's registers."""

from __future__ import annotations

from pathlib import Path

import pytest

from cifar_hpc.config import catalog
from cifar_hpc.config.plugins import register_schedule
from cifar_hpc.config.registry import OPTIMIZERS, SCHEDULES
from cifar_hpc.config.schedule import LrSchedule
from cifar_hpc.config.sources import OwnCodeError
from cifar_hpc.errors import SpecError
from cifar_hpc.records.layout import Layout
from cifar_hpc.spec.load import load_spec
from cifar_hpc.testing import check_plugin
from cifar_hpc.worker.job import run_job
from tests.helpers.training import job_of
from tests.test_train_loop import result_of

MINE = """
import torch
from cifar_hpc import register_augmentation, register_optimizer, register_schedule


def rmsprop(config, groups, blocks):
    return torch.optim.RMSprop(groups, 0.0, weight_decay=config.weight_decay)


def draw(args, images, side, generator):
    return (torch.rand(images, generator=generator) * args["strength"],)


def change(args, x_NCHW, draws, mean_pixel):
    return (x_NCHW + draws[0].to(x_NCHW.device)[:, None, None, None]).clamp(0, 1)


register_optimizer("rmsprop", rmsprop)
register_schedule("sqrt", lambda step, steps: (1 - step / max(1, steps)) ** 0.5)
register_augmentation("lighten", draw, change, args={"strength": (0.2, 0.0, 1.0, "most that is added")})
"""
SPEC = """
name: mine
dataset: {name: digits, train_size: 200, val_frac: 0.2}
plugins: [mine.py]
base: {arch: linear, epochs: 2, batch_size: 64, lr: 0.01, optimizer: rmsprop, schedule: sqrt}
grid: {augment: [none, [lighten: {strength: 0.3}]]}
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "mine.yaml").write_text(SPEC)
    return tmp_path


def test_a_spec_trains_with_what_its_plugin_registers(place: Path) -> None:
    configs = [trial.config for trial in load_spec(place / "mine.yaml").trials]
    assert {config.optimizer for config in configs} == {"rmsprop"} and configs[0].momentum is None
    names = [[source.name for source in config.sources or ()] for config in configs]
    assert names == [["mine.py:rmsprop", "mine.py:sqrt"], ["mine.py:rmsprop", "mine.py:sqrt", "mine.py:lighten"]]
    layout = Layout(place / "results")
    run_job(job_of(*configs), layout, executor="inline")
    assert [c.lr for c in result_of(layout, configs[0]).curves] == pytest.approx(
        [0.01 * (0.5 + 1 / 6) ** 0.5, 0.01 * (1 / 6) ** 0.5]
    )
    assert result_of(layout, configs[1]).curves[-1].train_loss != result_of(layout, configs[0]).curves[-1].train_loss


def test_what_a_plugin_registers_is_known_to_its_spec_and_its_trials_alone(place: Path) -> None:
    config = load_spec(place / "mine.yaml").trials[0].config
    assert "rmsprop" not in OPTIMIZERS and "sqrt" not in SCHEDULES and "lighten" not in catalog.AUGMENT_OPS
    assert LrSchedule(config, 2, 1.0).rate(2, 0) == 0.5**0.5
    (place / "other.yaml").write_text(SPEC.replace("plugins: [mine.py]\n", ""))
    with pytest.raises(SpecError, match="one of sgd, adam, adamw, muon") as caught:
        load_spec(place / "other.yaml")
    assert "rmsprop" not in caught.value.problems[0].allowed
    (place / "mine.py").write_text(MINE.replace("** 0.5", "** 2"))
    changed = load_spec(place / "mine.yaml").trials[0].config
    assert [LrSchedule(one, 2, 1.0).rate(2, 0) for one in (config, changed)] == [0.5**0.5, 0.5**2]


def test_two_plugins_of_a_spec_do_not_share_a_name(place: Path) -> None:
    (place / "other.py").write_text(MINE)
    (place / "mine.yaml").write_text(SPEC.replace("[mine.py]", "[mine.py, other.py]"))
    with pytest.raises(SpecError) as caught:
        load_spec(place / "mine.yaml")
    (problem,) = caught.value.problems
    assert "plugins[1]" in problem.where
    assert problem.found == "other.py:rmsprop registers 'rmsprop', as mine.py:rmsprop does"


def test_an_unknown_name_is_refused_with_the_registered_ones(place: Path) -> None:
    (place / "mine.yaml").write_text(SPEC.replace("rmsprop", "rmsprob"))
    with pytest.raises(SpecError, match=r"one of sgd, adam, adamw, muon, rmsprop\. Did you mean 'rmsprop'"):
        load_spec(place / "mine.yaml")


def test_a_changed_plugin_gives_other_ids_and_one_that_is_not_used_gives_none(place: Path) -> None:
    before = load_spec(place / "mine.yaml").trials[0].config.trial_id
    plain = SPEC.replace("rmsprop", "adam").replace("sqrt", "cosine").replace(", [lighten: {strength: 0.3}]", "")
    (place / "plain.yaml").write_text(plain)
    unused = load_spec(place / "plain.yaml").trials[0].config
    assert unused.sources is None
    (place / "mine.py").write_text((place / "mine.py").read_text() + "# changed\n")
    assert load_spec(place / "mine.yaml").trials[0].config.trial_id != before
    assert load_spec(place / "plain.yaml").trials[0].config.trial_id == unused.trial_id


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("1 / 0", "`1 / 0`: ZeroDivisionError"),
        ("register_schedule('cosine', min)", "'cosine' is the package's own"),
        *(
            (f"import cifar_hpc; cifar_hpc.register_objective('{name}', min)", f"'{name}' is another measurement's name")
            for name in ("test_acc", "test_macro_f1", "loss", "seen", "acc_sd")  # a report has other numbers by these
        ),
        ("def", "no Python ("),
    ],
)
def test_a_plugins_fault_is_told_with_its_line_before_anything_trains(place: Path, line: str, told: str) -> None:
    (place / "mine.py").write_text((place / "mine.py").read_text() + f"{line}\n")
    with pytest.raises(SpecError) as caught:
        load_spec(place / "mine.yaml")
    assert told in str(caught.value) and "mine.yaml:4: plugins[0]" in str(caught.value)


def test_the_published_contract_tests_try_what_a_plugin_registers(place: Path) -> None:
    check_plugin("mine.py", folder=place)
    lines = (
        "from cifar_hpc.config.plugins import register_schedule\nregister_schedule('growing', lambda step, steps: 2 + step)\n"
    )
    (place / "other.py").write_text(lines)
    with pytest.raises(AssertionError, match=r"schedule growing: .* 0 to 1 is needed"):
        check_plugin("other.py", folder=place)


def test_what_is_registered_outside_a_plugin_has_no_code_to_stand_for_it() -> None:
    with pytest.raises(OwnCodeError, match="outside a plugin"):
        register_schedule("loose", min)
