"""The command that runs all benchmarks: page, targets and bends are made from rows alone, and bad flags end early."""

import os
from pathlib import Path

import growth
import growth_laws
import growth_point
import numpy as np
import pytest
import run
import speed_page
import targets

from ntkgen import plotting, records

ABOUT = {"date": "2026-11-27", "commit": "abc", "cpu": "A CPU", "cores": 2, "memory_gib": 23.5, "device": "",
         "python": "3.11", "jax": "0.10", "numpy": "2.4", "pytorch": "2.13.0", "pyhessian": "not installed",
         "hessian-eigenthings": "not installed", "neural-tangents": "not installed", "quick": 0,
         "minutes": 1.5}  # fmt: skip


def seconds(value):
    return {"turns": 3, "seconds": value, "seconds_min": 0.9 * value, "seconds_max": 1.1 * value}


def trained(case, way, value, speedup=None, **more):
    row = {"case": case, "masked": 0, "way": way, "seeds": 5, "source": "mnist", "chosen": 1, **seconds(value)}
    row |= {"gflops": 100.0, "peak_gflops": 250.0, "compile_seconds": 1.2, "evaluation_seconds": None}
    return row | {"speedup": speedup, "speedup_min": speedup, "speedup_max": speedup} | more


TRAINING = [
    trained("mlp256", "vmap", 0.1109, 1.59),
    trained("mlp256", "sequential", 0.1287, 1.29, chosen=0),
    trained("mlp256", "torch", 0.1655),
    trained("cnn16", "sequential", 1.55, 1.02),
    trained("cnn16", "torch", 1.58),
]


def kernel(case, way, value, gib, absent=None, speedup=1.0):
    row = {"case": case, "way": way, "absent": absent, "matmul_gflops": 250.0, "gflops": 150.0, "first_seconds": 1.0}
    row |= seconds(value) if value else dict.fromkeys(seconds(1.0))
    row |= {"peak_gib": gib, "added_gib": gib and gib / 2, "difference": 3e-7}
    return row | {"speedup": speedup, "speedup_min": speedup, "speedup_max": speedup}


def grown(law, sizes=(1, 2, 4, 8, 16, 32), noise=0.0, axis="seeds"):
    rng, rows = np.random.default_rng(0), []
    for x in sizes:
        turns = law(x) * np.exp(noise * rng.normal(size=3))
        row = {"axis": axis, "series": "MLP 64", "x": x, "absent": "", "peak_gflops": 250.0, "way": "vmap", "gflop": x}
        row |= {"all_seconds": " ".join(map(str, turns)), "first_seconds": 2.0, "peak_gib": 0.4 + x, "turns": 3}
        row |= {"baseline_gib": 0.4, "counted_gib": x / 2}
        row |= {"seconds": np.median(turns), "seconds_min": min(turns), "seconds_max": max(turns)}
        rows.append(row)
    return rows


def cells(text, start):
    (line,) = [line for line in text.splitlines() if line.startswith(start)]
    return [cell.strip() for cell in line.strip("|").split("|")]


# The page


def test_the_page_is_made_from_tables_and_a_missed_target_is_bold(tmp_path):
    out = tmp_path / "speed.md"
    records.write_table(run.beside(out, "training"), TRAINING)
    records.write_table(run.beside(out, "growth"), grown(lambda x: 0.01 * x))
    records.write_table(run.beside(out, "runs"), [{"section": name, **ABOUT} for name in ("training", "growth")])
    run.write(out)
    text = out.read_text()
    assert cells(text, "| MLP 256 | 5")[2:5] == [
        "0.111 [0.0998, 0.122]",
        "0.166 [0.149, 0.182]",
        "**1.59x [1.59, 1.59]**",
    ]
    assert cells(text, "| MLP 256 | 5")[4] == "**1.59x [1.59, 1.59]**"
    assert cells(text, "| CNN 16 | 5")[4] == "1.02x [1.02, 1.02]"
    assert cells(text, "| MLP 256 | times")[2:] == ["at least 1.8", "1.59", "**missed**"]
    assert cells(text, "| CNN 16 | times")[-1] == "met" and cells(text, "| CNN 32 | times")[-1] == "not measured"
    assert cells(text, "| train an MLP")[1:] == ["0.111 s", "0.166 s (PyTorch 2.13.0 eager)"]
    assert cells(text, "| top Hessian eigenvalue, MLP")[1] == "not measured"
    assert "* MLP 256, times PyTorch's speed: **1.59**, wanted at least 1.8" in text and "A quick run" not in text
    assert "A CPU, 2 cores, 23.5 GiB" in text and "commit abc; 2026-11-27: training 1.5 min, growth 1.5 min" in text
    assert "slope 1.00 [1.00, 1.00]" in text and "(speed_growth_seeds.png)" in text
    assert "Seconds" not in plotting.title_of((tmp_path / "speed_growth_seeds.png").read_bytes())
    again = out.read_bytes()
    run.write(out)
    assert out.read_bytes() == again


def test_a_library_that_is_not_installed_is_said_to_be_so():
    rows = [row for row in TRAINING if not row["way"].startswith("torch")]
    rows = [row | dict.fromkeys(("speedup", "speedup_min", "speedup_max")) for row in rows]
    about = ABOUT | {"pytorch": speed_page.ABSENT}
    assert cells(speed_page.training(rows, about), "| MLP 256")[3:5] == ["not installed", ""]
    kernels = [kernel("mlp256n200", "ours", 0.04, 0.35), kernel("mlp256n200", "jacobian", None, None, "too long")]
    text = speed_page.ntk(kernels, about)
    assert "|  | torch.func | not installed |" in text and "|  | neural-tangents | not installed |" in text
    assert "sits out: too long" in text
    others, structured = [part for part in run.FULL if part.section == "ntk"][:2]
    assert run.command(others, Path("x.csv"), about, None)[-1] == "--against=jacobian,neural-tangents"
    assert run.command(structured, Path("x.csv"), about, None)[-1] == "--out=x.csv"
    words = run.command(run.FULL[0], Path("x.csv"), about, None)
    assert words[-1] == "--notorch" and run.command(run.FULL[0], Path("x.csv"), ABOUT, 2)[-1] == "--repeats=2"


def test_neural_tangents_stands_beside_ours_with_first_call_and_memory():
    rows = [kernel("mlp256n200", "ours", 0.04, 0.3), kernel("mlp256n200", "neural-tangents", 0.1, 0.8, speedup=2.5)]
    rows[1]["first_seconds"] = 0.4
    rows += [kernel("mlp256n1000", "ours", 0.6, 0.7), kernel("mlp256n1000", "neural-tangents", 6.0, 3.7, speedup=10.0)]
    about = ABOUT | {"neural-tangents": "0.6.5"}
    text = speed_page.ntk(rows, about)
    assert cells(text, "| MLP 256, 200 samples | ours")[2:] == [
        "0.0400 [0.0360, 0.0440]", "**1.00**", "150 (60 %)", "0.300 GiB, 0.150 added", "",
    ]  # fmt: skip
    theirs = cells(text, "| MLP 256, 200 samples | neural-tangents")
    assert theirs[3] == "0.400" and theirs[5:] == ["0.800 GiB, 0.400 added", "**2.50x [2.50, 2.50]**"]
    assert cells(text, "| MLP 256, 1000 samples | neural-tangents")[-1] == "10.0x [10.0, 10.0]"
    assert "not installed" not in text
    short = speed_page.in_short({"ntk": rows}, {"ntk": about})
    start = "| exact tangent kernel, MLP 256, 1000 samples"
    assert cells(short, start)[1:] == ["0.600 s, 0.700 GiB", "6.00 s, 3.70 GiB (neural-tangents 0.6.5)"]
    assert cells(speed_page.in_short({}, {"ntk": ABOUT}), start)[2] == "not measured (neural-tangents not installed)"
    found = {one.target.what: one for one in targets.outcomes("ntk", rows) if one.case == "mlp256n200"}
    assert found[targets.FIRST].found.value == 2.5 and found[targets.FIRST].missed
    assert found[targets.STRUCTURED].missed and not found[targets.DIFFERENCE].missed
    cases = [case for part in run.FULL if part.section == "ntk" for case in part.flags[0][8:].split(",")]
    assert set(targets.AGAINST_STRUCTURED) < set(cases) and len(set(cases)) == len(cases) == len(targets.KERNELS)


def test_the_version_of_neural_tangents_is_that_of_its_environment():
    assert run.installed(run.nt_environment.Peer("python", "0.6.4"))["neural-tangents"] == "0.6.4"
    assert run.installed(None)["neural-tangents"] == speed_page.ABSENT


def test_the_gpu_s_section_comes_from_its_table():
    rows = records.read_table(run.HERE.parents[1] / "figures" / run.GPU_TABLE)
    text = speed_page.seed_axis(rows)
    assert cells(text, '| five, `strategy="unrolled"`')[1:] == ["220", "3.19", "26.4"] and "about 130 epochs" in text
    (one,) = targets.outcomes("seed_axis", rows)
    assert one.missed and one.found.value == 3.195


# Targets


def test_targets_of_kernels():
    rows = [kernel("mlp256n200", "ours", 0.07, 0.35), kernel("cnn16n200", "jacobian", 12.6, 4.0, speedup=4.3)]
    found = {(one.case, one.target.what): one for one in targets.outcomes("ntk", rows)}
    assert found["mlp256n200", targets.SECONDS].missed and not found["mlp256n200", targets.MEMORY].missed
    assert found["cnn16n200", targets.ORACLE].found.value == 4.3 and not found["cnn16n200", targets.ORACLE].missed
    assert found["mlp64n1000", targets.SECONDS].found is None and not found["mlp64n1000", targets.SECONDS].missed


def test_a_stand_in_for_pyhessian_decides_no_target():
    def row(library, what, value, matvecs="", residual=5e-4):
        return {"case": "mlp64", "library": library, "what": what, **seconds(value), "matvecs": matvecs,
                "residual": residual, "gradients": 1.5}  # fmt: skip

    ours = [row("ntkgen", what, 0.1, 8) for what in ("hvp", "hvp, linearised", "top, Lanczos", "top, power")]
    ours.append(row("ntkgen", "top 10, Lanczos", 0.5, 30))
    for library, value in (("double backward (no PyHessian)", None), ("PyHessian", 2.0)):
        found = targets.curvature([*ours, row(library, "top, power", 0.2, 15)])
        assert found.get(("mlp64", targets.BEST), (None,))[0] == value
    others = [row("hessian-eigenthings", *given) for given in (("top, Lanczos", 0.15), ("top 10, Lanczos", 1.0))]
    found = targets.curvature([*ours, row("PyHessian", "top, power", 0.2, 15), *others])
    assert found["mlp64", targets.BEST].value == pytest.approx(1.5) and found["mlp64", targets.TEN].value == 2.0
    others[1]["residual"] = 0.1  # it gave up
    assert ("mlp64", targets.TEN) not in targets.curvature([*ours, *others])
    lost = row("ntkgen", "top, power", 0.1, 16, residual=0.1)
    assert targets.curvature([*ours[:3], lost, ours[4]])["mlp64", targets.PRODUCTS] == (
        0.5,
        "; power iteration gave up",
    )


# How cost grows


def test_a_bend_is_found_where_it_is_and_only_beyond_the_noise():
    bent = growth_laws.Points(grown(lambda x: 0.01 * max(1.0, x / 4)))
    assert [(piece.first, piece.last) for piece in bent.pieces()] == [(0, 2), (2, 5)]
    assert [round(piece.slope.value, 6) for piece in bent.pieces()] == [0, 1]
    assert len(growth_laws.Points(grown(lambda x: 0.01 * x**1.5)).pieces()) == 1
    noisy = growth_laws.Points(grown(lambda x: 0.01 * x, sizes=(1, 2, 3), noise=1.0))
    assert growth_laws.bend_of(noisy.x, noisy.seconds) is not None and len(noisy.pieces()) == 1


@pytest.mark.parametrize(
    ("law", "words"),
    [
        (lambda x: x / 200, "matrix products dominate"),
        (lambda x: x / 50, "time follows the arithmetic"),
        (lambda x: 0.1 + x / 500, "part of the cost does not grow"),
        (lambda x: x**1.4 / 50, "time grows faster than the arithmetic"),
    ],
)
def test_a_slope_has_its_reason(law, words):
    points = growth_laws.Points(grown(law))
    assert words in growth_laws.why(points, points.pieces()[-1])


def test_memory_says_where_it_bends_and_a_point_that_sat_out_is_no_point():
    rows = grown(lambda x: 0.01 * x, sizes=(0.1, 0.2, 0.4, 0.8), axis="samples")
    rows.append({"axis": "samples", "series": "MLP 64", "x": 5, "absent": "too large", "turns": ""})
    (points,) = growth_laws.curves(rows, "samples").values()
    assert len(points.x) == 4 and not growth_laws.curves(rows[-2:], "samples")
    text = growth_laws.sentences("samples", "all", points)[-1]
    assert "from 0.8 samples on more is added" in text and "2.0 times the kernel" in text


@pytest.mark.parametrize(
    "series",
    [pytest.param(growth.SERIES[0]._replace(size=3), marks=pytest.mark.slow), growth.SERIES[4]._replace(size=3)],
    ids=["training", "kernel"],
)
def test_a_point_is_counted_and_timed(series, monkeypatch):
    monkeypatch.setattr(growth_point, "IMAGES", 128)
    make = growth_point.training if series.axis == "seeds" else growth_point.kernel
    first, turn, about = make(series.axis, 2, series.size, series.trace)
    assert first() > turn() > 0 and growth_point.peak() > about()["baseline"] > 0
    kernels, biases = 784 * 3 + 2 * 3 * 3 + 3 * 10, 3 * 3 + 10
    if series.axis == "seeds":
        assert about()["counted"] == 2 * 4 * (kernels + biases)
        assert about()["flops"] == 2 * 128 * (4 * 784 * 3 + 6 * (2 * 3 * 3 + 3 * 10))
    else:
        assert about()["counted"] == 4 * 20 * 20 and about()["flops"] > 0


def test_a_kernel_beyond_the_budget_sits_out(monkeypatch):
    monkeypatch.setattr(growth.memory, "budget", lambda: 10**9)
    averaged, full = growth.SERIES[3:]
    assert not growth.too_large(full, 1000) and not growth.too_large(averaged, 5000)
    assert growth.too_large(full, 5000) == "the kernel alone takes 9.31 GiB"


# Flags


@pytest.mark.parametrize(
    "flag",
    [
        "--only=training,speed",
        "--only=none",
        "--out=nowhere/x.md",
        "--out=x.txt",
        "--out=",
        "--repeats=-1",
        "--nt_python=nowhere",
    ],
)
def test_bad_flags_end_in_one_line(forks, flag, tmp_path):
    (tmp_path / "figures").mkdir()
    done = forks.run(Path(run.__file__), flag, cwd=tmp_path, env={**os.environ, "JAX_PLATFORMS": "cpu"})
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and flag.split("=")[0][2:] in done.stderr, done.stderr
    assert not done.stdout and not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("section", speed_page.SECTIONS)
def test_the_flags_of_all_parts_are_those_of_their_script(forks, section, tmp_path):
    """Flags are checked before --out, so that a script which complains of that has taken all others."""
    pytest.importorskip("torch")
    parts = [part for part in (*run.FULL, *run.SMALL) if part.section == section]
    words = [word for part in parts for word in run.command(part, Path("nowhere/x.csv"), ABOUT, None)[2:]]
    script = run.command(parts[0], Path("x.csv"), ABOUT, None)[1]
    done = forks.run(script, *words, cwd=tmp_path, env={**os.environ, "JAX_PLATFORMS": "cpu"})
    assert done.returncode == 2 and "--out: expected a file in a folder that exists" in done.stderr, done.stderr


def test_everything_takes_about_twenty_minutes():
    assert sum(part.minutes for part in run.FULL) <= 21
    assert {part.section for part in run.FULL} == {part.section for part in run.SMALL} == set(speed_page.SECTIONS)
