"""`truetally`, and `python -m truetally`."""

from __future__ import annotations


def main() -> None:
    """Run the command line; ends the process with its exit code."""
    from truetally.cli.root import root

    root(prog_name="truetally")


if __name__ == "__main__":
    main()
