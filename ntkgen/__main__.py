"""`python -m ntkgen <study>` is the console command `ntkgen`."""

from ntkgen import cli

if __name__ == "__main__":
    cli.command()
