"""Every command that the program tells to type is one that it takes: with these arguments, and names that exist."""

from __future__ import annotations

import ast
import dataclasses
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import cifar_hpc
from benchmarks.pool import Images, write_plan, write_trial
from cifar_hpc.cli import app
from cifar_hpc.errors import OtherVersionError
from cifar_hpc.records.claims import TrialState, read_state
from cifar_hpc.records.layout import RESULTS_VARIABLE, Layout
from cifar_hpc.records.plans import read_plan
from cifar_hpc.records.schema import ErrorRecord, Status
from cifar_hpc.records.store import write_record
from cifar_hpc.spec.load import load_spec
from cifar_hpc.status.advice import failure_lines, next_lines

PACKAGE = Path(cifar_hpc.__file__).parent
SPEC = "name: small\ndataset: digits\nbase: {arch: linear}\ngrid: {lr: [0.1, 0.2]}\n"
# A command in a sentence stands in backticks; at a line's end it may stand without, and a remark in brackets may follow.
COMMAND = re.compile(r"`cifar-hpc (?P<quoted>[a-z][^`]*)`|(?<!`)cifar-hpc (?P<open>[a-z][^\n`]*?)(?=   \(|\n|$)")


def texts(tree: ast.AST) -> Iterator[str]:
    """Every text of a module but its docstrings; what is filled in stands as {expression}."""
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            if isinstance(node, ast.Expr | ast.JoinedStr | ast.FormattedValue):
                continue
            if isinstance(child, ast.JoinedStr):
                parts = [v.value if isinstance(v, ast.Constant) else f"{{{ast.unparse(v.value)}}}" for v in child.values]
                yield "".join(map(str, parts))
            elif isinstance(child, ast.Constant) and isinstance(child.value, str):
                yield child.value


def printed() -> list[tuple[str, str]]:
    """(file, command) of all that the package tells to type, as its source has it."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for text in texts(ast.parse(path.read_text())):
            for match in COMMAND.finditer(text.replace("\\`", "`")):  # of a shell script, too
                found[path.relative_to(PACKAGE).as_posix(), match["quoted"] or match["open"]] = None
    return list(found)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spec, a finished sweep 'small' of it, its results under results/."""
    place = tmp_path_factory.mktemp("place")
    for folder in ("sweeps", "new_photos"):
        (place / folder).mkdir()
    (place / "sweeps/small.yaml").write_text(SPEC)
    layout, trials = Layout(place / "results"), load_spec(place / "sweeps/small.yaml").configs
    for config in trials:
        write_trial(layout, config, Images.draw(60, 60), sweep="small")
    write_plan(layout, trials, "small")
    return place


@pytest.fixture
def words(place: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What stands for the words in capitals, and for what is filled in, by the last name of its expression."""
    monkeypatch.chdir(place)
    monkeypatch.setenv(RESULTS_VARIABLE, str(place / "results"))
    trial = next(iter(Layout(place / "results").trial_ids()))
    known = {"SPEC": "sweeps/small.yaml", "SWEEP": "small", "TRIAL": trial, "FOLDER": ".", "NAME": "fresh"}
    known |= {"sweep": "small", "file": "sweeps/small.yaml", "trial_id": trial, "parent": trial, "point": trial}
    return {
        **known,
        "name": "small",
        "quote": trial,
        "point_id": trial,
        "ID": trial,
        "names": "small",
        "which": trial,
        "DATASET": "dataset=digits",
        "N": "8",
    }


def filled(command: str, words: dict[str, str]) -> list[str]:
    def fill(match: re.Match[str]) -> str:
        names = re.findall(r"[A-Za-z_]+", match[1])
        return next(words[name] for name in reversed(names) if name in words)

    named = {"arch NAME": "arch linear", "fetch {": "fetch digits #"}
    for old, new in named.items():
        command = command.replace(old, new)
    command = re.sub(r"\{([^{}]*)\}", fill, command.partition(" #")[0].partition(" > ")[0])
    return [words[word] if word.isupper() else word for word in shlex.split(command)]


@pytest.mark.parametrize(("file", "command"), printed())
def test_a_printed_command_is_taken_as_it_stands(file: str, command: str, words: dict[str, str]) -> None:
    name, *arguments = filled(command, words)
    group = typer.main.get_command(app)
    context = group.make_context("cifar-hpc", [name, *arguments], resilient_parsing=True)
    found = group.get_command(context, name)  # type: ignore[attr-defined]
    assert found is not None, f"{file}: no command {name!r}"
    if arguments or not any(parameter.required for parameter in found.params):
        found.make_context(name, arguments, parent=context)
    else:
        pytest.fail(f"{file}: `cifar-hpc {command}` says not what of")


def test_what_is_printed_is_found() -> None:
    """Most commands are named somewhere, those of advice among them."""
    named = {command.split()[0] for _, command in printed()}
    assert {"sweep", "status", "logs", "retry", "report", "fetch", "reproduce", "refit", "predict", "doctor"} <= named


def test_what_another_version_finished_is_not_advised_to_be_retried_though_an_older_error_lies_beside_it(place: Path) -> None:
    """`retry` leaves it alone, whatever an earlier attempt died of."""
    plan = read_plan(Layout(place / "results"), "small")
    trial_id = plan.trials[0].trial_id
    files = Layout(place / "foreign").trial(trial_id)
    files.folder.mkdir(parents=True)
    files.result.write_text('{"schema_version": 99}')
    died = ErrorRecord(
        trial_id=trial_id,
        attempt=1,
        kind="OSError",
        message="full",
        traceback="",
        host="h",
        job="small/job-0001",
        failed_at="2026",
    )
    write_record(files.error, died)
    state = read_state(files, trial_id)
    assert state.status is Status.FAILED and state.error is None and state.reason.startswith("result.json: schema_version 99")
    (line,) = failure_lines(plan, [state])
    assert "retry" not in line and line.startswith("left as it is: ")


def test_the_advice_for_a_sweep_is_typed_and_works(place: Path, words: dict[str, str]) -> None:
    plan = read_plan(Layout(place / "results"), "small")
    failed, foreign = TrialState(plan.trials[0].trial_id, Status.FAILED), OtherVersionError("other", without="mv a b")
    lines = failure_lines(plan, [failed, *[dataclasses.replace(failed, refused=foreign)] * 4])
    for status in (Status.PLANNED, Status.COMPLETED):
        lines += next_lines(plan, {trial.trial_id: TrialState(trial.trial_id, status) for trial in plan.trials})
    commands = [shlex.split(found) for line in lines for found in re.findall(r"cifar-hpc [^()\n]*?(?=   |\)|$)", line)]
    assert {command[1] for command in commands} == {"logs", "retry", "sweep", "report", "status"}
    for _, name, *arguments in commands:
        extra = ["--dry-run"] if name == "sweep" else []
        done = CliRunner().invoke(app, [name, *arguments, *extra])
        assert done.exit_code == 0, (name, arguments, done.output)
