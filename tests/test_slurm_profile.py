"""Profiles: strict, with the line of every problem."""

from __future__ import annotations

from pathlib import Path

import pytest

from cifar_hpc.errors import CifarHpcError, Problem, SpecError
from cifar_hpc.executors.slurm.profile import SiteClass, SlurmProfile, bound, find_profile, load_profile, profile_text


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
    assert time.where == f"{path}:5: sbatch.time" and "max_minutes" in time.allowed
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
        "classes": {"short": SiteClass(up_to_minutes=30.0, partition="debug")},
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


@pytest.mark.parametrize(
    ("text", "where", "allowed"),
    [
        ("sbatch: {mem: 4G}\n", "sbatch.mem", "memory_gb"),
        ("sbatch: {nodes: 2}\n", "sbatch.nodes", "resources.nodes"),
        ("sbatch: {chdir: /tmp}\n", "sbatch.chdir", "the sweep itself sets it"),
        ("sbatch: {export: NONE}\n", "sbatch.export", "environment"),
        ("sbatch: {gpus-per-node: 1}\n", "sbatch.gpus-per-node", "resources.gpus"),
        ("srun: {output: x}\n", "srun.output", "the sweep itself sets it"),
        ("gpus: gpus-per-job\n", "gpus", "gpus-per-node"),
        ("gres: gpu:a100:4\n", "gres", "gpu:a100"),
        ("mps: true\n", "mps", "share a GPU"),
        ("shards: 4\nshare_gpus: true\n", "shards", "by its shards"),
        ("binds: [/data]\n", "binds", "container"),
        ("classes: {any: {qos: a}, small: {up_to_gpus: 1}}\n", "classes.any", "it stands last"),
        ("classes: {a: {up_to_hours: 1}}\n", "classes.a.up_to_hours", "it is no key of classes.a"),
        ("classes: {a: {up_to_gpus: -1}}\n", "classes.a.up_to_gpus", "a whole number at least 0"),
    ],
)
def test_what_a_sweep_sets_itself_and_what_contradicts_is_refused_with_what_to_write(tmp_path, text, where, allowed):
    with pytest.raises(SpecError) as caught:
        load_profile(_write(tmp_path, text))
    (problem,) = caught.value.problems
    assert problem.where.endswith(f": {where}") and allowed in problem.allowed


def test_a_job_has_the_first_class_that_it_fits_into_with_its_keys_and_its_limit():
    classes = {
        "debug": SiteClass(up_to_minutes=30.0, up_to_gpus=1, partition="debug", qos="debug"),
        "large": SiteClass(up_to_nodes=1, gres="gpu:h100"),
    }
    profile = SlurmProfile(gpu_partition="gpu", cpu_partition="cpu", qos="normal", max_minutes=600.0, classes=classes)
    sizes = [{"minutes": 30.0, "gpus": 1.0}, {"minutes": 31.0, "gpus": 1.0}, {"minutes": 31.0, "gpus": 1.0, "nodes": 2}]
    names = [profile.class_of(**{"nodes": 1, "memory_gb": None, **size}) for size in sizes]
    assert names == ["debug", "large", ""]
    debug, large = profile.of_class("debug"), profile.of_class("large")
    assert (debug.gpu_partition, debug.qos, debug.max_minutes, debug.gres) == ("debug", "debug", 30.0, "gpu")
    assert (large.gpu_partition, large.qos, large.max_minutes, large.gres) == ("gpu", "normal", 600.0, "gpu:h100")
    assert profile.of_class("") is profile


def test_jobs_in_a_container_by_whichever_key_have_another_python():
    assert SlurmProfile(srun={"cpu-bind": "none"}).by_this_python
    for other in ({"srun": {"container-image": "a.sqsh"}}, {"container": "apptainer exec a.sif"}, {"python": "/opt/python"}):
        assert not SlurmProfile(**other).by_this_python


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        ("apptainer exec --nv a.sif", "apptainer exec --bind /r --bind /d --nv a.sif"),
        ("/opt/bin/singularity --quiet exec a.sif", "/opt/bin/singularity --quiet exec --bind /r --bind /d a.sif"),
        ("podman run --rm image", "podman run --volume /r:/r --volume /d:/d --rm image"),
    ],
)
def test_a_container_shows_the_folders_of_results_and_data(command, wanted):
    assert SlurmProfile(container=command, binds=("/d",)).container_command(Path("/r")) == wanted
    assert bound("enroot start a", ["/r"]) is None
