"""A report of a results folder: what was decided, published numbers beside ours, every study, and how it was made.

Use `collect` to read a folder into `Contents`. Then `html` writes one self-contained page, `latex` a document with its
tables for pdflatex, and `csv` flat tables. What is missing shows as a gap that says so. `booktabs` makes of rows one
table for a paper. Nothing is measured here.
"""

from ntkgen.report._booktabs import SUMMARIES, booktabs
from ntkgen.report._collect import collect
from ntkgen.report._contents import (
    Claim,
    Contents,
    Figure,
    Published,
    Quality,
    ReportError,
    Run,
    Setting,
    Statement,
    Table,
)
from ntkgen.report._csv import csv
from ntkgen.report._html import html
from ntkgen.report._latex import latex

__all__ = [
    "SUMMARIES",
    "Claim",
    "Contents",
    "Figure",
    "Published",
    "Quality",
    "ReportError",
    "Run",
    "Setting",
    "Statement",
    "Table",
    "booktabs",
    "collect",
    "csv",
    "html",
    "latex",
]
