"""`python -m ntkgen <study>` is the console command `ntkgen`."""

import sys


def main() -> None:
    """Run the console command; an interrupt while it is being imported is one line too."""
    try:
        from ntkgen import cli
    except KeyboardInterrupt:
        print("error: interrupted; nothing was begun", file=sys.stderr)
        sys.exit(130)
    cli.command()


if __name__ == "__main__":
    main()
