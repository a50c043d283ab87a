"""Derived tables of the tangent-kernel study: summaries, exponents of the width, comparison with the paper."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ntkgen import paper, stats
from ntkgen.studies import tables
from ntkgen.studies.base import Rows
from ntkgen.studies.ntk_regime._config import Config, WidthSeries
from ntkgen.studies.ntk_regime._kernels import KINDS
from ntkgen.studies.ntk_regime._paths import ALONG, SCALED
from ntkgen.studies.tables import number

SERIES = WidthSeries._fields
ASKED = {"relative_movement": 4.0, "test_acc": 1.2}  # agreement with the paper: percent, and points
LAYERED = ("movement", "norm")  # of each layer: columns movement_dense0 ... norm_dense0 ...
ENDS = ("train_acc", "test_acc", "train_loss", "test_loss", *SCALED)
BESIDE = ("label_alignment_initial", "label_alignment", "kernel_acc_network", "kernel_acc_initial", "kernel_acc_final")
SUMMARISED = (*ENDS, *BESIDE, "linear_train_acc", "linear_test_acc", "matched_epoch", *(f"matched_{m}" for m in ALONG))
# In the standard parametrisation, for ever wider networks: movement that is constant, over a norm like sqrt(width);
# and the lazy limit. At finite widths and times a lazy network's exponents differ: `_fit_lazy`.
LINES = {"relative_movement": {"constant movement": -0.5, "lazy": -1.0},
         "absolute_movement": {"constant movement": 0.0, "lazy": -0.5}}  # fmt: skip


def series_of(row: Mapping[str, Any]) -> WidthSeries:
    """Return the series that a row of a table belongs to."""
    return WidthSeries(row["loss"], row["limit"])


class NetworkTable:
    """runs.csv as arrays, by series and metric: (seed, width), NaN where something is missing."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Sort the rows."""
        self.rows = rows
        self.series = list(dict.fromkeys(map(series_of, rows)))
        self.cells = {(series_of(row), int(row["width"]), int(row["seed"])): row for row in rows}

    def axes(self, series: WidthSeries) -> tuple[list[int], list[int]]:
        """Return a series' seeds and widths."""
        keys = [key for key in self.cells if key[0] == series]
        return sorted({key[2] for key in keys}), sorted({key[1] for key in keys})

    def metric(self, series: WidthSeries, name: str, widths: Sequence[int] | None = None) -> np.ndarray:
        """Return a metric as (seed, width)."""
        seeds, own = self.axes(series)
        widths = own if widths is None else widths
        blank = {name: None}
        return np.array([[number(self.cells.get((series, w, s), blank)[name]) for w in widths] for s in seeds], float)


def by_width(analytic: Sequence[Mapping[str, Any]], limit: str, column: str) -> dict[int, float]:
    """Return a column of analytic.csv for one limit: width -> number, NaN where there is none."""
    return {int(row["width"]): number(row[column]) for row in analytic if row["limit"] == limit}


def layer_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the layers whose movement runs.csv has, in its order."""
    return [column.removeprefix("movement_") for column in rows[0] if column.startswith("movement_")]


def summarise_networks(rows: Sequence[Mapping[str, Any]]) -> Rows:
    """Make summary.csv: every metric over the seeds, for each series and width."""
    keys = (*SERIES, "width")
    layered = [f"{name}_{layer}" for layer in layer_names(rows) for name in LAYERED]
    summary = tables.summarise([{**row, "width": int(row["width"])} for row in rows], keys, (*SUMMARISED, *layered))
    for row in summary:
        own = [each for each in rows if all(each[name] == str(row[name]) for name in keys)]
        row["num_diverged"] = sum(int(each["diverged"]) for each in own)
        row["num_kernel_seeds"] = sum(each["kernel_acc_initial"] != "" for each in own)
        row["num_linear_seeds"] = sum(each["linear_test_acc"] != "" for each in own)
    return summary


def summarise_tuned(tuned: Sequence[Mapping[str, Any]], networks: NetworkTable) -> Rows:
    """Make tuned_summary.csv: accuracies after equal tuning, beside the network's and its linearisation's at --lr."""
    keys = (*SERIES, "width", "learning_rate", *(f"ridge_{kind}" for kind in KINDS))
    metrics = ("train_acc", "test_acc", *(f"kernel_acc_{kind}" for kind in KINDS), "relative_movement")
    rows = tables.summarise(tuned, keys, metrics)
    for row in rows:
        for name, metric in (("given_rate_test_acc", "test_acc"), ("linear_test_acc", "linear_test_acc")):
            row |= tables.columns(name, networks.metric(series_of(row), metric, [int(row["width"])])[:, 0])
    return rows


def published(config: Config, num_train: int) -> dict[int, dict[str, Any]]:
    """Return the paper's rows if a run follows its protocol, whatever the rate and the draw of images."""
    same = (config.model, config.depth) == ("mlp", 4) and num_train == paper.NTK_EXAMPLES and not config.label_noise
    if config.dataset != "mnist" or not same or config.main != WidthSeries("cross_entropy", "fixed"):
        return {}
    return {width: row for width, row in paper.NTK.items() if width in config.widths}


def compare_with_paper(summary: Rows, known: Mapping[int, Mapping[str, Any]]) -> Rows:
    """Make comparison.csv: published movement and accuracy beside ours, and whether they agree as closely as asked."""
    ours = {
        row["width"]: {name: tuple(row[f"{name}_{end}"] for end in ("mean", "t_low", "t_high")) for name in ASKED}
        for row in summary
    }
    rows = []
    for row in paper.compare({width: known.get(width, {}) for width in ours}, ours):
        relative = row["metric"] == "relative_movement"
        off = row["difference"]
        if relative and off is not None:
            off = 100 * off / row["published"]
        asked = ASKED[row["metric"]]
        row |= {"deviation": off, "unit": "percent" if relative else "points", "asked": asked}
        rows.append(row | {"within": None if off is None else bool(abs(off) <= asked)})
    return rows


def decisive(series: WidthSeries) -> str:
    """Return where a series' exponents are compared with others.

    Squared loss after all epochs; cross-entropy, which never ends, where the training loss is the same.
    """
    return "end" if series.loss == "mse" else "matched loss"


def fit_exponents(
    networks: NetworkTable,
    analytic: Sequence[Mapping[str, Any]],
    spans: Mapping[WidthSeries, Iterable[int]],
    known: Mapping[int, Mapping[str, Any]],
) -> Rows:
    """Fit powers of the width, a fit for each seed.

    Args:
      networks: the measured networks.
      analytic: rows of analytic.csv, of which the lazy predictions' exponents are made (`at` lazy, by `_fit_lazy`).
      spans: narrower ranges of widths to fit a series over once more; of three widths or more.
      known: published relative movement by width; may be empty.

    Returns:
      Rows with `per_seed`, the exponents (seeds,); exponent None where fewer than three widths or no seed is left.
    """
    rows: Rows = []
    seen: set[tuple] = set()
    for series in networks.series:
        _, widths = networks.axes(series)
        narrow = tuple(spans.get(series, ()))
        for span in dict.fromkeys([tuple(widths), narrow if len(narrow) > 2 else tuple(widths)]):
            for prefix, at in (("", "end"), ("matched_", "matched loss")):
                for metric in SCALED if not prefix else ALONG:
                    fit = fit_power(span, networks.metric(series, prefix + metric, span))
                    key = (series, at, metric, fit["smallest"], fit["largest"])
                    if key in seen:  # the wider span lost the widths that the narrower one leaves out
                        continue
                    seen.add(key)
                    rows.append({**series._asdict(), "at": at, "metric": metric} | fit)
                    if fit["exponent"] is not None and at == decisive(series):
                        rows += _fit_lazy(networks, series, metric, fit["used"], analytic)
    if len(known) >= 3:
        movement = np.array([[each["relative_movement"] for each in known.values()]])
        where = {"loss": "cross_entropy", "limit": "fixed", "at": "published", "metric": "relative_movement"}
        rows.append(where | fit_power(tuple(known), movement))
    return rows


def _fit_lazy(
    networks: NetworkTable, series: WidthSeries, metric: str, widths: Sequence[int],
    analytic: Sequence[Mapping[str, Any]],
) -> Rows:  # fmt: skip
    """Fit what the movement of lazy networks would be at a fit's own widths and time or loss; nothing for others.

    Gradient flow with the analytic kernel, on the squared loss for the time trained, on the cross-entropy down to the
    matched loss. Relative movement is divided by the networks' initial norms.
    """
    if metric not in LINES or series.limit == "mup":
        return []
    column = "lazy_movement" if series.loss == "mse" else "lazy_matched_cross_entropy"
    own = by_width(analytic, series.limit, column)
    lazy = np.array([[own.get(width, np.nan) for width in widths]])
    if not (lazy > 0).all():  # zero: a loss that a lazy network begins with
        return []
    if metric == "relative_movement":
        lazy = lazy / np.nanmean(networks.metric(series, "norm_initial", widths), 0)
    return [{**series._asdict(), "at": "lazy", "metric": metric} | fit_power(widths, lazy)]


def fit_power(widths: Sequence[int], measured: np.ndarray) -> dict[str, Any]:
    """Fit numbers (seed, width) like a power of the width, over the widths that no seed lost; the others are counted.

    A seed that has nothing at all (it diverged everywhere) takes part in neither.
    """
    measured = np.where(measured > 0, measured, np.nan)
    kept = ~np.isnan(measured[~np.isnan(measured).all(1)]).any(0)
    used = np.array(widths)[kept]
    row: dict[str, Any] = {"smallest": None, "largest": None, "num_widths": int(kept.sum())}
    row |= {"num_widths_lost": int((~kept).sum()), "num_seeds": 0, "num_seeds_lost": len(measured)}
    row |= dict.fromkeys(("exponent", "low", "high", "prefactor", "r2", "method"))
    if len(used) < 3 or np.isnan(measured).all():
        return row | {"per_seed": np.array([])}
    fit = stats.power_law_fit(used, measured[:, kept])
    row |= {
        "used": used.tolist(),
        "smallest": int(used[0]),
        "largest": int(used[-1]),
        "num_seeds": fit.n,
        "num_seeds_lost": fit.num_nan,
    }
    return row | fit._asdict() | {"per_seed": fit.per_seed}


def exponent_rows(fits: Rows) -> Rows:
    """Make exponents.csv of `fit_exponents`."""
    kept = [{key: value for key, value in row.items() if key not in ("n", "num_nan", "used")} for row in fits]
    return [row | {"per_seed": " ".join(repr(float(each)) for each in row["per_seed"])} for row in kept]
