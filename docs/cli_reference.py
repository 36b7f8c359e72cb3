"""Write the reference of every command into docs/cli.md, from the commands themselves.

python docs/cli_reference.py

Text outside the markers is written by hand and stays. A test compares the file with the commands.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click

from jobonnx.cli.main import main

PAGE = Path(__file__).with_name("cli.md")
END = "<!-- end -->"


def commands(group: click.Group = main, path: str = "jobonnx") -> Iterator[tuple[str, click.Command]]:
    """Yield every command with its full name, groups left out, in alphabetical order."""
    context = click.Context(group)
    for name in group.list_commands(context):  # in alphabetical order; the program imports each when it is asked for
        command = group.get_command(context, name)
        if command is None or command.hidden:
            continue
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def reference(name: str, command: click.Command) -> str:
    """Describe a command in Markdown: usage, what it does, and a table of its options."""
    usage = " ".join([name, *command.collect_usage_pieces(click.Context(command, info_name=name))])
    paragraphs = [" ".join(part.split()) for part in (command.help or "").split("\n\n")]
    rows = [f"| {_names(option)} | {_meaning(option)} |" for option in options(command)]
    table = ["| option | meaning |\n|---|---|\n" + "\n".join(rows)] if rows else []
    return "\n\n".join([f"```text\n{usage}\n```", *paragraphs, *table])


def options(command: click.Command) -> list[click.Option]:
    """List a command's options, without the hidden ones and without --help."""
    return [parameter for parameter in command.params if isinstance(parameter, click.Option) and not parameter.hidden]


def updated(page: str) -> str:
    """Replace what stands between the markers; add a section for a command that has none, remove that of one that is gone."""
    known = dict(commands())
    for name in re.findall(r"^<!-- (jobonnx [^>]*) -->$", page, re.MULTILINE):
        if name not in known:
            page = re.sub(rf"## {re.escape(name)}\n.*?{END}\n", "", page, flags=re.DOTALL)
    for name, command in known.items():
        marker = f"<!-- {name} -->"
        if marker not in page:
            page = f"{page.rstrip()}\n\n## {name}\n{marker}\n{END}\n"
        before, rest = page.split(f"{marker}\n", 1)
        after = rest.split(END, 1)[1]
        page = f"{before}{marker}\n{reference(name, command)}\n\n{END}{after}"
    return page


def _names(option: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
    return names if option.is_flag else f"{names} {_value(option)}".strip()


def _value(option: click.Option) -> str:
    if isinstance(option.type, click.Choice):
        value = " or ".join(str(choice) for choice in option.type.choices)
    else:
        value = option.metavar or option.type.name.upper().split(" ")[0]
    return value.replace("|", "\\|")


def _meaning(option: click.Option) -> str:
    parts = [" ".join((option.help or "").split()).replace("|", "\\|")]
    if option.required:
        parts.append("Required.")
    if option.show_default and not option.is_flag and option.default is not None:
        parts.append(f"Default: `{option.default}`.")
    return " ".join(part for part in parts if part)


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
