"""What a user who installs the released files gets: both are built, checked and run, outside of the checkout.

`make release-check`. Builds sdist and wheel from a copy of the checkout's files, has twine check them, compares what is in them
with the checkout, and installs the wheel with requirements.lock's pins and sums into a clean environment of each Python, where
`init`, `sweep --dry-run`, a sweep and `report` run. A Python that is not to be had is told; with CI=true it is a failure.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
PYTHONS = ("3.11", "3.13")
DIGITS, ONE = "dataset={name: digits}", "grid={arch: [linear], lr: [0.01]}"
SMOKE = (  # (arguments, a file that has to be there afterwards)
    (("init", "smoke"), "smoke.yaml"),
    (("sweep", "smoke.yaml", "--dry-run", "--set", DIGITS), None),
    (("sweep", "smoke.yaml", "--set", DIGITS, "--set", ONE), "results/smoke/plan.json"),
    (("report", "smoke"), "results/smoke/report/index.html"),
)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="cifar-hpc-release-") as name:
        work = Path(name)
        wheel, sdist = build(work)
        check_contents(wheel, sdist)
        check_version(wheel)
        run(BIN / "twine", "check", "--strict", wheel, sdist)
        missing = []
        for version in PYTHONS:
            python = find_python(version)
            if python is None:
                missing.append(version)
                say(f"Python {version} is neither on PATH nor in ~/.pyenv/versions: NOT CHECKED with it")
                continue
            install_and_smoke(python, version, wheel, work)
        if missing and os.environ.get("CI") == "true":
            raise SystemExit(f"release-check: CI must check every Python, and {', '.join(missing)} is missing")


def build(work: Path) -> tuple[Path, Path]:
    """(wheel, sdist), built with the environment's own setuptools from a copy, so that nothing lands in the checkout."""
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT).split("\0")
    for file in filter(None, listed):
        if (ROOT / file).is_file():
            (work / "source" / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, work / "source" / file)
    run(
        BIN / "uv",
        "build",
        "--quiet",
        "--no-build-isolation",
        "--python",
        sys.executable,
        "--out-dir",
        work / "dist",
        work / "source",
    )
    (wheel,), (sdist,) = (work / "dist").glob("*.whl"), (work / "dist").glob("*.tar.gz")
    return wheel, sdist


def check_contents(wheel: Path, sdist: Path) -> None:
    """Every file of the package is in both, and nothing else but metadata."""
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "cifar_hpc", cwd=ROOT).split()
    wanted = {file for file in listed if (ROOT / file).is_file()}
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = {file for file in archive.namelist() if ".dist-info/" not in file}
    with tarfile.open(sdist) as archive:
        in_sdist = {member.name.partition("/")[2] for member in archive if member.isfile()}
    for what, missing in (("wheel", wanted - in_wheel), ("sdist", wanted - in_sdist)):
        if missing:
            raise SystemExit(f"release-check: the {what} is missing {', '.join(sorted(missing))}")
    if extra := in_wheel - wanted:
        raise SystemExit(f"release-check: the wheel holds what the checkout does not: {', '.join(sorted(extra))}")
    say(f"{wheel.name} and {sdist.name} hold all {len(wanted)} files of the package")


def check_version(wheel: Path) -> None:
    """The version has one place, the package; what else names it agrees."""
    version = wheel.name.split("-")[1]
    named = {"CITATION.cff": f"version: {version}\n", "CHANGELOG.md": f"## {version}\n"}
    for file, line in named.items():
        if line not in (ROOT / file).read_text():
            raise SystemExit(f"release-check: the package is {version}, and {file} has no line {line.strip()!r}")


def find_python(version: str) -> str | None:
    if sys.version.startswith(f"{version}."):
        return sys.executable
    on_path = shutil.which(f"python{version}")
    if on_path and subprocess.run([on_path, "--version"], capture_output=True).returncode == 0:  # a shim may lead nowhere
        return on_path
    found = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))
    return str(found[-1]) if found else None


def install_and_smoke(python: str, version: str, wheel: Path, work: Path) -> None:
    started_s = time.monotonic()
    place = work / version
    uv = BIN / "uv"
    run(uv, "venv", "--quiet", "--python", python, place / "env")
    inside = place / "env" / "bin"
    runtime = place / "runtime.lock"
    runtime.write_text(runtime_lock(version))
    run(uv, "pip", "install", "--quiet", "--python", inside / "python", "--require-hashes", "--requirement", runtime)
    run(uv, "pip", "install", "--quiet", "--python", inside / "python", "--no-deps", wheel)
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "CIFAR_HPC_", "VIRTUAL_ENV"))
    }
    for arguments, leaves in SMOKE:
        run(inside / "cifar-hpc", *arguments, cwd=place, env=environment)
        if leaves and not (place / leaves).is_file():
            raise SystemExit(f"release-check: cifar-hpc {' '.join(arguments)} left no {leaves}")
    shutil.rmtree(place)
    say(f"Python {version}: installed and ran {len(SMOKE)} commands, {time.monotonic() - started_s:.0f} s")


def runtime_lock(version: str) -> str:
    """Of requirements.lock, what the package needs without any extra: its pins and sums, as they stand there."""
    lock = (ROOT / "requirements.lock").read_text()
    pins = re.split(r"^(?=[A-Za-z0-9])", lock, flags=re.MULTILINE)[1:]
    compiled = run(
        BIN / "uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--python-version", version,
        "--constraint", ROOT / "requirements.lock", ROOT / "pyproject.toml",
    )  # fmt: skip
    names = {line.partition("==")[0] for line in compiled.splitlines() if "==" in line}
    return "".join(pin for pin in pins if re.split(r"[^A-Za-z0-9._-]", pin, maxsplit=1)[0] in names)


def run(*command: object, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise SystemExit(f"release-check: {' '.join(words)} failed\n{done.stdout}{done.stderr}")
    return done.stdout


def say(line: str) -> None:
    print(f"release-check: {line}", flush=True)


if __name__ == "__main__":
    main()
