"""What Slurm's restarts ask of the claims."""

from __future__ import annotations

import pytest

from cifar_hpc.executors.slurm.node import Element, run_element
from cifar_hpc.planning.plan import Cohort, Job, Resources
from cifar_hpc.records.claims import ClaimLostError, check_claim, claim_trial, restartable
from cifar_hpc.records.layout import Layout
from tests.helpers.training import digits_config


def test_a_restarted_job_takes_its_trial_from_its_first_copy_which_then_stops(tmp_path):
    files = Layout(tmp_path).trial("t")
    with restartable("slurm/77_5"):
        first = claim_trial(files, "t", "s/job-0001")
        second = claim_trial(files, "t", "s/job-0001")
        assert second is not None and second.attempt == 2
        check_claim(files, second)
        with pytest.raises(ClaimLostError):
            check_claim(files, first)
        assert claim_trial(files, "t", "s/job-0002") is None


@pytest.mark.parametrize("token", [None, "slurm/78_5"])
def test_a_job_of_the_same_name_that_is_no_restart_takes_nothing(tmp_path, token):
    files = Layout(tmp_path).trial("t")
    with restartable(token and "slurm/77_5"):
        assert claim_trial(files, "t", "s/job-0001") is not None
    with restartable(token):
        assert claim_trial(files, "t", "s/job-0001") is None


@pytest.mark.parametrize("at_once", [1, 2])
def test_what_an_array_element_claims_another_start_of_it_may_take(tmp_path, monkeypatch, at_once):
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "77")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "5")
    configs = [digits_config(seed=seed) for seed in range(2)]
    jobs = tuple(
        Job(sweep="s", job_id=f"job-{n:04d}", cohorts=(Cohort(trials=(config,)),), resources=Resources())
        for n, config in enumerate(configs)
    )

    def claim_twice(job, layout, **_):
        for attempt in (1, 2):
            (trial_id,) = job.trial_ids
            claim = claim_trial(layout.trial(trial_id), trial_id, f"s/{job.job_id}")
            assert claim is not None and claim.attempt == attempt and claim.restart_token == "slurm/77_5"
        (layout.root / job.job_id).touch()

    with pytest.raises(SystemExit):
        run_element(Element(index=5, root=tmp_path, jobs=jobs, at_once=at_once), claim_twice)
    assert all((tmp_path / job.job_id).exists() for job in jobs)
