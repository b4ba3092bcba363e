"""What Slurm's restarts ask of the claims."""

from __future__ import annotations

import pytest

from cifar_hpc.records.claims import ClaimLostError, check_claim, claim_trial
from cifar_hpc.records.layout import Layout


def test_a_restarted_job_takes_its_trial_from_its_first_copy_which_then_stops(tmp_path):
    files = Layout(tmp_path).trial("t")
    first = claim_trial(files, "t", "s/job-0001")
    second = claim_trial(files, "t", "s/job-0001")
    assert second is not None and second.attempt == 2
    check_claim(files, second)
    with pytest.raises(ClaimLostError):
        check_claim(files, first)
    assert claim_trial(files, "t", "s/job-0002") is None
