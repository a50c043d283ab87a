"""ntkgen: why do overparameterized networks generalize? Many seeds, one command, every number with its error."""

__version__ = "0.1.0"
