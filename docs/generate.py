"""The parts of the guide that the code knows itself: every key of a spec, every command, the Slurm profile.

A page holds `<!-- generated: NAME -->` where one of them stands. mkdocs calls on_page_markdown (mkdocs.yml, hooks).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import typer
from ruamel.yaml import YAML

DOCS = Path(__file__).parent
_MARK = re.compile(r"<!-- generated: ([a-z ]+) -->")


def on_page_markdown(markdown: str, **_: Any) -> str:
    return _MARK.sub(lambda match: PARTS[match[1]](), markdown)


def examples() -> Mapping[str, str]:
    """An example of each key, as YAML that a spec may hold."""
    loaded: Mapping[str, str] = YAML(typ="safe").load(DOCS / "spec_examples.yaml")
    return loaded


def spec_keys() -> str:
    from cifar_hpc.spec.schema import describe_keys

    shown = examples()
    lines = []
    for row in describe_keys():
        lines.append(f"### `{row['key']}`\n\n{_sentence(row['meaning'])}\n")
        facts = [f"Allowed: {_plain(row['allowed'])}."] if row["allowed"] else []
        facts += [f"Default: `{row['default']}`."] if row["default"] else []
        lines.append(" ".join(facts) + "\n" if facts else "")
        if row["key"] in shown:
            lines.append(f"```yaml\n{shown[row['key']].rstrip()}\n```\n")
    return "\n".join(lines)


def commands() -> str:
    from cifar_hpc.cli import app
    from cifar_hpc.cli.examples import EXAMPLES

    group: Any = typer.main.get_command(app)
    lines = []
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        usage = " ".join(_shown(parameter) for parameter in command.params if parameter.param_type_name == "argument")
        lines.append(f"## {name}\n\n```text\ncifar-hpc {name} {usage}\n```\n\n{_plain(command.help or '')}\n")
        rows = [
            _row(parameter) for parameter in command.params if parameter.name != "help" and getattr(parameter, "help", None)
        ]
        if rows:
            lines.append("| argument or option | meaning |\n| --- | --- |\n" + "\n".join(rows) + "\n")
        lines.append("```sh\n" + "\n".join(EXAMPLES[name]) + "\n```\n")
    return "\n".join(lines)


def api() -> str:
    import cifar_hpc

    lines = [f"```text\n{inspect.getdoc(cifar_hpc)}\n```\n"]
    for name in sorted(name for name in cifar_hpc.__all__ if not name.startswith("_")):
        thing = getattr(cifar_hpc, name)
        lines.append(f"## {name}\n\n{_plain(inspect.getdoc(thing) or '')}\n")
        for member, value in vars(thing).items() if inspect.isclass(thing) else ():
            told = None if member.startswith("_") or not callable(value) else inspect.getdoc(value)
            if told:
                lines.append(f"**{member}** `{inspect.signature(value)}`: {_plain(told)}\n")
    return "\n".join(lines)


def profile() -> str:
    return f"```yaml\n{(DOCS.parent / 'slurm' / 'example.yaml').read_text().rstrip()}\n```"


def _shown(parameter: Any) -> str:
    word = parameter.metavar or parameter.name.upper()
    return f"{word}" if parameter.required else f"[{word.strip('[]')}]"


def _row(parameter: Any) -> str:
    names = ", ".join(parameter.opts + parameter.secondary_opts) if parameter.param_type_name == "option" else _shown(parameter)
    return f"| `{names.replace('|', '/')}` | {_plain(parameter.help)} |"


def _sentence(text: str) -> str:
    plain = _plain(text)
    return plain[:1].upper() + plain[1:] + ("" if plain.endswith(".") else ".")


def _plain(text: str) -> str:
    """Markdown that shows the text as it is."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("[", "\\[")


PARTS: Mapping[str, Callable[[], str]] = {"spec keys": spec_keys, "commands": commands, "api": api, "profile": profile}
