"""What a batch script makes of the ends of its processes and of signals, run by bash with a scripted srun and scontrol."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from cifar_hpc.executors.slurm.script import Script


class _Job:
    """One run of a script. command: what srun runs in its place; said: what scontrol and scancel were asked."""

    def __init__(self, folder: Path, command: str, minutes_left: float = 30.0, **changes) -> None:
        self.folder = folder
        (folder / "bin").mkdir(exist_ok=True)
        programs = {
            "srun": 'exec "$@"\n',
            "sleep": "exec /bin/sleep 0.05\n",
            "scontrol": f'echo "scontrol $*" >> {folder}/said\n',
            "scancel": f'echo "scancel $*" >> {folder}/said\n',
            "squeue": 'echo "90 afterany:82(unfulfilled)"; echo "91 afterany:7(unfulfilled),afterany:82_*(unfulfilled)"; '
            'echo "92 afterany:821(unfulfilled)"\n',
        }
        for name, text in programs.items():
            (folder / "bin" / name).write_text(f"#!/bin/bash\n{text}")
            (folder / "bin" / name).chmod(0o755)
        values = {"requeue": True, "max_attempts": 3, "signal_s": 60, "mark": folder / "class", **changes}
        (folder / "command").write_text(command)
        script = Script(folder=folder, command=f"bash {folder}/command", srun=(), **values)
        self.environment = {
            "PATH": f"{folder}/bin:/usr/bin:/bin",
            "SLURM_ARRAY_JOB_ID": "77",
            "SLURM_ARRAY_TASK_ID": "5",
            "SLURM_JOB_ID": "82",
            "SLURM_JOB_END_TIME": str(int(time.time() + minutes_left * 60)),
        }
        (folder / "script.sh").write_text(f"#!/bin/bash\n{script.head}\n{script.run}\n")

    def run(self, *signals: int) -> tuple[int, str]:
        """The exit status and what it printed; the signals come once its command runs."""
        process = subprocess.Popen(
            ["bash", str(self.folder / "script.sh")], env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for number in signals:
            end = time.monotonic() + 10
            while not (self.folder / "up").exists() and time.monotonic() < end:
                time.sleep(0.02)
            os.kill(process.pid, number)
        output, _ = process.communicate(timeout=20)
        return process.returncode, output.decode()

    @property
    def said(self) -> list[str]:
        path = self.folder / "said"
        return path.read_text().splitlines() if path.exists() else []

    def noted(self, kind: str = "ends") -> list[str]:
        path = self.folder / f"77_5.{kind}"
        return [line.split()[-1] for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize("status", [75, 140, 143])
def test_what_was_saved_or_met_a_signal_before_it_listened_goes_back_as_this_array_task_alone(tmp_path, status):
    job = _Job(tmp_path, f"exit {status}")
    assert job.run() == (0, "requeued as 77_5\n"), "whether it has saved before, its own words tell"
    assert job.said == ["scontrol requeue 77_5"] and not job.noted()


def test_a_job_outside_an_array_goes_back_by_its_own_id(tmp_path):
    job = _Job(tmp_path, "exit 75")
    del job.environment["SLURM_ARRAY_JOB_ID"], job.environment["SLURM_ARRAY_TASK_ID"]
    job.run()
    assert job.said == ["scontrol requeue 82"]


def test_the_signal_to_the_script_reaches_the_processes_which_save(tmp_path):
    job = _Job(tmp_path, f"trap 'echo saved; exit 75' USR2; touch {tmp_path}/up; while :; do sleep 0.05; done")
    status, output = job.run(signal.SIGUSR2)
    assert status == 0 and "saved\n" in output and job.said == ["scontrol requeue 77_5"]


def test_after_sigterm_to_the_script_slurm_decides_whether_the_job_starts_again(tmp_path):
    job = _Job(tmp_path, f"touch {tmp_path}/up; /bin/sleep 0.5; exit 75")
    assert job.run(signal.SIGTERM)[0] == 75
    assert not job.said and not job.noted()


def test_an_end_by_slurm_before_the_end_of_the_job_is_known_is_not_the_trials_own(tmp_path):
    job = _Job(tmp_path, f"touch {tmp_path}/up; /bin/sleep 0.5; exit 143")
    del job.environment["SLURM_JOB_END_TIME"]
    assert job.run(signal.SIGTERM)[0] == 143
    assert not job.said and not job.noted()


def test_where_requeue_is_not_allowed_the_next_sweep_goes_on(tmp_path):
    job = _Job(tmp_path, "exit 75", requeue=False)
    status, output = job.run()
    assert status == 0 and not job.said and "the next `cifar-hpc sweep SPEC` goes on" in output


def test_a_death_without_a_word_is_noted_and_not_repeated(tmp_path):
    job = _Job(tmp_path, "kill -9 $$")
    assert job.run()[0] == 137
    assert not job.said and job.noted() == ["137"]


def test_starts_whose_time_is_up_before_anything_is_read_end_after_three_and_preemptions_never_do(tmp_path):
    for _ in range(4):
        assert _Job(tmp_path, "exit 140").run()[0] == 0
    assert [_Job(tmp_path, "exit 140", minutes_left=1).run()[0] for _ in range(3)] == [0, 0, 1]
    assert len(_Job(tmp_path, "").said) == 6


def test_a_canary_that_fails_marks_its_class_and_cancels_what_waits_for_it(tmp_path):
    job = _Job(tmp_path, "exit 1", canary=True)
    assert job.run()[0] == 1
    assert job.said == ["scancel --quiet 90 91"], "what waits for another job stays"
    assert (tmp_path / "class").read_text().splitlines()[0] == "broken"
    behind = _Job(tmp_path, f"touch {tmp_path}/started")
    status, output = behind.run()
    assert status == 1 and "the canary of this class of jobs failed" in output and not (tmp_path / "started").exists()


@pytest.mark.parametrize("status", [0, 75, 140, 143])
def test_any_other_end_of_a_canary_is_no_decision_and_exits_well(tmp_path, status):
    assert _Job(tmp_path, f"exit {status}", canary=True).run()[0] == 0
    assert not (tmp_path / "class").exists()
