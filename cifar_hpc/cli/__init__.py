"""The commands. A command is a few lines that call what does the work; what is slow to import is imported inside it.

Exit status: 0 all well, 1 trials failed, 2 the user must act (a CifarHpcError, told without a traceback), 130 interrupted.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cifar_hpc import __version__
from cifar_hpc.cli.examples import epilog_of
from cifar_hpc.errors import CifarHpcError, did_you_mean, nearest
from cifar_hpc.terminal.harmless import harmless_streams
from cifar_hpc.terminal.prose import laid_out


class Commands(TyperGroup):
    """Turns the errors that a user can mend, and interruption, into a sentence and an exit status.

    A command is loaded once it is asked for.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        return list(_PLACES)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in _PLACES and not args[0].startswith("-"):
            near = nearest(args[0], _PLACES)
            ctx.fail(f"No such command {args[0]!r}.{did_you_mean(near)}")
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in _PLACES:
            return None
        group, file = _PLACES[cmd_name]
        function = getattr(import_module(f"cifar_hpc.cli.{file}"), cmd_name.replace("-", "_"))
        one = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)
        one.command(cmd_name, rich_help_panel=group, epilog=epilog_of(cmd_name))(function)
        return typer.main.get_command(one)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """`~` means the home folder wherever a path may stand, also where no shell made it so."""
        return super().parse_args(ctx, [re.sub("^(--[a-z-]+=)?(~.*)", _at_home, arg) for arg in args])

    def invoke(self, ctx: Any) -> Any:
        with harmless_streams():
            return self._invoke(ctx)

    def _invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except CifarHpcError as error:
            typer.echo(laid_out(f"error: {error}", sys.stderr), err=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(130) from None
        except typer.BadParameter as error:
            error.message = _in_plain_words(error.message)
            raise
        except Exception as error:
            refusal = of_the_place(error)
            if refusal is None:
                raise
            typer.echo(f"error: {_said_of(refusal)}", err=True)
            raise typer.Exit(2) from None


def _at_home(found: re.Match[str]) -> str:
    return (found[1] or "") + os.path.expanduser(found[2])  # noqa: PTH111 - a Path would drop what else the text says


# What disks, shares, permissions and limits refuse; anything else that the system says is a fault of this program.
_OF_THE_PLACE = {
    "EACCES": "",
    "EDQUOT": "free some space, then type the command again",
    "EIO": "the disk or the share fails; what was complete before is kept",
    "EISDIR": "",
    "EMFILE": "`ulimit -n` is the limit of open files; `ulimit -n 4096` raises it",
    "ENAMETOOLONG": "",
    "ENFILE": "the machine has too many files open",
    "ENODEV": "",
    "ENOMEM": "",
    "ENOSPC": "free some space, then type the command again",
    "ENOTCONN": "the share is gone; what was complete before is kept",
    "ENOTDIR": "",
    "EPERM": "",
    "EREMOTEIO": "the share fails; what was complete before is kept",
    "EROFS": "",
    "ESTALE": "the share was mounted again; type the command again",
    "ETIMEDOUT": "the share does not answer",
}
_ADVICE = {getattr(errno, name): advice for name, advice in _OF_THE_PLACE.items() if hasattr(errno, name)}


def of_the_place(error: BaseException) -> OSError | None:
    """The system's refusal that this error is, or that it was raised from by a library with words of its own."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        if isinstance(link, OSError) and link.errno in _ADVICE:
            return link
        seen.add(id(link))
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return None


def _said_of(error: OSError) -> str:
    """'results/x.json: No space left on device: free some space, then type the command again'."""
    where = f"{error.filename2 or error.filename}: " if error.filename else ""
    advice = _ADVICE.get(error.errno or 0, "")
    return f"{where}{error.strerror or error}" + (f": {advice}" if advice else "")


def _in_plain_words(message: str) -> str:
    """Without the checker's own prefix, and with the nearest where it lists what is allowed."""
    plain = message.removeprefix("Value error, ")
    found, *allowed = re.findall(r"'([^']*)'", plain) or [""]
    near = nearest(found, allowed)
    return plain + did_you_mean(near)


# Command -> the file that holds it, by the groups of `--help`. A file is imported only once one of its commands is needed.
GROUPS: dict[str, dict[str, tuple[str, ...]]] = {
    "Run": {"run": ("sweep", "retry", "cancel"), "status": ("status",), "logs": ("logs",)},
    "Look before a run": {"arch": ("arch",), "data": ("data",), "look": ("augment", "lr-find"), "spec_commands": ("schema",)},
    "Results": {"report": ("report", "compare"), "labels": ("labels",)},
    "Networks": {"trained": ("predict", "export", "reproduce"), "refit": ("refit",), "soup": ("soup",)},
    "Place": {"spec_commands": ("init",), "fetch": ("fetch",), "doctor": ("doctor",), "prune": ("prune",)},
}
_PLACES = {name: (group, file) for group, files in GROUPS.items() for file, names in files.items() for name in names}


app = typer.Typer(
    cls=Commands,
    name="cifar-hpc",
    help="Transfer-learning sweeps on small image sets: from a YAML file to a leaderboard.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"cifar-hpc {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="show the version and end")
    ] = False,
) -> None: ...


def main() -> None:
    """The entry point of `cifar-hpc`."""
    app()
