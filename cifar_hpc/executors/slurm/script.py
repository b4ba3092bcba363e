"""The batch script's own part: what starts the tasks of a job, hears its signals, and decides what becomes of its end.

It runs outside the container and outside Python, where scontrol is and where no import can be slow. submitit writes the flags
and the set-up lines, and these as its command: one that only waits for srun would hear signals too late.

USR2 comes before the time limit or a preemption (`--signal=B:`: to the script): it is handed on, the processes save and leave.
TERM to the script means that Slurm ends the job itself, and itself starts it again or not; TERM to the processes alone is a
preemption's notice. Exit statuses 75 (saved), 140 and 143 (USR2 or TERM before Python had set its handlers) go back into the
queue, this array task only. Any other is an end without a word, which is noted for the trial's budget of starts.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

EARLY_S = 60  # Slurm's signal may come that much before its time

_HEAD = """\
own=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}; own=${own:-$SLURM_JOB_ID}
asked=; ended=; task=
trap 'asked=1; [ -z "$task" ] || kill -USR2 "$task" 2>/dev/null' USR2
trap 'ended=1' TERM
if [ -z "$SLURM_JOB_END_TIME" ] && at=$(squeue -h -j "$SLURM_JOB_ID" -o %e 2>/dev/null | head -n 1) && [ -n "$at" ]; then
  SLURM_JOB_END_TIME=$(date -d "$at" +%s 2>/dev/null)
fi
[ -n "$SLURM_JOB_END_TIME" ] && export SLURM_JOB_END_TIME || unset SLURM_JOB_END_TIME
"""

_RUN = """\
if [ "$(head -c 6 {mark} 2>/dev/null)" = broken ]; then
  echo "not started: the canary of this class of jobs failed: $(tail -n +2 {mark})"; exit 1
fi
status=140
if [ -z "$asked$ended" ]; then
  {srun} &
  task=$!
  wait "$task"; while kill -0 "$task" 2>/dev/null; do wait "$task"; done
  wait "$task"; status=$?
fi
rm -f {folder}/"$own"-*.orders
sleep_for_term() {{ [ -n "$ended" ] || sleep 1; }}
is_time() {{ [ -z "$SLURM_JOB_END_TIME" ] || [ "$(date +%s)" -ge $((SLURM_JOB_END_TIME - {before_s})) ]; }}
note() {{ echo "$(date +%s) $1" >> {folder}/"$own".ends; }}
again() {{
  if [ -n "$early" ] && is_time; then
    echo "$(date +%s)" >> {folder}/"$own".early
    if [ "$(wc -l < {folder}/"$own".early)" -ge {max_attempts} ]; then
      echo "not requeued: {max_attempts} starts reached their time limit before anything was read"; exit 1
    fi
  fi
  {requeue}
  exit 0
}}
early=; case $status in 140|143) early=1;; esac
case $status in
  0) exit 0;;
  75|140|143) sleep_for_term;;
  *) [ -z "$asked" ] || {{ early=1; sleep_for_term; }};;
esac
if [ -n "$ended" ]; then [ -n "$early" ] && [ -n "$SLURM_JOB_END_TIME" ] && is_time && note "$status"; exit "$status"; fi
[ "$status" = 75 ] || [ -n "$early" ] && again
note "$status"
echo "its processes ended with status $status"
{broken}
exit "$status"
"""

_REQUEUE = """\
for pause in 1 2 3; do
    if scontrol requeue "$own"; then echo "requeued as $own"; exit 0; fi
    sleep $pause
  done
  echo "not requeued; the next \\`cifar-hpc sweep SPEC\\` goes on\""""
_NO_REQUEUE = 'echo "not requeued; the next \\`cifar-hpc sweep SPEC\\` goes on"'

_BROKEN = """\
{{ echo broken; echo "job $own ended with status $status, see its log"; }} > {mark}.$own && mv {mark}.$own {mark}
waiting=$(squeue -h -a -t PD -u "$(id -un)" -o '%F %E' | awk -v own="afterany:$SLURM_JOB_ID" '{{
  n = split($2, parts, ",")
  for (i = 1; i <= n; i++) {{ sub(/[(_].*/, "", parts[i]); if (parts[i] == own) print $1 }}
}}' | sort -u)
[ -z "$waiting" ] || scancel --quiet $waiting"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """The lines that a job's script has beside its flags. folder: of its array; mark: the file of its resource class; command:
    what runs in each task, a shell command; srun: its flags; canary: whether its failure is the class's."""

    folder: Path
    mark: Path
    command: str
    srun: tuple[str, ...]
    requeue: bool
    max_attempts: int
    signal_s: int
    canary: bool = False

    @property
    def head(self) -> str:
        """Before all else, so that no signal is lost in slow set-up lines."""
        return _HEAD

    @property
    def run(self) -> str:
        mark = shlex.quote(str(self.mark))
        return _RUN.format(
            srun=f"{shlex.join(('srun', *self.srun))} {self.command}",
            folder=shlex.quote(str(self.folder)),
            mark="/dev/null" if self.canary else mark,
            before_s=self.signal_s + EARLY_S,
            max_attempts=self.max_attempts,
            requeue=_REQUEUE if self.requeue else _NO_REQUEUE,
            broken=_BROKEN.format(mark=mark) if self.canary else "",
        )
