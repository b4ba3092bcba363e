"""A scripted sbatch, squeue, scontrol and sacctmgr on PATH, for what a small real cluster cannot show.

State lies in one folder: `jobs` has a line a job ('id first last name'), `calls` a line a command, `mode` what sbatch does
next.
"""

from __future__ import annotations

from pathlib import Path

import pytest

_SBATCH = r"""#!/bin/bash
cd {folder}; echo "sbatch" >> calls
silence() {{ echo "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation" >&2; exit 1; }}
last=$(sed -n 's/^#SBATCH --array=0-\([0-9]*\)%.*/\1/p' "$1"); name=$(sed -n 's/^#SBATCH --job-name=//p' "$1")
mode=$(head -n1 mode 2>/dev/null); [ -f mode ] && sed -i 1d mode
count=$(awk '{{n += $3 - $2 + 1}} END {{print n + 0}}' jobs)
[ "$mode" = deaf ] && silence
if [ -n "$mode" ] && [ -f "$mode" ]; then cat "$mode" >&2; exit 1; fi
if [ -n "$last" ] && [ "$last" -ge {array} ]; then echo "sbatch: error: Invalid job array specification" >&2; exit 1; fi
if [ $((count + ${{last:-0}} + 1)) -gt {submit} ]; then
  echo "sbatch: error: QOSMaxSubmitJobPerUserLimit" >&2
  echo "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, ...)" >&2; exit 1
fi
id=$((1000 + $(wc -l < jobs))); echo "$id 0 ${{last:-0}} $name" >> jobs; cp "$1" "$id.sh"
[ "$mode" = mute ] && silence
[ "$mode" = murder ] && {{ kill -9 $PPID; exit 1; }}
env > "$id.env"
echo "Submitted batch job $id"
"""
_SQUEUE = r"""#!/bin/bash
cd {folder}; echo "squeue $*" >> calls
[ -f down ] && {{ echo "slurm_load_jobs error: Unable to contact slurm controller (connect failure)" >&2; exit 1; }}
case "$*" in
  *"-r -u"*) awk '{{for (i = $2; i <= $3; i++) print $1 "_" i}}' jobs;;
  *"-n "*) names=$(sed 's/.*-n \([^ ]*\).*/\1/' <<< "$*"); awk -v n=",$names," 'index(n, "," $4 ",") {{print $1 "|" $4}}' jobs;;
  *) awk '{{print $1 ($3 > $2 ? "_[" $2 "-" $3 "]" : "") "|PENDING|Priority|"}}' jobs;;
esac
"""
_SCONTROL = """#!/bin/bash
echo "scontrol $*" >> {folder}/calls
[ -f {folder}/down ] && {{ echo "slurm_load_ctl_conf error: Unable to contact slurm controller" >&2; exit 1; }}
cat <<END
Configuration data as of 2026-01-01T00:00:00
ClusterName             = {cluster}
AccountingStorageType   = accounting_storage/slurmdbd
MaxArraySize            = {array}
MaxJobCount             = 10000
END
"""
_SCANCEL = """#!/bin/bash
echo "scancel $*" >> {folder}/calls
"""
_SACCTMGR = """#!/bin/bash
echo "sacctmgr $*" >> {folder}/calls
case "$*" in
  *"show assoc"*) echo "${{ASSOCIATIONS:-vision||||normal|normal,long}}";;
  *"show user"*) echo vision;;
  *) echo 'normal|{told}|'; echo 'long|7|';;
esac
"""


class ScriptedSlurm:
    """The folder of one scripted cluster. told: the submit limit that sacctmgr tells; submit: the one that sbatch holds."""

    def __init__(self, folder: Path, array: int = 1001, submit: int = 10**6, told: str = "", cluster: str = "alps") -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "jobs").touch()
        (folder / "calls").touch()
        programs = {
            "sbatch": _SBATCH,
            "squeue": _SQUEUE,
            "scontrol": _SCONTROL,
            "sacctmgr": _SACCTMGR,
            "scancel": _SCANCEL,
            "srun": "#!/bin/sh\n",
        }
        for name, text in programs.items():
            words = {"folder": folder, "array": array, "submit": submit, "told": told, "cluster": cluster}
            (folder / name).write_text(text.format(**words))
            (folder / name).chmod(0o755)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> ScriptedSlurm:
        monkeypatch.setenv("PATH", f"{self.folder}:/usr/bin:/bin")
        return self

    def modes(self, *words: str) -> None:
        """What the next sbatch calls do: 'deaf' (not heard), 'mute' (heard, but the answer is lost), 'murder' (heard, and who
        called it is killed), 'well', or the name of a file with what it says while it refuses."""
        (self.folder / "mode").write_text("".join(f"{word}\n" for word in words))

    def goes_down(self) -> None:
        """The controller answers nobody, until `comes_up`."""
        (self.folder / "down").touch()

    def comes_up(self) -> None:
        (self.folder / "down").unlink()

    def calls(self, name: str) -> int:
        return sum(line.split()[0] == name for line in (self.folder / "calls").read_text().splitlines())

    def arrays(self) -> list[int]:
        """Sizes of the arrays in the queue."""
        lines = [line.split() for line in (self.folder / "jobs").read_text().splitlines()]
        return [int(last) - int(first) + 1 for _, first, last, _ in lines]
