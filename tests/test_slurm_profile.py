"""Profiles: strict, with the line of every problem."""

from __future__ import annotations

from pathlib import Path

import pytest

from cifar_hpc.errors import CifarHpcError, Problem, SpecError
from cifar_hpc.executors.slurm.profile import SlurmProfile, find_profile, load_profile, profile_text


def _write(folder: Path, text: str, name: str = "site.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_all_problems_of_a_profile_are_told_at_once_with_line_and_nearest_key(tmp_path):
    path = _write(tmp_path, "acount: vision\nminutes: -3\nparallel: 2.5\nshare_gpus: yes\nsbatch: {time: 3, --nice: 1}\n")
    with pytest.raises(SpecError) as caught:
        load_profile(path)
    first, *values, time, nice = caught.value.problems
    assert first == Problem(f"{path}:1: acount", "the key 'acount'", "it is no key of a profile", "account")
    assert [(problem.where.removeprefix(f"{path}:"), problem.found, problem.allowed) for problem in values] == [
        ("2: minutes", "-3", "a number above 0 is needed"),
        ("3: parallel", "2.5", "a whole number at least 1 or null is needed"),
        ("4: share_gpus", "'yes'", "true or false is needed"),
    ]
    assert (time.where, time.allowed) == (f"{path}:5: sbatch.time", "the sweep itself sets it")
    assert (nice.where, nice.nearest) == (f"{path}:5: sbatch.--nice", "nice")


@pytest.mark.parametrize(
    "text", ["- a\n", "account: [a]\n", 'account: ""\n', "setup: [1]\n", "environment: [A]\n", "signal_s: true\n"]
)
def test_a_value_of_the_wrong_form_is_refused(tmp_path, text):
    with pytest.raises(SpecError, match=r"site\.yaml:1"):
        load_profile(_write(tmp_path, text))


def test_an_empty_profile_takes_the_clusters_defaults(tmp_path):
    assert load_profile(_write(tmp_path, "")) == SlurmProfile(name="site")


def test_a_written_profile_reads_back_as_it_was(tmp_path):
    keys = {
        "gpu_partition": "gpu,gpu_long",
        "account": "0123",
        "constraint": "a100|h100",
        "setup": ("module load cuda/12.4", 'echo "x"'),
        "environment": {"NCCL_DEBUG": "WARN"},
        "minutes": 20.0,
        "requeue": False,
        "gres": None,
        "sbatch": {"nice": 100, "exclusive": True},
    }
    path = _write(tmp_path, profile_text(keys, ["made by hand"]))
    assert load_profile(path) == SlurmProfile(name="site", **keys)


def test_every_key_stands_in_the_example_with_its_default():
    path = Path(__file__).resolve().parents[1] / "slurm/example.yaml"
    text = path.read_text()
    head = [line.removeprefix("# ") for line in text.splitlines()[:6] if line.startswith("#")]
    notes = head[: head.index("")] if "" in head else head
    assert load_profile(path) == SlurmProfile(name="example")
    assert profile_text({}).strip() in text, "make slurm/example.yaml again from profile_text"
    assert notes


def test_the_only_profile_is_found_and_of_several_one_must_be_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("CIFAR_HPC_PROFILE", raising=False)
    assert find_profile(None) is None
    _write(tmp_path, "account: a\n", "slurm/juno.yaml")
    assert find_profile(None).name == "juno"
    _write(tmp_path, "account: b\n", "config/cifar-hpc/slurm/vesta.yaml")
    with pytest.raises(CifarHpcError, match="juno, vesta"):
        find_profile(None)
    assert find_profile("vesta").account == "b"
    with pytest.raises(CifarHpcError, match="Did you mean 'juno'"):
        find_profile("jumo")


def test_a_longest_limit_that_leaves_no_time_before_the_signal_is_refused(tmp_path):
    (tmp_path / "p.yaml").write_text("max_minutes: 2\nsignal_s: 120\n")
    with pytest.raises(SpecError, match=r"p.yaml:1: max_minutes.*more than signal_s, 120 s"):
        load_profile(tmp_path / "p.yaml")
