"""How fast is everything? One command runs all benchmarks and writes the page of figures.

    python experiments/benchmarks/run.py                              # figures/speed.md, about 20 minutes on two cores
    python experiments/benchmarks/run.py --only=ntk,growth            # the other sections stay as they are
    python experiments/benchmarks/run.py --quick  # tiny cases, to see that all works

Every benchmark is a process of its own and leaves its rows in a table beside the page (`speed_training.csv` ...).
Machine, versions, commit and date of each are in `speed_runs.csv`. The page is made from these tables alone, and
--only=none just does that. The section on GPUs comes from `seed_axis_h200.csv`, beside the page or in `figures/`.
Libraries to compare with that are not installed are listed as such. neural-tangents needs an environment of its own:
--build_peers makes it, --nt_python names one. Images are MNIST and CIFAR-10 where they are at hand ($NTKGEN_DATA_DIR),
else random.
"""

import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import growth_laws
import nt_environment
import speed_page
import timing
from absl import flags

from ntkgen import cli, io, memory, records
from ntkgen.studies import options

FLAGS = flags.FLAGS
HERE = Path(__file__).resolve().parent
PAGES = ("figures/speed.md", "speed_quick.md")  # by whether the run is a quick one
GPU_TABLE = "seed_axis_h200.csv"
PEERS = {"pytorch": "torch", "pyhessian": "pyhessian", "hessian-eigenthings": "hessian-eigenthings"}

Row = dict[str, Any]


class Part(NamedTuple):
    """One process of a benchmark: what it times in words, its flags, and its minutes on two cores."""

    section: str
    words: str
    flags: tuple[str, ...]
    minutes: float


# Repeats are such that all parts together take about 20 minutes on two cores. A CNN's seeds go one after another in
# both libraries, so that two seeds of the largest tell as much as five.
FULL = (
    Part("training", "small MLPs", ("--cases=mlp16,mlp64,mlp256", "--masked=mlp64,mlp256", "--repeats=5"), 1.4),
    Part("training", "MLP 1024", ("--cases=mlp1024", "--masked=none", "--strategies=sequential", "--repeats=3"), 1.4),
    Part("training", "CNN 8 and 16",
         ("--cases=cnn8,cnn16", "--masked=none", "--strategies=sequential", "--repeats=3"), 2.5),
    Part("training", "CNN 32",
         ("--cases=cnn32", "--masked=none", "--strategies=sequential", "--num_seeds=2", "--repeats=3"), 1.5),
    Part("curvature", "MLP 256", ("--cases=mlp256", "--repeats=7", "--solves=3"), 1.0),
    Part("curvature", "CNN 16", ("--cases=cnn16", "--samples=64", "--repeats=5", "--solves=2", "--max_iters=300"), 2.5),
    Part("ntk", "against others", ("--cases=mlp256n200,cnn16n200", "--repeats=3", "--limit=20"), 2.1),
    Part("ntk", "against neural-tangents",
         ("--cases=mlp64n1000,mlp256n1000,mlp1024n1000", "--against=neural-tangents", "--repeats=3"), 1.5),
    Part("ntk", "ours alone",
         ("--cases=mlp1024n200,mlp4096n1000,mlp1024n5000trace", "--against=none", "--repeats=3"), 1.5),
    Part("growth", "seeds, width, samples", ("--repeats=5", "--limit=20"), 5.4),
)  # fmt: skip
SMALL = (
    Part("training", "MLP 4", ("--cases=mlp4", "--masked=mlp4", "--num_seeds=2", "--repeats=2"), 0.3),
    Part("curvature", "MLP 4", ("--cases=mlp4", "--samples=20", "--pairs=2", "--repeats=2", "--solves=1",
                                "--max_iters=20"), 0.5),
    Part("ntk", "kernels", ("--cases=mlp8n6,mlp8n9trace", "--repeats=2"), 0.3),
    Part("growth", "seeds, width, samples",
         ("--seeds=1,2,4", "--widths=4,8,16", "--samples=4,8,16", "--repeats=2"), 1.2),
)  # fmt: skip


def command(part: Part, out: Path, peers: Row, repeats: int | None) -> list[str]:
    """Return the command of a part; where PyTorch is not installed, without it."""
    words = [sys.executable, str(HERE / f"{part.section}.py"), *part.flags, f"--out={out}"]
    if peers["pytorch"] == speed_page.ABSENT:
        if part.section in ("training", "curvature"):
            words.append("--notorch")
        elif part.section == "ntk" and not any(flag.startswith("--against=") for flag in part.flags):
            words.append(f"--against=jacobian,{nt_environment.WAY}")
    return words if repeats is None else [*words, f"--repeats={repeats}"]


def machine(peer: nt_environment.Peer | None) -> Row:
    """Return date and commit, CPU, cores, memory and accelerator of this machine, and versions."""
    import jax

    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line.partition(":")[2] for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = models[0].strip() if models else cpu
    device = jax.local_devices()[0]
    versions = records.versions()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    commit = records.commit() or ""  # before any table is written: with those the checkout differs
    found: Row = {"date": datetime.date.today().isoformat(), "commit": commit[:12] + commit[40:], "cpu": cpu}
    found |= {
        "cores": cores,
        "memory_gib": memory.total() / 2**30,
        "device": "" if device.platform == "cpu" else device.device_kind,
    }
    found |= {name: versions[name] for name in ("python", "jax", "numpy")}
    return found | installed(peer)


def installed(peer: nt_environment.Peer | None) -> Row:
    """Return the versions of the libraries to compare with; that of neural-tangents is from its own environment."""
    found = {nt_environment.WAY: speed_page.ABSENT if peer is None else peer.version}
    for name, package in PEERS.items():
        try:
            found[name] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[name] = speed_page.ABSENT
    return found


def measure(section: str, parts: Sequence[Part], peers: Row, progress: "Progress") -> list[Row]:
    """Return the rows of one benchmark, all its parts; what it prints goes through."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for part in parts:
            progress.say(part)
            out = Path(folder) / "rows.csv"
            done = subprocess.run(command(part, out, peers, FLAGS.repeats), stdin=subprocess.DEVNULL)
            if done.returncode:
                cli.fail(f"{section}: its process ended with exit code {done.returncode}; see the line above", 1)
            rows += records.read_table(out)
    return rows


class Progress:
    """Says before each part what comes, and how many minutes are left."""

    def __init__(self, parts: Sequence[Part]) -> None:
        """Say how long all parts take."""
        self.parts, self.begun = list(parts), time.perf_counter()
        minutes = sum(part.minutes for part in parts)
        print(f"{len(parts)} parts, about {minutes:.0f} minutes on two quiet cores", flush=True)

    def say(self, part: Part) -> None:
        """Print the line of a part."""
        index = self.parts.index(part)
        left = sum(own.minutes for own in self.parts[index:])
        spent = (time.perf_counter() - self.begun) / 60
        print(f"\n[{index + 1}/{len(self.parts)}] {part.section}, {part.words}: about {part.minutes:.1f} min; "
              f"{spent:.1f} min so far, about {left:.0f} to go", flush=True)  # fmt: skip


def beside(out: Path, name: str) -> Path:
    """Return the table of that name beside the page."""
    return out.with_name(f"{out.stem}_{name}.csv")


def write(out: Path) -> None:
    """Write page and figures from the tables beside the page."""
    tables = {name: records.read_table(path) for name in speed_page.SECTIONS if (path := beside(out, name)).exists()}
    for axis in growth_laws.AXES:
        if growth_laws.curves(tables.get("growth", []), axis):
            growth_laws.draw(tables["growth"], axis, out.with_name(f"{out.stem}_growth_{axis}.png"))
    gpu = next(
        (path for path in (out.with_name(GPU_TABLE), HERE.parents[1] / "figures" / GPU_TABLE) if path.exists()), None
    )
    about = records.read_table(beside(out, "runs"))
    io.atomic_write(out, speed_page.page(tables, about, records.read_table(gpu) if gpu else [], out.stem).encode())


def main() -> None:
    """Run the benchmarks."""
    out = Path(PAGES[FLAGS.quick] if FLAGS.out is None else FLAGS.out)
    with cli.user_errors(FLAGS):
        timing.check_out(str(out) if FLAGS.out is None else FLAGS.out)
        if out.suffix != ".md":
            raise ValueError(f"out: expected a name that ends in .md, got {FLAGS.out!r}")
        for name in (*FLAGS.only, "runs"):
            timing.check_out(str(beside(out, name)))
        if not FLAGS.only and not beside(out, "runs").exists():
            raise ValueError(
                f"only: expected some of {', '.join(speed_page.SECTIONS)}: there is no {beside(out, 'runs')}"
            )
        peer = nt_environment.find(FLAGS.nt_python, FLAGS.build_peers) if FLAGS.only else None
    if peer is not None:
        os.environ[nt_environment.VARIABLE] = peer.python  # for the processes that are started
    # This process and those that it starts share an accelerator.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if FLAGS.only:
        run(out, peer)
    else:
        write(out)
    print(f"\n{out}; README quotes its first table:\n")
    print(out.read_text().partition("## In short\n\n")[2].partition("\n\n")[0])


def run(out: Path, peer: nt_environment.Peer | None) -> None:
    """Run the benchmarks of --only, and write tables, figures and page after each: a later failure loses nothing."""
    parts = [part for part in (SMALL if FLAGS.quick else FULL) if part.section in FLAGS.only]
    about = machine(peer)
    print(f"{about['cpu']}, {about['cores']} cores, {about['device'] or 'no accelerator'}, jax {about['jax']}")
    progress = Progress(parts)
    for section in FLAGS.only:
        begun = time.perf_counter()
        rows = measure(section, [part for part in parts if part.section == section], about, progress)
        records.write_table(beside(out, section), rows)
        minutes = round((time.perf_counter() - begun) / 60, 1)
        others = records.read_table(beside(out, "runs")) if beside(out, "runs").exists() else []
        runs: dict[str, Row] = {other["section"]: dict(other) for other in others}
        runs[section] = {"section": section, "quick": int(FLAGS.quick), "minutes": minutes, **about}
        records.write_table(beside(out, "runs"), [runs[name] for name in speed_page.SECTIONS if name in runs])
        write(out)


def define_flags() -> None:
    """Define the flags; other benchmarks have some of the same names, and tests import them all."""
    cli.define_flag("only", options.Choices(speed_page.SECTIONS), speed_page.SECTIONS, "Benchmarks to run.")
    cli.define_flag("quick", options.SWITCH, False, "Tiny cases, which show that everything works.")
    cli.define_flag("repeats", options.COUNT, None, "Turns of each. Default: what each benchmark can afford.")
    words = f"The page; its tables and figures go beside it. Default: {PAGES[0]}, with --quick {PAGES[1]}."
    flags.DEFINE_string("out", None, words)
    nt_environment.define_flags()


if __name__ == "__main__":
    define_flags()
    cli.script(main)
