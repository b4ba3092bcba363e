"""How long trials will take: by what was measured, and by what else where nothing was."""

from __future__ import annotations

import dataclasses
import json

import pytest

from benchmarks.pool import Images, write_trial
from cifar_hpc.config.dataset import DatasetConfig
from cifar_hpc.config.normalize import normalise
from cifar_hpc.executors.slurm.arrays import History, after_timeouts, job_minutes, plan_submission
from cifar_hpc.executors.slurm.profile import SlurmProfile
from cifar_hpc.executors.slurm.queue import QueueEntry
from cifar_hpc.executors.slurm.site import Limits
from cifar_hpc.planning.cohorts import Cohort, train_images, work_of
from cifar_hpc.planning.duration import Basis
from cifar_hpc.planning.estimate import Experience, Sample, Speed, read_experience, steps_of
from cifar_hpc.planning.plan import Job, Resources
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import TrialResult
from cifar_hpc.records.store import read_record, write_record
from cifar_hpc.status.words import duration_text
from cifar_hpc.sweep import calibration
from cifar_hpc.sweep.cost import Asked, cluster_lines, time_text
from cifar_hpc.sweep.listener import Silent
from cifar_hpc.sweep.submit import _array_lines, _asked
from tests.helpers.training import digits_config

CPU = Resources(gpus=0)


def _sample(epoch_s: float, device: str | None = "cpu", **keys) -> Sample:
    return Sample(digits_config(**keys).to_json(), epoch_s, device)


def _of(experience: Experience, *trials, resources: Resources = CPU, **keys):
    return experience.of_cohort(Cohort(trials=trials or (digits_config(epochs=10, **keys),)), resources)


def test_measured_epochs_of_trials_like_these_tell_most():
    found = _of(Experience([_sample(2.0), _sample(4.0), _sample(100.0, arch="linear")]))
    assert (found.expected_s, found.basis) == (30.0, Basis.EPOCHS)
    assert found.p95_s >= 40.0


def test_the_fewer_were_measured_the_further_the_longest_time_is_from_the_mean():
    one, many = (_of(Experience([_sample(2.0)] * n)) for n in (1, 25))
    assert one.expected_s == many.expected_s == 20.0
    assert one.p95_s == 30.0 and many.p95_s == pytest.approx(22.0)


def test_a_network_that_was_not_measured_is_estimated_by_flops_and_the_speed_of_those_that_were():
    speed = Speed(flop_s=1e-9, step_s=1e-3)
    samples = []
    for arch in ("linear", "simple_cnn"):
        config = digits_config(arch=arch)
        flops = work_of(Cohort(trials=(config,))) / config.epochs
        samples.append(Sample(config.to_json(), speed.seconds(flops, steps_of(config)), "cpu"))
    wanted = digits_config(arch="resnet18", epochs=3)
    found = _of(Experience(samples), wanted)
    assert found.basis is Basis.OTHERS and found.p95_s == 3 * found.expected_s
    again = _of(Experience([*samples, *samples[:1]]), digits_config(arch="linear", batch_size=16))
    assert again.basis is Basis.FLOPS and again.p95_s == 2 * again.expected_s, "its own network's speed"
    assert found.expected_s == pytest.approx(speed.seconds(work_of(Cohort(trials=(wanted,))), 3 * steps_of(wanted)))


def test_members_of_a_cohort_share_the_flops_of_their_trunk():
    experience = Experience(calibration=Speed(1e-9, 0.0))
    trials = [digits_config(arch="resnet18", freeze="all", augment="flip_crop", seed=seed) for seed in range(4)]
    together, alone = _of(experience, *trials), _of(experience, trials[0])
    assert together.expected_s < 2 * alone.expected_s
    assert together.basis is Basis.CALIBRATION
    unknown = Sample(digits_config(arch="timm/no_such_network").to_json(), 2.0, "cpu")  # tells no speed
    assert _of(Experience([unknown], calibration=Speed(1e-9, 0.0)), *trials).basis is Basis.CALIBRATION


def test_a_classifier_of_ten_classes_is_a_hundredth_of_one_of_a_thousand():
    ten = digits_config(arch="linear")
    thousand = digits_config(arch="linear", dataset=DatasetConfig(name="hf/any"))  # how many it has is not known yet
    an_image = [work_of(Cohort(trials=(config,))) / train_images(config) for config in (ten, thousand)]
    assert 100 * an_image[0] == pytest.approx(an_image[1])


def test_an_epoch_of_a_frozen_network_does_not_tell_what_one_of_the_whole_network_takes():
    whole, frozen = digits_config(arch="resnet18").to_json(), digits_config(arch="resnet18", freeze="all").to_json()
    experience = Experience([Sample(whole, 3.0), Sample(frozen, 1.0)])
    other_fold = frozen | {"dataset": frozen["dataset"] | {"fold": 2}}
    assert [experience.epoch_s(config) for config in (whole, frozen, other_fold)] == [3.0, 1.0, 1.0]
    assert experience.epoch_s(whole | {"arch": "resnet50"}) > 3.0
    assert experience.epoch_s(whole | {"arch": "timm/no_such_network"}) == 2.0  # it is not built for an estimate
    assert Experience().epoch_s(whole) is None


def test_flops_tell_neither_what_a_solver_takes_nor_is_a_networks_speed_that_of_a_solver():
    fitted = normalise(digits_config(classifier="svm", freeze="all"))
    sought = dataclasses.replace(fitted, svm_c="auto")
    assert _of(Experience([_sample(2.0)]), fitted).basis is Basis.UNFITTED
    job = dataclasses.replace(_job(CPU), cohorts=(Cohort(trials=(fitted,)),))
    assert Experience([_sample(2.0)]).of_job(job, guess_minutes=7).p95_s == 420, "no limit of time by its FLOPs"
    slow = Experience([_sample(2.0), Sample(sought.to_json(), 500.0, "cpu")])
    assert _of(slow, batch_size=16) == _of(Experience([_sample(2.0)]), batch_size=16)
    assert _of(slow, fitted).basis is Basis.UNFITTED and _of(slow, sought).basis is Basis.EPOCHS, (
        "a C that is sought takes more"
    )


def test_what_a_trial_took_among_others_it_does_not_take_alone():
    shared = dataclasses.replace(_sample(1.0), shared_by=10, saved_s=9.0)  # of 10 s in common a tenth each
    trials = [digits_config(seed=seed, epochs=10) for seed in range(10)]
    assert _of(Experience([shared]), *trials).expected_s == 100.0
    assert (
        _of(Experience([shared]), trials[0]).expected_s == 100.0 and _of(Experience([shared]), *trials[:2]).expected_s == 100.0
    )
    unknown = dataclasses.replace(shared, saved_s=None)
    assert _of(Experience([unknown]), trials[0]).expected_s == 100.0


def test_seconds_of_another_device_say_nothing():
    experience = Experience([_sample(2.0, "cuda")])
    assert _of(experience) is None
    assert _of(experience, resources=Resources(gpus=1)).expected_s == 20.0


def test_two_processes_take_half_of_what_one_took():
    found = _of(Experience([_sample(2.0)]), resources=Resources(gpus=0, processes=2))
    assert (found.expected_s, found.basis) == (10.0, Basis.SCALED)
    on_two = dataclasses.replace(_sample(2.0), processes=2)
    assert _of(Experience([on_two]), resources=Resources(gpus=0, processes=2)).basis is Basis.EPOCHS


def _job(resources: Resources, n: int = 3, **keys) -> Job:
    trials = tuple(digits_config(seed=seed, epochs=10, **keys) for seed in range(n))
    return Job(sweep="s", job_id="job-0001", cohorts=(Cohort(trials=trials),), resources=resources)


def test_a_job_of_which_nothing_is_known_takes_the_minutes_of_the_profile_for_each_trial():
    found = Experience().of_job(_job(CPU), guess_minutes=7)
    assert (found.expected_s, found.p95_s, found.basis) == (3 * 420, 3 * 420, Basis.GUESS)


def test_a_limit_of_time_below_the_profiles_minutes_needs_epochs_of_trials_like_these():
    unlike = Experience([_sample(0.1, freeze="all"), Sample(digits_config(arch="resnet18").to_json(), 0.1)])
    for keys, basis in (({"optimizer": "adamw"}, Basis.FLOPS), ({"arch": "mobilenet_v2"}, Basis.OTHERS)):
        found = unlike.of_job(_job(CPU, n=1, **keys), guess_minutes=7)
        assert (found.p95_s, found.basis) == (420, basis) and found.expected_s < 60
    assert Experience([_sample(0.1)]).of_job(_job(CPU, n=1), guess_minutes=7).p95_s == pytest.approx(1.5), "measured"


def test_what_a_checkpoint_keeps_is_not_expected_again_and_the_limit_stays():
    job = _job(CPU, n=1)
    found = Experience([_sample(2.0)]).of_job(job, 7, {job.trial_ids[0]: 9})
    assert (found.expected_s, found.p95_s) == (2.0, 30.0)


def test_a_job_on_shards_asks_for_its_part_of_a_gpu():
    profile = SlurmProfile(gres="gpu", shards=4)
    job = Experience().timed(_job(Resources(gpus=0.25), n=1), guess_minutes=60)
    submission = plan_submission([job], profile, Limits(1000, None), {}, canary=False)
    assert ": 1 shard of a GPU, " in _array_lines(submission)[0]
    assert _asked(submission.arrays[0], profile).gpus == 0.25


def test_a_time_of_the_specs_own_stands_and_what_is_expected_is_still_measured():
    found = Experience([_sample(2.0)]).of_job(_job(Resources(gpus=0, minutes=1)), guess_minutes=7)
    assert (found.expected_s, found.p95_s, found.basis) == (60.0, 180.0, Basis.EPOCHS)


def test_gpu_hours_are_told_as_asked_and_as_expected_and_a_limit_that_is_too_short_is_named():
    job = _job(Resources(gpus=1, minutes=1))
    experience = Experience([_sample(36.0, "cuda")])
    lines = cluster_lines([Asked([experience.timed(job, 60)], 2, 1, 1, 30)], experience)
    assert "expected  0.3 GPU-hours" in lines[0] and "measured epochs" in lines[0]
    assert "asked     1.0 GPU-hours for one start of each worker" in lines[1] and "at most" not in lines[1]
    assert "too short resources.minutes: 1; 3 trials may take 9.0 min each" in lines[2]
    guess = cluster_lines([Asked([Experience().timed(job, 60)], 2, 1, 1, 30)], Experience())[0]
    assert "asked     150 GPU-hours" in cluster_lines([Asked([experience.timed(job, 60)], 150, 1, 1, 60)], experience)[1]
    assert "95 of 100" not in lines[0] and "95 of 100" not in guess, "neither a limit of the spec's nor a guess is a percentile"
    measured = experience.timed(_job(Resources(gpus=1)), 60)
    assert ", in 95 of 100 cases at most 0.45 (by measured" in cluster_lines([Asked([measured], 2, 1, 1, 30)], experience)[0]


def test_trials_of_a_second_ask_for_the_start_of_a_job_and_not_for_an_hour_each():
    experience = Experience([_sample(0.1, "cpu")])
    trials = [digits_config(seed=seed, epochs=10, lr=0.01 * (1 + seed)) for seed in range(36)]
    jobs = [Job(sweep="s", job_id=f"job-{n:04d}", cohorts=(Cohort(trials=(t,)),), resources=CPU) for n, t in enumerate(trials)]
    timed = [experience.timed(job, guess_minutes=60) for job in jobs]
    assert sum(job_minutes(job, SlurmProfile()) for job in timed) == pytest.approx(36 * 1.5 / 60)
    assert job_minutes(jobs[0], SlurmProfile()) == 60


@pytest.mark.parametrize(
    ("endings", "minutes"), [(["TIMEOUT"], 2), (["TIMEOUT", "TIMEOUT"], 4), (["TIMEOUT", "NODE_FAIL"], 1), ([], 1)]
)
def test_after_a_time_limit_twice_the_time_is_asked_for(endings, minutes):
    job = Experience().timed(_job(CPU, n=1), guess_minutes=1)
    history = History(tuple(QueueEntry(state) for state in endings), fruitless=len(endings))
    assert job_minutes(after_timeouts(job, {job.trial_ids[0]: history}), SlurmProfile()) == minutes


def test_what_trials_took_beside_their_epochs_is_counted_once_a_cohort(tmp_path):
    layout = Layout(tmp_path)
    config = digits_config()
    write_trial(layout, config, Images.draw(50, 10))
    path = layout.trial(config.trial_id).result
    result = read_record(path, TrialResult)
    curves = tuple(dataclasses.replace(curve, train_s=1.0, val_s=0.5) for curve in result.curves)
    times = {"started_at": "2026-01-01T00:00:00.000Z", "finished_at": "2026-01-01T00:00:10.000Z", "train_s": 4.0}
    write_record(path, dataclasses.replace(result, curves=curves, executor="slurm", attempts=1, trunk_shared_by=1, **times))
    (sample,) = read_experience(layout, ["slurm"]).samples
    assert (sample.epoch_s, sample.beside_s) == (1.5 * result.hardware.world_size, 6.0)
    assert not read_experience(layout, ["inline", "ray"]).samples
    assert read_experience(layout, ["slurm"], host=result.hardware.host).samples == [sample]
    assert not read_experience(layout, ["slurm"], host="another machine").samples


def test_a_time_that_was_not_measured_says_how_far_off_it_may_be():
    guess = _of(Experience(calibration=Speed(1e-9, 0.1)))
    assert time_text(guess) == f"about {duration_text(guess.expected_s)}, perhaps {duration_text(3 * guess.expected_s)},"
    assert time_text(_of(Experience([_sample(2.0)]))) == "about 20 s"


def test_this_machine_is_measured_once_and_remembered(measures_machine, monkeypatch):
    first = calibration.machine_speed(CPU, Silent())
    assert first is not None and first.seconds(1e9, 0) > 0
    monkeypatch.setattr(calibration.subprocess, "run", lambda *_, **__: pytest.fail("measured again"))
    assert calibration.machine_speed(CPU, Silent()) == first
    assert json.loads(calibration.speeds_file().read_text())
