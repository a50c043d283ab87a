"""`python -m ntkgen <study>`."""

from ntkgen import cli

cli.command()
