"""What Slurm's restarts ask of the claims."""

from __future__ import annotations

import pytest

from cifar_hpc.records.claims import ClaimLostError, check_claim, claim_trial, restartable
from cifar_hpc.records.layout import Layout


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
