"""The page `figures/speed.md`, made from rows alone: of the benchmarks, of the machines, and of the tries on a GPU."""

import re
from collections.abc import Sequence
from typing import Any

import growth_laws
import targets
from targets import Row

SECTIONS = ("training", "curvature", "ntk", "growth")
ABSENT = "not installed"
HEAD = """# Speed

Written by `python experiments/benchmarks/run.py` from the tables beside this page. Seconds are medians [range] of turns
that all contenders took one after the other, so that a busy machine slows each alike. A target that is missed is bold.
BUILD_NOTES.md says what was tried there.
"""
QUICK = "\n**A quick run: cases are tiny and repeated twice. It shows that everything works; quote none of it.**\n"
GPU = {
    "one": "one seed",
    "sequential": "five, one after another (`auto`)",
    "unrolled+nhwc+concurrent": 'five, `strategy="unrolled"`',
    "vmap-grouped+bf16": "five, grouped convolutions, bfloat16 (experiment)",
}


def page(tables: dict[str, list[Row]], about: Sequence[Row], gpu: Sequence[Row], stem: str) -> str:
    """Return the page.

    Args:
      tables: rows of each benchmark that has run, by its name in `SECTIONS`.
      about: machine, versions, commit and date of each, a row with its name under "section".
      gpu: rows of `seed_axis.py`.
      stem: of the page's name; figures and tables beside it begin with it.
    """
    known = {row["section"]: row for row in about}
    parts = [HEAD + QUICK * any(int(row["quick"]) for row in about), machines(about)]
    parts.append("## In short\n\n" + in_short(tables, known))
    missed = [one for name, rows in [*tables.items(), ("seed_axis", gpu)] for one in targets.outcomes(name, rows)]
    lines = [f"* {outcome(one)}" for one in missed if one.missed]
    parts.append("Missed targets:\n\n" + "\n".join(lines) if lines else "No target is missed.")
    made = {"training": training, "curvature": curvature, "ntk": ntk}
    for name in (name for name in SECTIONS if name in tables):
        if name == "growth":
            parts.append(growth(tables[name], stem))
        else:
            parts += [made[name](tables[name], known[name]), aims(name, tables[name])]
    if gpu:
        parts += [seed_axis(gpu), aims("seed_axis", gpu)]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


# Pieces


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Return a table in Markdown; all but the first `left` columns are numbers."""
    rule = ["---"] * left + ["---:"] * (len(header) - left)
    lines = [f"| {' | '.join(cells)} |" for cells in (header, *rows)]
    return "\n".join([lines[0], f"|{'|'.join(rule)}|", *lines[1:]])


def digits(value: Any, unit: str = "") -> str:
    """Return a number with three digits, "" for none."""
    if value in ("", None):
        return ""
    number = float(value)
    return (f"{number:.0f}" if abs(number) >= 1000 else f"{number:#.3g}".rstrip(".")) + unit


def spread(row: Row, name: str = "seconds", unit: str = "") -> str:
    """Return median and range of a row's column."""
    if row.get(name) in ("", None):
        return ""
    return f"{digits(row[name])}{unit} [{digits(row[f'{name}_min'])}, {digits(row[f'{name}_max'])}]"


def speed(row: Row, peak: str = "peak_gflops") -> str:
    """Return the GFLOP/s of a row, and their share of a large matrix product's."""
    if row.get("gflops") in ("", None):
        return ""
    return f"{float(row['gflops']):.0f} ({100 * float(row['gflops']) / float(row[peak]):.0f} %)"


def bold(text: str, missed: bool) -> str:
    """Return a text, bold where a target is missed."""
    return f"**{text}**" if missed and text else text


def case_name(name: str) -> str:
    """Return mlp256 as "MLP 256", and mlp256n200trace as "MLP 256, 200 samples, averaged over outputs"."""
    match = re.fullmatch(r"(mlp|cnn)(\d+)(?:n(\d+)(trace)?)?", name)
    if match is None:  # a pattern of cases that none was measured of
        return {"mlp*": "any MLP", "cnn*": "any CNN"}.get(name, "any network")
    kind, size, samples, trace = match.groups()
    words = f"{kind.upper()} {size}" + (f", {samples} samples" if samples else "")
    return words + ", averaged over outputs" * bool(trace)


def outcome(one: targets.Outcome) -> str:
    """Return a target and what came out as a line."""
    value = "not measured" if one.found is None else digits(one.found.value, one.target.unit) + one.found.note
    return f"{case_name(one.case)}, {one.target.what}: {bold(value, one.missed)}, wanted {one.target.wanted}"


def aims(section: str, rows: Sequence[Row]) -> str:
    """Return the targets of a section with what came out."""
    found = targets.outcomes(section, rows)
    cells = [
        (
            case_name(one.case),
            one.target.what,
            one.target.wanted,
            "" if one.found is None else digits(one.found.value, one.target.unit) + one.found.note,
            "not measured" if one.found is None else bold("missed", True) if one.missed else "met",
        )
        for one in found
    ]
    return "Targets:\n\n" + table(("case", "figure", "wanted", "measured", ""), cells, 3) if cells else ""


def machines(about: Sequence[Row]) -> str:
    """Return machine, versions, commit and date: a line for all benchmarks of one run."""
    runs: dict[tuple[str, str], list[str]] = {}
    for row in about:
        where = f"{row['cpu']}, {row['cores']} cores, {digits(row['memory_gib'])} GiB"
        where += f", {row['device']}" if row["device"] else ""
        peers = ", ".join(f"{name} {row[name.lower()]}" for name in
                          ("PyTorch", "PyHessian", "hessian-eigenthings", "neural-tangents"))  # fmt: skip
        with_ = (
            f"Python {row['python']}, JAX {row['jax']}, NumPy {row['numpy']}; {peers}; commit {row['commit'] or '?'}"
        )
        runs.setdefault((f"{where}; {with_}", row["date"]), []).append(f"{row['section']} {row['minutes']} min")
    return "\n".join(f"* {text}; {date}: {', '.join(names)}." for (text, date), names in runs.items())


# Sections


def in_short(tables: dict[str, list[Row]], known: dict[str, Row]) -> str:
    """Return the table that README quotes."""
    compared: list[tuple[str, Row | None, Row | None, str]] = []
    for case, words in (("mlp256", "an MLP of width 256"), ("cnn16", "a CNN of 16 channels")):
        ours, theirs = trained(tables.get("training", []), case)
        peer = f"PyTorch {known['training']['pytorch'].partition('+')[0]} eager" if "training" in known else "PyTorch"
        compared.append((f"train {words}, an epoch and seed", ours, theirs, peer))
    for case in ("mlp256", "cnn16"):
        own = [row for row in tables.get("curvature", []) if row["case"] == case]
        by = {(row["library"], row["what"]): row for row in own}
        words = f"top Hessian eigenvalue, {case_name(case)}" + "".join(f", {row['samples']} samples" for row in own[:1])
        others = [row for (library, what), row in by.items() if library != "ntkgen" and what in targets.TOP]
        best = min(others, key=lambda row: (bool(targets.gave_up(row)), float(row["seconds"])), default=None)
        says = "PyHessian" if best is None else f"{best['library']}, {best['what'].partition(', ')[2]}"
        compared.append((words, by.get(("ntkgen", "top, Lanczos")), best, says))
    structured = f"neural-tangents {known['ntk']['neural-tangents']}" if "ntk" in known else "neural-tangents"
    for case in ("mlp256n200", "mlp256n1000"):
        kernels = {row["way"]: row for row in tables.get("ntk", []) if row["case"] == case}
        peers = [row for way, row in kernels.items() if way not in ("ours", "jacobian") and row["seconds"]]
        best = min(peers, key=lambda row: float(row["seconds"]), default=None)
        words = f"exact tangent kernel, {case_name(case)}, all 10 x 10 outputs"
        says = structured if best is None or best["way"] == "neural-tangents" else best["way"]
        compared.append((words, kernels.get("ours"), best, says))
    cells = []
    for words, ours, theirs, peer in compared:
        faster = False
        if ours is not None and theirs is not None and ours["seconds"] and theirs["seconds"]:
            faster = float(theirs["seconds"]) < float(ours["seconds"])
        cells.append((words, cost(ours), f"{bold(cost(theirs), faster)} ({peer})"))
    return table(("", "ntkgen", "others, in turn"), cells)


def cost(row: Row | None) -> str:
    """Return a row's seconds, and its peak memory if it has that."""
    if row is None or row["seconds"] in ("", None):
        return "not measured"
    return ", ".join(filter(None, (digits(row["seconds"], " s"), digits(row.get("peak_gib"), " GiB"))))


def trained(rows: Sequence[Row], case: str, masked: str = "0") -> tuple[Row | None, Row | None]:
    """Return the rows of ours, by the strategy that `fit` chooses, and of PyTorch's faster setting."""
    own = [row for row in rows if row["case"] == case and str(row["masked"]) == masked and int(row["chosen"])]
    ours = next((row for row in own if not row["way"].startswith("torch")), None)
    return ours, next((row for row in own if row["way"].startswith("torch")), None)


def training(rows: Sequence[Row], about: Row) -> str:
    """Return the section on training."""
    missed = {one.case for one in targets.outcomes("training", rows) if one.missed}
    cells = []
    for case, masked in dict.fromkeys((row["case"], str(row["masked"])) for row in rows):
        ours, theirs = trained(rows, case, masked)
        assert ours is not None
        others = [row for row in rows if row["case"] == case and str(row["masked"]) == masked and not int(row["chosen"])
                  and not row["way"].startswith("torch")]  # fmt: skip
        cells.append((
            case_name(case) + ", pruned" * (masked == "1"), str(ours["seeds"]), spread(ours),
            ABSENT if about["pytorch"] == ABSENT else spread(theirs) if theirs else "",
            bold(spread(ours, "speedup", "x"), case in missed and masked == "0"), speed(ours),
            "; ".join(f"{row['way']} {digits(row['seconds'])}" for row in others), digits(ours["compile_seconds"]),
        ))  # fmt: skip
    header = ("network", "seeds", "ntkgen, s an epoch and seed", "PyTorch eager, s", "ntkgen faster by",
              "GFLOP/s (share of a large matrix product's)", "the other way, s", "compilation, s")  # fmt: skip
    sources = ", ".join(dict.fromkeys(row["source"] for row in rows))
    return f"""## Training

`training.py`: SGD with momentum, batch 128, training alone, on {sources}; against the faster of PyTorch's two OpenMP
settings, in the same turns. Pruned: a fifth of the weights kept, against `torch.nn.utils.prune`; "the other way" is
then without masks.

""" + table(header, cells)


def curvature(rows: Sequence[Row], about: Row) -> str:
    """Return the section on products and eigenvalues."""
    parts = ["## Curvature\n\n`curvature.py`: the same weights and samples for all, eigenvalues to a true residual of "
             f"{targets.RESIDUAL:g} where a library can; errors against scipy's `eigsh` in float64."]  # fmt: skip
    header = ("by", "what", "seconds", "gradients", "products", "largest residual", "error")
    for case in dict.fromkeys(row["case"] for row in rows):
        own = [row for row in rows if row["case"] == case]
        cells = [
            (row["library"], row["what"], spread(row), digits(row["gradients"]), str(row["matvecs"] or ""),
             *(f"{float(row[name]):.1e}" if row[name] not in ("", None) else "" for name in ("residual", "error")))
            for row in own
        ]  # fmt: skip
        cells += [(name, "", ABSENT, *[""] * 4) for name in ("PyTorch", "PyHessian", "hessian-eigenthings")
                  if about[name.lower()] == ABSENT]  # fmt: skip
        parts.append(
            f"{case_name(case)}, {own[0]['samples']} samples, {own[0]['source']}:\n\n" + table(header, cells, 2)
        )
    return "\n\n".join(parts)


def ntk(rows: Sequence[Row], about: Row) -> str:
    """Return the section on tangent kernels."""
    missed = {(one.case, one.target.what) for one in targets.outcomes("ntk", rows) if one.missed}
    cells: list[tuple[str, ...]] = []
    for row in rows:
        own, case = row["way"] == "ours", row["case"]
        memory = ", ".join(filter(None, (digits(row["peak_gib"], " GiB"), digits(row["added_gib"], " added"))))
        faster = {"jacobian": targets.ORACLE, "neural-tangents": targets.STRUCTURED}.get(row["way"])
        cells.append((
            case_name(case), row["way"],
            f"sits out: {row['absent']}" if row["absent"]
            else bold(spread(row), own and (case, targets.SECONDS) in missed),
            bold(digits(row["first_seconds"]), own and (case, targets.FIRST) in missed), speed(row, "matmul_gflops"),
            bold(memory, own and (case, targets.MEMORY) in missed),
            "" if own else bold(spread(row, "speedup", "x"), (case, faster) in missed),
        ))  # fmt: skip
    known, peers = {row["way"] for row in rows}, {"PyTorch": "torch.func", "neural-tangents": "neural-tangents"}
    absent = [way for name, way in peers.items() if about[name.lower()] == ABSENT and way not in known]
    cells += [("", way, ABSENT, *[""] * 4) for way in absent]
    header = ("network, samples", "by", "seconds", "first call, s", "GFLOP/s (share of a large matrix product's)",
              "peak memory", "ours faster by")  # fmt: skip
    return """## Exact tangent kernels

`ntk.py`: the full K x K kernel of 784-w-w-w-10 or of a CNN on 32x32x3 images, float32, each way in a process of its
own. Every kernel of ours is certified against `vjp` before it is returned. "jacobian" is our own slow oracle.
neural-tangents computes structured derivatives, compiled as one program, in an environment of its own (JAX 0.4.25 where
--build_peers made it).
The first call compiles; imports are not in it. Memory is the process's largest, and what the kernel added to what
imports and weights take: importing neural-tangents loads TensorFlow.

""" + table(header, cells, 2)


def growth(rows: Sequence[Row], stem: str) -> str:
    """Return the section on how cost grows; its figures are beside the page."""
    parts = [
        f"""## How cost grows

`growth.py`: each point in a process of its own; training is an epoch on 2,000 made-up images of MNIST's shape. Slopes
are those of log time on log size, median [range over the turns]; a curve is in two pieces where its slope changes by
{growth_laws.BEND:g} or more."""
    ]
    for axis, (title, words, _) in growth_laws.AXES.items():
        own = [row for row in rows if row["axis"] == axis]
        if not own:
            continue
        parts.append(f"### {title}")
        curves = growth_laws.curves(rows, axis)
        if curves:
            parts.append(f"![Seconds and peak memory against {words}]({stem}_growth_{axis}.png)")
            parts.append("\n".join(f"* {text}" for name, points in curves.items()
                                   for text in growth_laws.sentences(axis, name, points)))  # fmt: skip
        cells = [
            (row["series"], str(row["x"]), spread(row) if row["turns"] else f"sits out: {row['absent']}",
             digits(row["first_seconds"]), digits(row["peak_gib"]), row["way"] or "")
            for row in own
        ]  # fmt: skip
        parts.append(table(("", words, "seconds", "first call, s", "peak memory, GiB", "way"), cells))
    return "\n\n".join(parts)


def seed_axis(rows: Sequence[Row]) -> str:
    """Return the section on the seed axis of a CNN on a GPU, from the table of all tries."""
    last = {row["variant"]: row for row in rows if row["ms"]}
    cells = [(words, digits(last[name]["ms"]), digits(last[name]["to_one"]), digits(last[name]["compile_seconds"]))
             for name, words in GPU.items() if name in last]  # fmt: skip
    one, many = last["sequential"], last["unrolled+nhwc+concurrent"]
    saved = (float(one["ms"]) - float(many["ms"])) / 1e3
    pays = (float(many["compile_seconds"]) - float(one["compile_seconds"])) / saved
    about = f"{one['seeds']} CNNs of {one['channels']} channels, {int(one['num_train']):,} images, batch "
    about += f"{one['batch_size']}, one {one['device']}, jax {one['jax']}; medians of {one['turns']} turns"
    return f"""## The seed axis of a CNN on a GPU

`seed_axis.py`: {about}, training alone.
All tries: `seed_axis_h200.csv`. `run.py` does not measure this anew.

{table(("way", "ms an epoch", "times one seed", "compilation, s"), cells)}

Unrolled pays after about {round(pays, -1):.0f} epochs of this size."""
