"""Progress: plain lines in a file, a bar in a terminal, a time left that can be believed."""

import fcntl
import io
import os
import re
import struct
import termios
import threading

import numpy as np
import pytest

from ntkgen.records import Progress, _progress
from ntkgen.records._progress import PLAIN_SECONDS

LOSS = np.array([0.5, 1.0])


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""
    now = [1000.0]
    monkeypatch.setattr(_progress.time, "monotonic", lambda: now[0])
    return now


def train(shown, clock, costs, epochs, seconds, label="mlp 8"):
    """Report every epoch of every part, each seed's epoch taking `seconds` times its cost."""
    for index, cost in enumerate(costs):
        report = shown.part(index, label)
        for epoch in range(1, epochs + 1):
            clock[0] += seconds * cost * len(LOSS)
            report(0, epoch, {"train_loss": LOSS})


def test_plain_lines_now_and_then_and_at_the_end(clock):
    stream = io.StringIO()
    with Progress([1.0], 2, 50, stream) as shown:
        train(shown, clock, [1.0], 50, 0.5)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 50 // (PLAIN_SECONDS + 1) + 1
    assert lines[0] == "32/100 seeds x epochs, mlp 8, epoch 16/50, loss 0.7500, 00:16 spent, about 00:34 left"
    assert lines[-1] == "100/100 seeds x epochs, mlp 8, epoch 50/50, loss 0.7500, 00:50 spent"
    assert "\r" not in stream.getvalue() and "\x1b" not in stream.getvalue()


def test_time_left_is_exact_where_parts_cost_what_was_said(clock):
    costs = [1.0, 5.0, 30.0]
    whole = 2.0 * len(LOSS) * 4 * sum(costs)
    stream, begun = io.StringIO(), clock[0]
    with Progress(costs, len(LOSS), 4, stream) as shown:
        train(shown, clock, costs, 4, 2.0)
    seen = re.findall(r"([\d:]+) spent, about ([\d:]+) left", stream.getvalue())
    assert len(seen) == 8 and clock[0] - begun == whole
    for pair in seen:
        assert sum(int(minutes) * 60 + int(seconds) for minutes, seconds in (t.split(":") for t in pair)) == whole


def test_parts_may_have_different_numbers_of_seeds(clock):
    stream = io.StringIO()
    with Progress([1.0, 1.0], [2, 5], [3, 4], stream) as shown:
        for index, (seeds, epochs) in enumerate(((2, 3), (5, 4))):
            report = shown.part(index, "mlp 8")
            for epoch in range(1, epochs + 1):
                clock[0] += 10.0 * seeds
                report(0, epoch, {"train_loss": np.ones(seeds)})
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("2/26 seeds") and lines[0].endswith("00:20 spent")
    assert lines[1].startswith("4/26 seeds") and lines[1].endswith("00:40 spent, about 03:40 left")
    assert lines[-1].startswith("26/26 seeds") and lines[-1].endswith("04:20 spent")


def test_time_left_comes_from_what_this_call_trained(clock):
    # A resumed run: 8 of 10 parts and 80 of 100 epochs were done before; 10 epochs in 20 seconds leave 10 and 100.
    stream = io.StringIO()
    shown = Progress([1.0] * 10, 2, 100, stream)
    report = shown.part(8, "mlp 8")
    for epoch in range(81, 91):
        clock[0] += 2.0
        report(0, epoch, {"train_loss": LOSS})
    resumed, line, *_ = stream.getvalue().splitlines()
    assert resumed == "resuming at epoch 80 of 100: mlp 8"
    assert line.startswith("1776/2000 seeds x epochs, mlp 8, epoch 88/100")
    assert stream.getvalue().endswith("00:16 spent, about 03:44 left\n")


def test_seeds_of_earlier_chunks_count(clock):
    stream = io.StringIO()
    shown = Progress([1.0], 4, 10, stream)
    clock[0] += 20.0
    shown.part(0, "mlp 8")(2, 5, {"train_loss": LOSS})
    assert "30/40 seeds x epochs, mlp 8, epoch 5/10" in stream.getvalue()


def test_a_diverged_loss_is_shown_as_such(clock):
    stream = io.StringIO()
    Progress([1.0], 2, 1, stream).part(0, "mlp 8")(0, 1, {"train_loss": np.array([1.0, np.nan])})
    assert "loss nan" in stream.getvalue()


def test_no_loss_is_shown_before_one_is_measured():
    stream = io.StringIO()
    Progress([1.0], 1, 1, stream).part(0, "mlp 8")(0, 1, {"train_loss": np.array([np.nan])})
    assert "1/1 seeds x epochs, mlp 8, " in stream.getvalue() and "loss" not in stream.getvalue()


def test_the_stream_is_stderr_unless_given(capsys, clock):
    with Progress([1.0], 2, 1) as shown:
        train(shown, clock, [1.0], 1, 1.0)
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("2/2 seeds x epochs")


def on_a_terminal(body, columns=100) -> str:
    """Run body(stream) with a pseudo-terminal and return what it would have shown."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    parts = []

    def read():
        try:
            while part := os.read(ours, 4096):
                parts.append(part)
        except OSError:  # the terminal's other end is closed
            pass

    reader = threading.Thread(target=read)
    reader.start()
    with open(theirs, "w") as stream:
        body(stream)
    reader.join(10)
    os.close(ours)
    return b"".join(parts).decode()


def test_a_terminal_gets_one_bar(clock):
    def body(stream):
        with Progress([1.0], 2, 5, stream) as shown:
            train(shown, clock, [1.0], 5, 5.0)

    shown = on_a_terminal(body)
    assert shown.count("\n") == 1  # where the bar ends
    assert re.search(r" 40%\|.*\| 4/10 seeds x epochs, mlp 8, epoch 2/5, loss 0.7500, about 00:30 left", shown)
    assert re.search(r"100%\|.*\| 10/10 seeds x epochs, mlp 8, epoch 5/5, loss 0.7500", shown)


def test_compilation_is_not_taken_for_training(clock):
    # 300 s of compilation before the first epoch of 2 s: 79 epochs take 158 s, and not six hours.
    stream = io.StringIO()
    with Progress([1.0], 2, 80, stream) as shown:
        report = shown.part(0, "mlp 8")
        for epoch, seconds in ((1, 302), (2, 2), (3, 20)):
            clock[0] += seconds
            report(0, epoch, {"train_loss": LOSS})
    first, third = stream.getvalue().splitlines()
    assert first.endswith("05:02 spent") and "left" not in first
    assert third.endswith("about 14:07 left")  # 77 epochs of 11 s, the mean of 2 and 20


def test_what_lies_between_two_parts_is_expected_again(clock):
    stream = io.StringIO()
    with Progress([1.0] * 4, 2, 4, stream) as shown:
        for index in range(2):
            report = shown.part(index, "mlp 8")
            for epoch in range(1, 5):
                clock[0] += 20 if epoch > 1 else 120  # 100 s of compilation in each part
                report(0, epoch, {"train_loss": LOSS})
    assert [line.rpartition(", ")[2] for line in stream.getvalue().splitlines()] == [
        "02:00 spent", "about 04:40 left", "about 04:20 left", "about 04:00 left",
        "about 07:00 left", "about 06:40 left", "about 06:20 left", "about 06:00 left",
    ]  # fmt: skip


def test_the_time_left_of_parts_that_report_once(clock):
    stream = io.StringIO()
    with Progress([1.0] * 5, 2, 1, stream, unit="networks") as shown:
        for index in range(3):
            clock[0] += 100 if index == 0 else 20
            shown.part(index, "w32")(0, 1, {"train_loss": LOSS})
    assert stream.getvalue().splitlines() == [
        "2/10 networks, w32, loss 0.7500, 01:40 spent",
        "4/10 networks, w32, loss 0.7500, 02:00 spent, about 01:00 left",
        "6/10 networks, w32, loss 0.7500, 02:20 spent, about 00:40 left",
    ]


def test_measurements_are_counted(clock):
    def body(stream):
        with Progress([1.0] * 3, 1, 1, stream, unit="measured") as shown:
            for index, seconds in enumerate((30, 10)):
                clock[0] += seconds
                shown.measured(index, "surface")

    plain = io.StringIO()
    body(plain)
    assert plain.getvalue() == "measured surface, 1/3, 30 s\nmeasured surface, 2/3, 10 s\n"
    assert "2/3 measured, surface, about 00:10 left" in on_a_terminal(body)


def test_a_run_that_begins_where_it_should_is_not_resumed(clock):
    stream = io.StringIO()
    Progress([1.0], 2, 10, stream).part(0, "rewound_20", start=3)(0, 4, {"train_loss": LOSS})
    assert "resuming" not in stream.getvalue()


@pytest.mark.parametrize("columns", [20, 40, 60, 80, 120])
def test_a_bar_fits_its_terminal(clock, columns):
    def body(stream):
        with Progress([1.0] * 2, 2, 80, stream) as shown:
            report = shown.part(1, "random_layer_fan_in {20}, 10000 examples")
            for epoch in range(41, 45):
                clock[0] += 5.0
                report(0, epoch, {"train_loss": LOSS})
            shown.measuring(1, "random_layer_fan_in {20}, 10000 examples")

    lines = re.split(r"[\r\n]+", on_a_terminal(body, columns).replace("\x1b[A", ""))
    assert max(map(len, lines)) <= columns
    assert columns < 40 or any("resuming at epoch 40 of 80" in line for line in lines)
    if columns >= 60:
        assert any("about 03:00 left" in line for line in lines)
        assert any("248/320" in line and "epoch 44/80" in line for line in lines)
        assert any("measuring 2/2" in line for line in lines)


def test_an_error_inside_leaves_the_terminal_on_a_new_line(clock):
    def body(stream):
        with pytest.raises(KeyError), Progress([1.0], 2, 5, stream) as shown:
            shown.part(0, "mlp 8")(0, 1, {"train_loss": LOSS})
            raise KeyError

    assert on_a_terminal(body).endswith("\n")


def test_a_terminal_of_unknown_width_gets_lines(clock):
    # tqdm would show nothing at all there; `docker run -t` and `ssh -tt` from a script make such terminals.
    def body(stream):
        with Progress([1.0], 2, 5, stream) as shown:
            train(shown, clock, [1.0], 5, 5.0)

    shown = on_a_terminal(body, columns=0)
    assert shown.startswith("4/10 seeds x epochs") and shown.count("\n") == 3
