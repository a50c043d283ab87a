"""The tangent-kernel study's tables as figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ntk_regime_measure import KERNEL_SEEDS_UP_TO, LIMITS, LOSSES, Arm
from ntk_regime_tables import LINES, Runs

from ntkgen import plotting
from ntkgen.studies.tables import curve, diverged, number

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


def draw(
    folder: Path,
    prefix: str,
    config: dict[str, Any],
    images: str,
    main: Arm,
    runs: Runs,
    fits: Sequence[dict[str, Any]],
    analytic: Sequence[dict[str, Any]],
    known: dict[int, Any],
    fair: Sequence[dict[str, Any]] = (),
) -> list[Path]:
    """Draw movement and drift, accuracies, and with the extras the exponents of all limits.

    `images` says what was trained on, `fair` is the summary of the comparison after tuning.
    """
    about = f"MLP on {config['dataset']}, {images}, rate {config['lr']:g}"
    main_title = f"{about}, {main.loss.replace('_', '-')}, {len(runs.axis(main)[0])} seeds, 95% t-intervals"
    own = [row for row in runs.rows if (row["loss"], row["limit"]) == tuple(main)]
    main_title += diverged(own, lambda row: f"width {row['width']}")
    paths = []
    figures = {"movement": _movement(main, runs, fits, known, main_title)}
    figures["layers"] = _layers(main, runs, config["depth"], main_title)
    tested = f"{config['kernel_test']:,} test images"
    if max(config["kernel_widths"], default=0) > KERNEL_SEEDS_UP_TO:
        tested += f"\n(one seed beyond width {KERNEL_SEEDS_UP_TO})"
    figures["accuracy"] = _accuracy(main, runs, analytic, known, tested, fair, main_title)
    if config["extras"]:
        seeds = {name: len(runs.axis(arm)[0]) for name, arm in (("main", main), ("extras", runs.arms[-1]))}
        counted = f"{seeds['extras']} seeds"
        if seeds["main"] != seeds["extras"]:
            counted += f" ({seeds['main']} of {main.loss.replace('_', '-')}, {LIMIT_NAMES[main.limit]})".replace(
                "\n", " "
            )
        extra_title = f"MLP on {config['dataset']}, {images}, 95% t-intervals over {counted}"
        extra_title += diverged(runs.rows, lambda row: f"{row['loss']} {row['limit']}")
        figures["exponents"] = _exponents(fits, runs, config, extra_title)
    for name, figure in figures.items():
        if figure is not None:
            paths.append(plotting.save(figure, folder / f"{prefix}{name}.png"))
    return paths


def _movement(main: Arm, runs: Runs, fits: Sequence[dict[str, Any]], known: dict[int, Any], title: str) -> Any:
    _, widths = runs.axis(main)
    curves = {name: curve(widths, runs.values(main, metric).T) for name, metric in PLOTTED.items()}
    lines = {}
    for name, metric in PLOTTED.items():
        own = [f for f in fits if Arm(f["loss"], f["limit"]) == main and f["metric"] == metric and f["at"] == "end"]
        if own and own[0]["exponent"] is not None:  # the first is over all widths
            x = np.array([own[0]["smallest"], own[0]["largest"]], float)
            ends = f"width^{own[0]['exponent']:.2f} [{own[0]['low']:.2f}, {own[0]['high']:.2f}]"
            ends += f", r² {own[0]['r2']:.2f}"
            lines[name] = plotting.ntk_regime.Line(x, own[0]["prefactor"] * x ** own[0]["exponent"], ends)
    relative = curves["relative movement"]
    nulls = []
    if main.limit in ("fixed", "over_width") and np.isfinite(relative.mean[0]):
        words = {
            "constant movement": "width^-1/2: constant movement / norm",
            "lazy": "width^-1: lazy limit (squared loss)",
        }
        for line, value in LINES["relative_movement"].items():
            y = [relative.mean[0] * (w / widths[0]) ** value for w in widths]
            nulls.append(plotting.ntk_regime.Line(widths, y, words[line]))
    points = (list(known), [row["relative_movement"] for row in known.values()])
    left = {name: curves[name] for name in list(PLOTTED)[:3]}
    right = {name: curves[name] for name in list(PLOTTED)[3:]}
    return plotting.ntk_regime.regime(left, right, lines, nulls, points, title)


def _layers(main: Arm, runs: Runs, depth: int, title: str) -> Any:
    _, widths = runs.axis(main)
    moved = {f"layer {i + 1}": runs.values(main, f"movement_dense{i}") for i in range(depth)}
    norms = [runs.values(main, f"norm_dense{i}") for i in range(depth)]
    absolute = {name: curve(widths, values.T) for name, values in moved.items()}
    relative = {
        name: curve(widths, (values / norm).T) for (name, values), norm in zip(moved.items(), norms, strict=True)
    }
    return plotting.ntk_regime.layers(absolute, relative, title)


def _accuracy(
    main: Arm,
    runs: Runs,
    analytic: Sequence[dict[str, Any]],
    known: dict[int, Any],
    tested: str,
    fair: Sequence[dict[str, Any]],
    title: str,
) -> Any:
    _, widths = runs.axis(main)
    trained, kernels = (
        {name: curve(widths, runs.values(main, metric).T) for name, metric in metrics.items()
         if np.isfinite(runs.values(main, metric)).any()}
        for metrics in (TRAINED, KERNELS)
    )  # fmt: skip
    infinite = {int(row["width"]): number(row["kernel_acc_infinite"]) for row in analytic if row["limit"] == main.limit}
    if np.isfinite(list(infinite.values())).any():
        y = [infinite.get(width, np.nan) for width in widths]
        kernels["infinite-width kernel"] = plotting.Curve(widths, y, y, y)
    points = (list(known), [row["test_acc"] for row in known.values()])
    own = [len(runs.axis(main)[0]), int(np.isfinite(runs.values(main, TRAINED["linearised network"])).any(1).sum())]
    fewer = f"\n(linearised: {own[1]} seeds)" if 0 < own[1] < own[0] else ""
    panels = {f"trained, all test images{fewer}": trained, f"kernel regression, {tested}": kernels}
    if fair:
        metrics = {"network, tuned rate": "test_acc", "network, given rate": "given_rate_test_acc"}
        metrics |= {name: f"kernel_acc_{kind}" for kind, name in KERNEL_NAMES.items()}
        panels["rate and ridge tuned on held-out\ntraining images; all test images"] = {
            name: _summarised(fair, metric) for name, metric in metrics.items()
            if any(row[f"{metric}_mean"] is not None for row in fair)
        }  # fmt: skip
    return plotting.ntk_regime.accuracy({name: curves for name, curves in panels.items() if curves}, points, title)


def _summarised(rows: Sequence[dict[str, Any]], metric: str) -> plotting.Curve:
    """Take a curve of the width from a summary; NaN where nothing was measured."""
    ends = ([number(row[f"{metric}_{end}"]) for row in rows] for end in ("mean", "t_low", "t_high"))
    return plotting.Curve([int(row["width"]) for row in rows], *ends)


def _no_power_law(fit: dict[str, Any], runs: Runs) -> bool:
    """Say whether a power of the width explains less than half, of what is more than a scatter of ten percent."""
    _, widths = runs.axis(Arm(fit["loss"], fit["limit"]))
    used = np.log([width for width in widths if fit["smallest"] <= width <= fit["largest"]])
    scatter = abs(fit["exponent"]) * np.std(used) * np.sqrt(1 / max(fit["r2"], 1e-9) - 1)
    return bool(fit["r2"] < 0.5 and scatter > 0.1)


def _exponents(fits: Sequence[dict[str, Any]], runs: Runs, config: dict[str, Any], title: str) -> Any:
    panels: dict[str, list[plotting.ntk_regime.Dot]] = {}
    largest = max(config["extra_widths"])
    for name in ("relative movement", "absolute movement", "kernel drift", "1 - centred alignment"):
        for limit in LIMITS:
            for loss in LOSSES:
                at = "end" if loss == "mse" else "matched loss"
                wanted = (loss, limit, at, PLOTTED[name])
                own = [fit for fit in fits if tuple(fit[key] for key in ("loss", "limit", "at", "metric")) == wanted
                       and fit["exponent"] is not None and fit["largest"] <= largest]  # fmt: skip
                if own:
                    row = own[-1]
                    ends = f"{row['smallest']}-{row['largest']}"
                    value = row["exponent"], row["low"], row["high"]
                    dot = plotting.ntk_regime.Dot(LIMIT_NAMES[limit], loss, *value, ends, _no_power_law(row, runs))
                    panels.setdefault(name, []).append(dot)
    if not panels:
        return None
    lines = {
        metric.replace("_", " "): {f"{line} (standard, asymptotic)": value for line, value in own.items()}
        for metric, own in LINES.items()
    }
    expected: dict[str, dict[tuple[str, str], float]] = {}
    for fit in fits:
        if fit["at"] == "lazy" and fit["largest"] <= largest:
            arm = (LIMIT_NAMES[fit["limit"]], fit["loss"])
            expected.setdefault(fit["metric"].replace("_", " "), {})[arm] = fit["exponent"]
    return plotting.ntk_regime.exponents(panels, lines, expected, title)
