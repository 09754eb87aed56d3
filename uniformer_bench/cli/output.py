"""What a verb prints: one document, or text for a person."""

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


def print_document(document: dict[str, Any], as_json: bool, text: str) -> None:
    """The document, or text for a person, on stdout."""
    from uniformer_bench.files import to_json
    from uniformer_bench.printing import printable

    click.echo(printable(to_json(document) if as_json else text))


def show_document(document: dict[str, Any], as_json: bool, *tables: "RenderableType") -> None:
    """The document, or tables for a person."""
    if as_json:
        print_document(document, True, "")
    else:
        console(stderr=False).print(*tables)


def console(stderr: bool = True) -> "Console":
    """A terminal: of stderr, for what is not the verb's result."""
    from rich.console import Console

    return Console(stderr=stderr)
