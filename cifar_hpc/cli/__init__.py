"""The commands. A command is a few lines that call the halves; what is slow to import is imported inside it.

Exit status: 0 all well, 1 trials failed, 2 the user must act (a CifarHpcError, told without a traceback), 130 interrupted.
"""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from cifar_hpc.cli.arch import arch
from cifar_hpc.cli.doctor import doctor
from cifar_hpc.cli.fetch import fetch
from cifar_hpc.cli.look import augment, lr_find
from cifar_hpc.cli.report import compare, report
from cifar_hpc.cli.spec_commands import init, schema
from cifar_hpc.cli.status import cancel, logs, retry, status
from cifar_hpc.cli.sweep import sweep
from cifar_hpc.cli.trained import export, predict, reproduce
from cifar_hpc.errors import CifarHpcError


class Commands(TyperGroup):
    """Turns the errors that a user can mend, and interruption, into a sentence and an exit status."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except CifarHpcError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(2) from None


app = typer.Typer(
    cls=Commands,
    name="cifar-hpc",
    help="Transfer-learning sweeps on small image sets: from a YAML file to a leaderboard.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
_COMMANDS = (
    *(sweep, status, logs, cancel, retry, report, compare, fetch, arch, schema, init, doctor),
    *(augment, lr_find, predict, export, reproduce),
)
for command in _COMMANDS:
    app.command()(command)


def main() -> None:
    """The entry point of `cifar-hpc`."""
    app()
