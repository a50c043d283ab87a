"""The parts of the tangent-kernel study: what is trained, in which order, and what becomes of each."""

import functools
from typing import Any

from ntk_regime_measure import (
    KERNEL_SEEDS_UP_TO,
    LIMITS,
    LOSSES,
    WIDE,
    Arm,
    Part,
    accuracy,
    analytic,
    draw_test,
    final,
    fit,
    flow_time,
    follow,
    kernel_regressions,
    named,
    ntk_speed,
    parametrization,
    rate,
    rows_of,
    snapshots,
    test_bits,
)
from ntk_regime_tables import ARM, matched
from ntk_regime_tuning import hold_out

from ntkgen import data, ensemble, models, records, train
from ntkgen.linearize import Linearized
from ntkgen.records import Progress
from ntkgen.studies import tables

KERNEL_SNAPSHOTS = 8


class Study:
    """What all parts share: data, networks, rates. Everything that can be wrong is found when it is made."""

    def __init__(self, config: dict[str, Any], limit: str, data_dir: str | None) -> None:
        """Load the data, complete the configuration, check that every network can be trained."""
        self.config = config
        self.main = Arm(config["loss"], limit)
        self.dataset = data.load(
            config["dataset"],
            data_dir=data_dir,
            num_train=config["num_train"],
            label_noise=config["label_noise"],
            seed=config["data_seed"],
            subset=config["subset"],
        )
        config["num_train"], config["data_digest"] = self.dataset.num_train, self.dataset.digest
        for name in ("probe_images", "kernel_test"):
            config[name] = min(config[name], self.dataset.test.y.shape[0])
        counts = config["probe_images"], config["kernel_test"]
        self.probes, self.tests = (draw_test(self.dataset, n, config["data_seed"], i) for i, n in enumerate(counts))
        config["ntk_speed"] = ntk_speed(self.probes.x, config["depth"])
        self.seeds = list(range(config["seed"], config["seed"] + config["num_seeds"]))
        self.shape = self.dataset.train.x.shape[1:]
        config["momentum"] = self.training(self.main, config["widths"][0]).momentum
        self.parts = self._parts()
        for part in self.parts:
            model = self.network(part.arm.limit, part.width)
            ensemble.check_fits(self.num_params(part.width), f"--widths: width {part.width}")
            train.Program.of(model, self.training(part.arm, part.width), self.dataset.num_train)
        if config["tuned_widths"]:
            held = hold_out(self.dataset)
            train.Program.of(model, self.training(self.main, config["widths"][0]), held.num_train)

    def num_params(self, width: int) -> int:
        """Count a network's parameters, the same in every limit."""
        return models.num_params(self.network("fixed", width), self.shape)

    def network(self, limit: str, width: int) -> models.MLP:
        """Make the network of a limit."""
        return models.MLP(width, self.config["depth"], self.dataset.num_classes, parametrization(limit))

    def training(self, arm: Arm, width: int) -> train.Config:
        """Say how an arm's networks of one width are trained."""
        config = self.config
        return train.Config(
            epochs=config["epochs"],
            batch_size=config["batch_size"],
            learning_rate=rate(config["lr"], arm.limit, width, config["ntk_speed"]),
            optimizer=config["optimizer"],
            momentum=config["momentum"],
            schedule=config["schedule"],
            loss=arm.loss,
            vary=config["vary"],
        )

    def _parts(self) -> list[Part]:
        config, found = self.config, []
        for width in config["widths"]:
            found += [Part(self.main, width, own) for own in self._groups(width)]
            if width in config["linearised_widths"]:
                found.append(Part(self.main, width, tuple(self.seeds[: config["linearised_seeds"]]), linearised=True))
        arms = [Arm(loss, limit) for loss in LOSSES for limit in LIMITS] if config["extras"] else []
        seeds = tuple(self.seeds[: config["extra_seeds"]])
        return found + [Part(arm, w, seeds) for arm in arms if arm != self.main for w in config["extra_widths"]]

    def _groups(self, width: int) -> list[tuple[int, ...]]:
        """Split the seeds into those trained together: all, or one by one where the network is wide."""
        if self.num_params(width) > WIDE:
            return [(seed,) for seed in self.seeds]
        return [tuple(self.seeds)]

    def cost(self, part: Part) -> float:
        """Weigh an epoch of a part against others'; dispatch costs what some 50,000 parameters do (CPU)."""
        return (50_000 + self.num_params(part.width)) * (3 if part.linearised else 1)


def measure(run: records.Run, study: Study) -> tuple[list[dict[str, Any]], ...]:
    """Do every part that is not done yet; returns the rows of runs.csv, drift.csv, analytic.csv and correct.csv."""
    runs: dict[tuple, dict[str, Any]] = {}
    drift: list[dict[str, Any]] = []
    linear: dict[tuple, dict[str, Any]] = {}
    right: dict[tuple[str, int], dict[int, str]] = {}
    costs, seeds = [study.cost(part) for part in study.parts], [len(part.seeds) for part in study.parts]
    with Progress(costs, seeds, study.config["epochs"]) as progress:
        for index, part in enumerate(study.parts):
            report = progress.part(index, f"{part.name}")
            found = do_part(run, study, part, report)
            for metric, seed, bits in found["right"]:
                right.setdefault((metric, part.width), {})[seed] = bits
            if part.linearised:
                linear |= {(part.arm, part.width, row["seed"]): row for row in found["runs"]}
                continue
            runs |= {(part.arm, part.width, row["seed"]): row for row in found["runs"]}
            drift += found["drift"]
    lost = {"train_acc": None, "test_acc": None}
    for key, row in runs.items():
        row |= {f"linear_{name}": linear.get(key, lost)[name] for name in lost}
        snaps = [each for each in drift if all(each[name] == row[name] for name in (*ARM, "width", "seed"))]
        row |= matched(snaps, study.config[f"target_{row['loss']}"])
    analytics, infinite = analytic_rows(run, study)
    for width, bits in infinite.items():
        right["kernel_acc_infinite", width] = dict.fromkeys(study.seeds, bits)
    correct = []
    for (metric, width), own in right.items():
        images = study.tests if metric.startswith("kernel_acc") else study.dataset.test
        bits = [own.get(seed) or "" for seed in study.seeds]
        correct += tables.packed_rows(named(metric, width), study.seeds, bits, len(images.y))
    return [tidy(row) for row in runs.values()], [tidy(row) for row in drift], analytics, correct


def tidy(row: dict[str, Any]) -> dict[str, Any]:
    """Put what names a row first."""
    first = [name for name in (*ARM, "width", "num_params", "seed", "epoch") if name in row]
    return {name: row[name] for name in (*first, *(name for name in row if name not in first))}


def do_part(run: records.Run, study: Study, part: Part, report: Any) -> dict[str, list[Any]]:
    """Train one part and measure its networks; what is there already is read.

    Returns:
      Rows of runs.csv and drift.csv as `runs` and `drift`, and as `right` (accuracy's column, seed, digits) of what the
      main arm classifies right.
    """
    config = study.config
    training = study.training(part.arm, part.width)
    snaps, kernel_snaps = snapshots(config["epochs"], KERNEL_SNAPSHOTS)
    model = study.network(part.arm.limit, part.width)

    @functools.cache
    def trained() -> Any:
        return fit(
            part,
            model,
            study.dataset,
            training,
            study.probes.x,
            snaps,
            kernel_snaps,
            strategy=config["strategy"],
            checkpoint=run.checkpointer(part.name),
            progress=report,
        )

    where = {**part.arm._asdict(), "width": part.width}

    def rows() -> dict[str, list[Any]]:
        result = trained()
        right = []
        if part.arm == study.main:
            metric, own_model = ("linear_test_acc", Linearized(model)) if part.linearised else ("test_acc", model)
            bits = test_bits(own_model, result, study.dataset)
            right = [(metric, seed, each) for seed, each in zip(part.seeds, bits, strict=True)]
        about = {"learning_rate": training.learning_rate}
        finals = [where | {"seed": seed, "diverged": int(result.diverged[s])} | about | final(result, s)
                  for s, seed in enumerate(part.seeds)]  # fmt: skip
        if part.linearised:
            return {"runs": finals, "drift": [], "right": right}
        path = follow(result, snaps, kernel_snaps, study.probes.y, study.dataset.num_classes)
        path = [where | row | {"seed": part.seeds[row["seed"]]} for row in path]
        for row in finals:
            own = [each for each in path if each["seed"] == row["seed"]]
            row["num_params"] = study.num_params(part.width)
            row |= {name: value for name, value in own[-1].items() if name not in (*row, "epoch")}
            row["label_alignment_initial"] = own[0]["label_alignment"]
        return {"runs": finals, "drift": path, "right": right}

    found = run.kept(part.name, rows)
    names = ("kernel_acc_network", "kernel_acc_initial", "kernel_acc_final")
    for s, row in enumerate(found["runs"]):
        row |= {} if part.linearised else dict.fromkeys(names)
        first_only = part.width > KERNEL_SEEDS_UP_TO and row["seed"] != study.seeds[0]
        if part.linearised or part.arm != study.main or part.width not in config["kernel_widths"] or first_only:
            continue

        def regressions(s: int = s) -> dict[str, str | None]:
            before, after = (rows_of(tree["params"])[s] for tree in (trained().initial, trained().variables))
            return kernel_regressions(model, before, after, study.dataset, study.tests, config["ridge"])

        bits = run.kept(f"kernels_{part.name}_{row['seed']}", regressions)
        row |= {name: accuracy(each, len(study.tests.y)) for name, each in bits.items()}
        found["right"] += [(name, row["seed"], each) for name, each in bits.items()]
    return found


def analytic_rows(run: records.Run, study: Study) -> tuple[list[dict[str, Any]], dict[int, str | None]]:
    """Compute what the infinite-width kernels predict: accuracy, and the movement of lazy networks.

    Returns:
      The rows of analytic.csv, and width -> which images the regression classifies right, by `tables.pack`.
    """
    config, rows = study.config, []
    right: dict[int, str | None] = {}
    names = ("flow_time", "ridge", "num_test", "kernel_acc_infinite", "lazy_movement", "lazy_train_loss")
    names += ("mean_diagonal", *(f"lazy_matched_{loss}" for loss in LOSSES))
    for name in ("standard", "ntk"):  # there is no kernel limit under muP
        limits = [limit for limit in LIMITS if parametrization(limit) == name]
        for width in sorted({*config["widths"], *config["extra_widths"]}):
            own = study.main.limit in limits and width in config["kernel_widths"]
            lazy = config["extras"] and width in config["extra_widths"]
            flows = config["optimizer"] != "adam"  # which takes another path than gradient flow
            timed = limits if lazy else [study.main.limit] if own and flows and study.main.loss == "mse" else []
            if not own and not lazy:
                continue
            times = {each: flow_time(study.training(Arm("mse", each), width), study.dataset.num_train)
                     for each in timed}  # fmt: skip
            sample = study.tests if own else None
            losses = LOSSES if lazy else [study.main.loss] if flows else []
            targets = {loss: config[f"target_{loss}"] for loss in losses}
            work = functools.partial(
                analytic, name, width, config["depth"], study.dataset, sample, config["ridge"], times, targets
            )
            found = run.kept(f"analytic_{name}_w{width}", work)
            if own:
                right[width] = found["right"]
            for limit in limits if lazy else [study.main.limit]:
                said = found["lazy"].get(limit, {"movement": None, "loss": None})
                acc = accuracy(found["right"], len(study.tests.y)) if limit == study.main.limit else None
                cells = (times.get(limit), config["ridge"], len(study.tests.y), acc)
                cells += (said["movement"], said["loss"], found["mean_diagonal"])
                cells += tuple(found["matched"].get(loss) for loss in LOSSES)
                rows.append({"limit": limit, "width": width} | dict(zip(names, cells, strict=True)))
    return rows or [dict.fromkeys(("limit", "width", *names))], right
