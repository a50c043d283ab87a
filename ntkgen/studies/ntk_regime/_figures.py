"""Figures of the tangent-kernel study, from its tables."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ntkgen import plotting
from ntkgen.studies.base import Derived, Prepared, Rows, Tables
from ntkgen.studies.curves import called, curve
from ntkgen.studies.ntk_regime._config import LIMITS, LOSSES, Config, WidthSeries
from ntkgen.studies.ntk_regime._kernels import SEEDS_UP_TO
from ntkgen.studies.ntk_regime._report import Findings, images_words
from ntkgen.studies.ntk_regime._tables import LINES, NetworkTable, by_width, decisive, layer_names, series_of
from ntkgen.studies.tables import diverged, number

PLOTTED = {
    "relative movement": "relative_movement",
    "absolute movement": "absolute_movement",
    "initial norm": "norm_initial",
    "kernel drift": "drift",
    "1 - centred alignment": "misalignment",
}
TRAINED = {"network": "test_acc", "linearised network": "linear_test_acc"}
KERNELS = {
    "network, these images": "kernel_acc_network",
    "initial kernel": "kernel_acc_initial",
    "final kernel": "kernel_acc_final",
}
KERNEL_NAMES = {"initial": "initial kernel", "final": "final kernel", "infinite": "infinite-width kernel"}
LIMIT_NAMES = {"fixed": "standard,\nfixed rate", "over_width": "standard,\nrate / width", "ntk": "NTK", "mup": "muP"}
ASYMPTOTES = {
    "constant movement": "width$^{-1/2}$: constant movement / norm",
    "lazy": "width$^{-1}$: lazy limit (squared loss)",
}


def figures(prepared: Prepared, found: Tables, derived: Derived) -> Iterator[tuple[str, Any]]:
    """Draw movement and drift, accuracies, and with the extras the exponents of all limits."""
    config, images, count = prepared.config, images_words(prepared), len(prepared.more.kernel_images.y)
    findings, tuned = Findings.of(prepared, found), derived.tables["tuned_summary"]
    yield from figures_of(config, images, count, findings, found["analytic"], tuned)


def figures_of(
    config: Config,
    images: str,
    kernel_test: int,
    found: Findings,
    analytic: Sequence[Mapping[str, Any]],
    tuned: Rows,
) -> Iterator[tuple[str, Any]]:
    """Draw the figures of some findings.

    Args:
      config: the settings.
      images: what was trained on, in words.
      kernel_test: number of test images on which kernels predict.
      found: what was found.
      analytic: rows of analytic.csv.
      tuned: rows of tuned_summary.csv; none without tuning.
    """
    main, networks = config.main, found.networks
    title = f"{config.network_name} on {called(config.dataset)}, {images}, rate {config.lr:g}, "
    title += f"{main.loss.replace('_', '-')}, {len(networks.axes(main)[0])} seeds, 95% t-intervals"
    title += diverged([row for row in networks.rows if series_of(row) == main], lambda row: f"width {row['width']}")
    yield "movement", movement_figure(main, found, title)
    yield "layers", layers_figure(main, networks, title)
    tested = f"{kernel_test:,} test images"
    if max(config.kernel_widths, default=0) > SEEDS_UP_TO:
        tested += f"\n(one seed beyond width {SEEDS_UP_TO})"
    yield "accuracy", accuracy_figure(main, found, analytic, tuned, tested, title)
    if config.extras:
        exponents = exponents_figure(
            found, max(config.extra_widths), f"{config.network_name} on {called(config.dataset)}, {images}", main
        )
        if exponents is not None:
            yield "exponents", exponents


def movement_figure(main: WidthSeries, found: Findings, title: str) -> Any:
    """Draw movement, norm, drift and alignment against the width."""
    _, widths = found.networks.axes(main)
    curves = {name: curve(widths, found.networks.metric(main, metric).T) for name, metric in PLOTTED.items()}
    lines = {}
    for name, metric in PLOTTED.items():
        own = [f for f in found.fits if series_of(f) == main and f["metric"] == metric and f["at"] == "end"]
        if own and own[0]["exponent"] is not None:  # the first is over all widths
            x = [float(own[0][end]) for end in ("smallest", "largest")]
            y = [own[0]["prefactor"] * each ** own[0]["exponent"] for each in x]
            words = f"width$^{{{own[0]['exponent']:.2f}}}$ [{own[0]['low']:.2f}, {own[0]['high']:.2f}]"
            words += f", r² {own[0]['r2']:.2f}"
            lines[name] = plotting.ntk_regime.Line(x, y, words)
    relative = curves["relative movement"]
    nulls = []
    if main.limit in ("fixed", "over_width") and np.isfinite(relative.mean[0]):
        for line, exponent in LINES["relative_movement"].items():
            y = [relative.mean[0] * (w / widths[0]) ** exponent for w in widths]
            nulls.append(plotting.ntk_regime.Line(widths, y, ASYMPTOTES[line]))
    points = (list(found.known), [row["relative_movement"] for row in found.known.values()])
    left = {name: curves[name] for name in list(PLOTTED)[:3]}
    right = {name: curves[name] for name in list(PLOTTED)[3:]}
    return plotting.ntk_regime.regime(left, right, lines, nulls, points, title)


def layers_figure(main: WidthSeries, networks: NetworkTable, title: str) -> Any:
    """Draw each layer's movement against the width."""
    _, widths = networks.axes(main)
    absolute, relative = {}, {}
    for layer in layer_names(networks.rows):
        moved, norm = (networks.metric(main, f"{name}_{layer}") for name in ("movement", "norm"))
        number_of = layer.removeprefix("dense")
        label = f"layer {int(number_of) + 1}" if number_of.isdigit() else layer
        absolute[label] = curve(widths, moved.T)
        relative[label] = curve(widths, (moved / norm).T)
    return plotting.ntk_regime.layers(absolute, relative, title)


def accuracy_figure(
    main: WidthSeries,
    found: Findings,
    analytic: Sequence[Mapping[str, Any]],
    tuned: Rows,
    tested: str,
    title: str,
) -> Any:
    """Draw accuracies of networks and kernels against the width."""
    networks = found.networks
    seeds, widths = networks.axes(main)
    trained, kernels = (
        {name: curve(widths, networks.metric(main, metric).T) for name, metric in metrics.items()
         if np.isfinite(networks.metric(main, metric)).any()}
        for metrics in (TRAINED, KERNELS)
    )  # fmt: skip
    infinite = by_width(analytic, main.limit, "kernel_acc_infinite")
    if np.isfinite(list(infinite.values())).any():
        y = [infinite.get(width, np.nan) for width in widths]
        kernels["infinite-width kernel"] = plotting.Curve(widths, y, y, y)
    points = (list(found.known), [row["test_acc"] for row in found.known.values()])
    linear = int(np.isfinite(networks.metric(main, TRAINED["linearised network"])).any(1).sum())
    fewer = f"\n(linearised: {linear} seeds)" if 0 < linear < len(seeds) else ""
    panels = {f"trained, all test images{fewer}": trained, f"kernel regression, {tested}": kernels}
    if tuned:
        metrics = {"network, tuned rate": "test_acc", "network, given rate": "given_rate_test_acc"}
        metrics |= {name: f"kernel_acc_{kind}" for kind, name in KERNEL_NAMES.items()}
        panels["rate and ridge tuned on held-out\ntraining images; all test images"] = {
            name: _summary_curve(tuned, metric) for name, metric in metrics.items()
            if any(row[f"{metric}_mean"] is not None for row in tuned)
        }  # fmt: skip
    return plotting.ntk_regime.accuracy({name: curves for name, curves in panels.items() if curves}, points, title)


def _summary_curve(rows: Rows, metric: str) -> plotting.Curve:
    """Return a curve of the width from a summary; NaN where nothing was measured."""
    ends = ([number(row[f"{metric}_{end}"]) for row in rows] for end in ("mean", "t_low", "t_high"))
    return plotting.Curve([int(row["width"]) for row in rows], *ends)


def exponents_figure(found: Findings, largest: int, about: str, main: WidthSeries) -> Any:
    """Draw the exponents of all limits, of fits up to a largest width; None where there are none."""
    networks = found.networks
    seeds, extra_seeds = (len(networks.axes(series)[0]) for series in (main, networks.series[-1]))
    counted = f"{extra_seeds} seeds"
    if seeds != extra_seeds:
        limit = LIMIT_NAMES[main.limit].replace("\n", " ")
        counted += f" ({seeds} of {main.loss.replace('_', '-')}, {limit})"
    title = f"{about}, 95% t-intervals over {counted}"
    title += diverged(networks.rows, lambda row: f"{row['loss']} {row['limit']}")
    panels: dict[str, list[plotting.ntk_regime.Dot]] = {}
    fits = [fit for fit in found.fits if fit["exponent"] is not None and fit["largest"] <= largest]
    for name in ("relative movement", "absolute movement", "kernel drift", "1 - centred alignment"):
        for series in (WidthSeries(loss, limit) for limit in LIMITS for loss in LOSSES):
            wanted = series, decisive(series), PLOTTED[name]
            own = [fit for fit in fits if (series_of(fit), fit["at"], fit["metric"]) == wanted]
            if own:
                row = own[-1]
                ends = f"{row['smallest']}-{row['largest']}"
                dot = plotting.ntk_regime.Dot(
                    LIMIT_NAMES[series.limit], series.loss, row["exponent"], row["low"], row["high"], ends,
                    _no_power_law(row, networks),
                )  # fmt: skip
                panels.setdefault(name, []).append(dot)
    if not panels:
        return None
    lines = {
        metric.replace("_", " "): {f"{line} (standard, asymptotic)": value for line, value in own.items()}
        for metric, own in LINES.items()
    }
    expected: dict[str, dict[tuple[str, str], float]] = {}
    for fit in fits:
        if fit["at"] == "lazy":
            place = LIMIT_NAMES[fit["limit"]], fit["loss"]
            expected.setdefault(fit["metric"].replace("_", " "), {})[place] = fit["exponent"]
    return plotting.ntk_regime.exponents(panels, lines, expected, title)


def _no_power_law(fit: dict[str, Any], networks: NetworkTable) -> bool:
    """Return whether a power of the width explains less than half, of what is more than a scatter of ten percent."""
    _, widths = networks.axes(series_of(fit))
    used = np.log([width for width in widths if fit["smallest"] <= width <= fit["largest"]])
    scatter = abs(fit["exponent"]) * np.std(used) * np.sqrt(1 / max(fit["r2"], 1e-9) - 1)
    return bool(fit["r2"] < 0.5 and scatter > 0.1)
