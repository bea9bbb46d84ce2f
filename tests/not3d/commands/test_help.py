import click
import pytest
import typer

from not3d.commands.app import app
from not3d.commands.serve import make_serve


def commands() -> dict[str, click.Command]:
    """Return all commands by their words, without groups."""
    serve = typer.Typer()
    serve.command()(make_serve())
    found = {"serve": typer.main.get_command(serve)}

    def walk(words: tuple[str, ...], command: click.Command) -> None:
        children: dict[str, click.Command] = getattr(command, "commands", {})
        if not children:
            found.setdefault(" ".join(words), command)
        for name, child in children.items():
            walk((*words, name), child)

    walk((), typer.main.get_command(app))
    return found


@pytest.mark.parametrize("command", commands().items(), ids=lambda command: command[0])
def test_a_command_and_each_of_its_parameters_have_a_help_text(command: tuple[str, click.Command]) -> None:
    _words, found = command
    assert found.help
    assert [each.name for each in found.params if not getattr(each, "help", None)] == []
