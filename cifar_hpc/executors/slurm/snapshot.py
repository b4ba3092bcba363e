"""The code that a sweep's jobs run: a copy of the package as it was when they were submitted.

Later edits do not reach queued jobs. A copy is named after its content, so that a second submission of the same code adds none.
Beside the package stands source.json: the commit and the digest of what differs from it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

import cifar_hpc
from cifar_hpc.records.layout import SOURCE_FILE, SweepFiles

PACKAGE = Path(cifar_hpc.__file__).parent


def package_digest(package: Path = PACKAGE) -> str:
    """Twelve letters that change with any byte of the package's files."""
    return _digest(package, _contents(package))


def snapshot_package(files: SweepFiles, package: Path = PACKAGE) -> Path:
    """The folder to put first on PYTHONPATH. Raises OSError where it cannot be written."""
    contents = _contents(package)
    target = files.code / _digest(package, contents)
    if target.is_dir():
        return target
    files.code.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".code.", dir=files.code))
    try:
        for path, content in contents.items():
            copy = temporary / package.name / path.relative_to(package)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(content)
        (temporary / SOURCE_FILE).write_text(json.dumps(_source(package)))
        temporary.chmod(0o755)
        with contextlib.suppress(OSError):  # somebody else made it meanwhile
            temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _contents(package: Path) -> dict[Path, bytes]:
    files = (path for path in sorted(package.rglob("*")) if path.is_file() and "__pycache__" not in path.parts)
    return {path: path.read_bytes() for path in files}


def _digest(package: Path, contents: dict[Path, bytes]) -> str:
    digest = hashlib.sha256()
    for path, content in contents.items():
        digest.update(f"{path.relative_to(package)}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:12]


def _source(package: Path) -> dict[str, str | None]:
    """commit: None outside a git checkout; diff_sha256: of the package's difference from it, None where there is none."""
    try:
        if not _git(package, "ls-files", "--", "__init__.py"):
            return {"commit": None, "diff_sha256": None}
        diff = _git(package, "diff", "HEAD", "--", str(package))
        commit = _git(package, "rev-parse", "HEAD").decode().strip()
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "diff_sha256": None}
    return {"commit": commit, "diff_sha256": hashlib.sha256(diff).hexdigest() if diff else None}


def _git(package: Path, *arguments: str) -> bytes:
    return subprocess.run(["git", "-C", str(package), *arguments], capture_output=True, check=True, timeout=30).stdout
