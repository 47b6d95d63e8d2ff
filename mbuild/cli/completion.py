"""``completion``: scripts that let a shell complete mbuild's commands, options and names."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

EPILOG = """\
\b
Examples:
  mbuild completion bash > ~/.local/share/bash-completion/completions/mbuild
  mbuild completion zsh > ~/.zfunc/_mbuild
  mbuild completion fish > ~/.config/fish/completions/mbuild.fish
"""


@click.command("completion", epilog=EPILOG)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion_command(ctx: click.Context, *, shell: str) -> None:
    """Print the completion script for a shell."""
    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(ctx.find_root().command, {}, "mbuild", "_MBUILD_COMPLETE").source()
    click.echo(script)
