"""help_texts.txt: what `--help` says of every command. Written anew by: python -m forecast_platform_tests.help_texts"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from forecast_platform.cli import main

FILE = Path(__file__).with_suffix(".txt")
WIDTH = 100


def help_texts() -> str:
    return "\n".join(_of(main, "forecast", None))


def _of(command: click.Command, name: str, parent: click.Context | None) -> Iterator[str]:
    given = {"terminal_width": WIDTH, "max_content_width": WIDTH, "color": False, **command.context_settings}
    context = click.Context(command, parent, name, **given)
    yield command.get_help(context) + "\n\n"
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            assert found is not None
            yield from _of(found, child, context)


if __name__ == "__main__":
    FILE.write_text(help_texts())
