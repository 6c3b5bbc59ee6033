"""What truetally says of itself without a daemon."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

import truetally

SHELLS = ("bash", "zsh", "fish")


@click.command()
def version() -> None:
    """Print the version."""
    click.echo(truetally.__version__)


@click.command(
    epilog="""\b
To switch it on, put a line into the shell's own configuration:
  bash  ~/.bashrc                     source <(truetally completion bash)
  zsh   ~/.zshrc                      source <(truetally completion zsh)
  fish  ~/.config/fish/config.fish    truetally completion fish | source
"""
)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script for a shell."""
    script = get_completion_class(shell)
    if script is None:
        raise click.UsageError(f"there is no completion for {shell}")
    root = ctx.find_root()
    name = root.info_name or "truetally"
    variable = f"_{name.replace('-', '_').upper()}_COMPLETE"
    click.echo(script(root.command, {}, name, variable).source())
