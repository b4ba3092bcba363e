"""What a user brings in Python: 'mynets.py:TinyNet', a file as seen from the spec, or 'mylab.nets:tiny_net', importable.

Owns: Source, which stands for it in a trial's id by the hash of its code; where the code is looked for; the import of it. The
code of a file is that file and the modules beside it that it imports; that of a module also what its import runs of its own
package. A copy of a file's is kept under results/, so that what was planned is what is run, wherever and whenever. Only who
builds a part imports it: `status` and `report` never do. Knows no trial.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from cifar_hpc.errors import UnusableError, nearest

_FORM = re.compile(r"(?P<file>[^:\n]+\.py):(?P<object>[A-Za-z_]\w*)|(?P<module>[A-Za-z_][\w.]*):(?P<name>[A-Za-z_]\w*)")
_INSTALLED = {"site-packages", "dist-packages"}  # folders of what is installed, and changes with its version
_kept: list[Path] = []  # folders of copies that this process knows of
_modules: dict[str, str] = {}  # modules that this process has imported as a source, each with the digest of its code then


class OwnCodeError(UnusableError):
    """Code of the user's that cannot be had, or does not do what it should."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One part of a trial that is not the package's. part: the trial key; name: of the object, with its file's name or its
    module; sha256: of its code; version: of the package that the module is of; path: of the file, where it lay when the
    sweep was planned: no part of the id."""

    part: str
    name: str
    sha256: str
    version: str | None = None
    path: str | None = field(default=None, metadata={"hashed": False})

    @property
    def object(self) -> str:
        return self.name.rpartition(":")[2]

    @property
    def label(self) -> str:
        """As provenance names it."""
        version = f" of version {self.version}" if self.version else ""
        return f"{self.name}{version}, sha256 {self.sha256[:16]}"


def is_own(text: object) -> bool:
    """Whether a text has the form of a user's own part."""
    return isinstance(text, str) and _FORM.fullmatch(text) is not None


def find_source(part: str, text: str, folder: Path) -> Source:
    """What a text of the form stands for; nothing of it is executed. folder: where a file's relative path starts.

    Raises OwnCodeError where the file or module is not there.
    """
    found = _FORM.fullmatch(text)
    assert found is not None
    if found["file"]:
        path = (folder / Path(found["file"]).expanduser()).absolute()
        return Source(part=part, name=f"{path.name}:{found['object']}", sha256=file_digest(path), path=str(path))
    top = found["module"].partition(".")[0]
    distribution = next(iter(importlib.metadata.packages_distributions().get(top, ())), None)
    version = importlib.metadata.version(distribution) if distribution else None
    return Source(part=part, name=text, sha256=_module_digest(found["module"]), version=version)


def code_files(path: Path, module: str | None = None) -> dict[str, Path]:
    """A file and the modules beside it that it imports, and those that they import: name as seen from its folder -> path.

    module: by which name it is imported, where it is no file of its own: names are seen from the folder that holds its package,
    whose own code counts.
    """
    root, pending = path.parent, [path]
    if module is not None:
        root = path.parents[module.count(".") + (path.name == "__init__.py")]
        pending += _run_by(root, module)
    files: dict[str, Path] = {}
    while pending:
        file = pending.pop()
        name = file.relative_to(root).as_posix()
        if name not in files:
            files[name] = file
            pending += [one for folder, names in _imports(file, root) for one in _run_by(folder, names)]
    return files


def file_digest(path: Path) -> str:
    """Of a file's code. Raises OwnCodeError where it cannot be read or is no Python."""
    return _digest_of(code_files(path), path)


def _digest_of(files: Mapping[str, Path], own: Path) -> str:
    digest = hashlib.sha256()
    for name, file in sorted(files.items()):
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        digest.update(f"{'' if file == own else name}\0{content}\n".encode())  # the file's own name is in the source's
    return digest.hexdigest()


def look_in(folder: Path) -> None:
    """Copies are looked for in that folder from now on in this process."""
    if folder not in _kept:
        _kept.append(folder)


def keep_copy(source: Source, folder: Path) -> None:
    """Puts the code into folder/<sha256>/, unless it is there. Raises OwnCodeError where the file has changed since."""
    target = folder / source.sha256
    if source.path is None or target.is_dir():
        return
    path = _file_of(source)
    temporary = folder / f".{source.sha256}.{path.stat().st_mtime_ns}"
    for name, file in code_files(path).items():
        copy = temporary / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    try:
        temporary.rename(target)
    except OSError:  # somebody else made it meanwhile
        if not target.is_dir():
            raise


def load_source(source: Source) -> Any:
    """The object that a source names. Raises OwnCodeError where its code is not that which was planned, or has no such object;
    what the code itself raises comes as it is."""
    module = load_module(source)
    if not hasattr(module, source.object):
        names = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        found = f"{source.name.rpartition(':')[0]} has no {source.object!r}"
        raise OwnCodeError(
            source.part, found, f"it has {', '.join(names) or 'nothing that can be called'}", nearest(source.object, names)
        )
    return getattr(module, source.object)


def load_module(source: Source) -> ModuleType:
    """The module of a source, imported once for each state of its code."""
    if source.path is None:
        name = source.name.partition(":")[0]
        if _module_digest(name) != source.sha256:
            raise OwnCodeError(
                source.part, f"{name} has changed since the sweep was planned", "plan the sweep again, or install the old one"
            )
        if _modules.setdefault(name, source.sha256) != source.sha256:
            raise OwnCodeError(source.part, f"{name} has changed since this process imported it", "start Python again")
        return importlib.import_module(name)
    return _load_file(_file_of(source), source.sha256)


def own_line(error: BaseException, path: str | None) -> str:
    """'mynets.py:12: NameError: ...': the last line of the user's own code on the way to an error."""
    kind, said = type(error).__name__, str(error).strip().split("\n")[0]
    names = set(code_files(Path(path))) if path and Path(path).is_file() else set()
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}:{error.lineno}: {kind}: {error.msg}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).name in names]
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}: `{frames[-1].line}`: " if frames else ""
    return f"{place}{kind}: {said}" if said else f"{place}{kind}"


def _file_of(source: Source) -> Path:
    """The copy that was kept, else the file itself where it is still the same."""
    assert source.path is not None
    path = Path(source.path)
    for folder in _kept:
        copy = folder / source.sha256 / path.name
        if copy.is_file():
            return copy
    if path.is_file() and file_digest(path) == source.sha256:
        return path
    why = "has changed since the sweep was planned" if path.is_file() else "is not there"
    raise OwnCodeError(source.part, f"{path} {why}", "put the file back, or plan the sweep again")


@functools.cache
def _load_file(path: Path, sha256: str) -> ModuleType:
    """A module of its own name for each state of the file; what lies beside it is imported from there."""
    name = f"_own_{sha256[:16]}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    beside = {other.removesuffix("/__init__.py").removesuffix(".py").replace("/", ".") for other in code_files(path)}
    for other in beside:  # of another state of the file
        sys.modules.pop(other, None)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(str(path.parent))
    return module


def _module_file(module: str) -> Path:
    try:
        found = importlib.util.find_spec(module)
    except ImportError as error:
        raise OwnCodeError(module, f"cannot be imported ({error})", "an installed module, or a file: mynets.py:Name") from error
    if found is None or not found.origin or not Path(found.origin).is_file():
        raise OwnCodeError(module, "no such module", "an installed module, or a file: mynets.py:Name")
    return Path(found.origin)


def _module_digest(module: str) -> str:
    """Of a module's code; of an installed one that file alone, for its package's version stands beside it."""
    origin = _module_file(module)
    installed = _INSTALLED & set(origin.parts) or origin.is_relative_to(sysconfig.get_path("stdlib"))
    return _digest_of({"": origin} if installed else code_files(origin, module), origin)


def _imports(path: Path, root: Path) -> Iterator[tuple[Path, str]]:
    """What a file imports, each name with the folder from which it is seen: the root, or of a relative one its package.
    The last part of a name may be a module or what is in one."""
    try:
        tree = ast.parse(path.read_bytes())
    except OSError as error:
        raise OwnCodeError(
            str(path), (error.strerror or "cannot be read").lower(), "a Python file, relative to the spec"
        ) from error
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", 1)
        raise OwnCodeError(
            f"{path.name}:{line}", f"no Python ({getattr(error, 'msg', error)})", "a file that Python can read"
        ) from error
    packages = [folder for folder in path.parents if folder.is_relative_to(root)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((root, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level <= len(packages):
            folder = packages[node.level - 1] if node.level else root
            yield from ((folder, f"{node.module or ''}.{alias.name}".lstrip(".")) for alias in node.names)


def _run_by(folder: Path, module: str) -> list[Path]:
    """The files in the folder that an import of the module runs: of its packages, then its own."""
    parts = module.split(".")
    places = [folder.joinpath(*parts[: n + 1]) for n in range(len(parts))]
    return [one for place in places for one in (place.with_suffix(".py"), place / "__init__.py") if one.is_file()]
