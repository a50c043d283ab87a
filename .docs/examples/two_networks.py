"""Two networks of your own on your own arrays: curvature, kernels and tickets of ten seeds, for a paper."""

from pathlib import Path

from flax import linen as nn
from sklearn.datasets import load_digits

from ntkgen import data, ensemble, measure, plotting, pruning, records, report, stats, train


class ResNet(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(8, (3, 3))(x)
        for _ in range(2):
            x += nn.Conv(8, (3, 3))(nn.relu(nn.BatchNorm(not train, momentum=0.9)(x)))
        return nn.Dense(10)(nn.relu(nn.BatchNorm(not train, momentum=0.9)(x)).mean((1, 2)))


class Transformer(nn.Module):
    @nn.compact
    def __call__(self, x):  # each row of pixels is a token
        x = nn.Dense(16)(x[..., 0]) + self.param("position", nn.initializers.normal(0.1), (8, 16))
        x += nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x))
        x += nn.Dense(16)(nn.gelu(nn.Dense(32)(nn.LayerNorm()(x))))
        return nn.Dense(10)(nn.LayerNorm()(x).mean(1))


def summary(values):
    return values.mean(), *stats.interval(values, "t")[:2]  # mean, and the ends of its 95 % interval


records.compilation_cache()  # programs are kept: a second run starts at once
x, y = load_digits().images[..., None], load_digits().target  # any arrays: images (n, 8, 8, 1), classes (n,)
dataset = data.from_arrays(x[:1200], y[:1200], x[1200:], y[1200:])
seeds, config, keep, rows, curves = 10, train.Config(20, 60, 0.05), (1.0, 0.5, 0.2, 0.1), [], {}
for name, model in {"ResNet": ResNet(), "transformer": Transformer()}.items():
    dense = ensemble.fit(model, dataset, config, seeds)
    trained = measure.Trained.of(model, dense, config, seeds)
    found = measure.take_all(trained, dataset, ["fit", "sharpness", "kernel"])  # the kernel before and after
    rows.append({"network": name})
    for metric in ("test_acc", "eigenvalue", "kernel_drift", "kernel_alignment"):
        rows[-1] |= zip([metric + end for end in ("_mean", "_low", "_high")], summary(found[metric]), strict=True)

    def fit(level, start_epoch, *, model=model, dense=dense, **ticket):
        return ensemble.fit(model, dataset, config, seeds, **ticket) if level else dense

    tickets = pruning.iterative_pruning(pruning.rewinding(fit), dense.initial, keep)
    each = [measure.take_all(trained._replace(variables=ticket.variables), dataset, ["fit"]) for ticket in tickets]
    ends = zip(*(summary(found["test_acc"]) for found in each), strict=True)
    curves[name] = plotting.Curve([100 * fraction for fraction in keep], *ends)
Path("networks.tex").write_text(report.booktabs(rows, "Two networks on digits, ten seeds each."))
plotting.save(plotting.panels({"test accuracy (%)": curves}, "weights kept (%)", "", width="column"), "tickets.pdf")
