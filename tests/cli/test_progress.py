"""What a build shows while it runs: on terminals of any size, in logs, as JSON, and quietly."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import Run
from example_models import write_chat
from gguf_files import tiny_gguf
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from screens import Screen, finished, program, terminal

from mbuild.cli.live import ASCII, LINES, LiveRow, TerminalLook, done_text, fit, frame
from mbuild.cli.progress import PLAIN_SECONDS, Plain
from mbuild.cli.rate import SETTLED, Rate
from mbuild.cli.terminal import Terminal
from mbuild.cli.wording import waited_for
from mbuild.core.digest import Digest
from mbuild.core.events import (
    BuildEvent,
    BuildFinished,
    BuildStarted,
    Code,
    Status,
    StepFinished,
    StepProgress,
    StepStarted,
    Warned,
)
from mbuild.core.units import short_duration
from mbuild.gguf.types import GGMLType
from mbuild.quant.quantize import prepare

ID = Digest.of(b"model")
SUMMARY = "built mario:latest in 3.1 s: 2 steps run, 1 cached, 371 MB written"


class Time:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


# --- speed and remaining time ----------------------------------------------------------


def test_a_steady_speed_is_told_exactly() -> None:
    """Nothing is told in the first second; then speed and remaining time are the true ones."""
    rate = Rate()
    for tick in range(101):
        now = tick / 10
        rate.update(now, tick * 10_000_000, 2_000_000_000)
        if now < SETTLED:
            assert rate.speed(now) is None
            assert rate.remaining(now) is None
        else:
            assert rate.speed(now) == pytest.approx(100e6)
            assert rate.remaining(now) == pytest.approx(20 - now)


def test_what_was_done_before_took_no_time() -> None:
    """A step that goes on from a killed build's half counts only what it does itself."""
    rate = Rate()
    rate.update(0.0, 10**12, 2 * 10**12)
    for second in range(1, 5):
        rate.update(second, 10**12 + second * 10**6, 2 * 10**12)
    assert rate.speed(4.0) == pytest.approx(1e6)


def test_a_pause_lowers_the_speed_and_a_restart_forgets_it() -> None:
    """While nothing comes the speed falls; a count that goes back starts anew."""
    rate = Rate()
    for second in range(5):
        rate.update(second, second * 1000, 100_000)
    speeds = [rate.speed(4.0 + pause) for pause in range(0, 40, 5)]
    assert speeds == sorted(speeds, key=lambda speed: -(speed or 0))
    assert speeds[-1] is not None
    assert speeds[-1] < 150
    rate.update(50.0, 10, 100_000)
    assert rate.speed(50.0) is None


def test_without_a_total_there_is_a_speed_and_no_end() -> None:
    """Total 0 means that nobody knows it."""
    rate = Rate()
    for second in range(4):
        rate.update(second, second * 1000, 0)
    assert rate.speed(3.0) == pytest.approx(1000)
    assert rate.remaining(3.0) is None


@given(st.lists(st.integers(500_000, 2_000_000), min_size=80, max_size=120))
def test_the_remaining_time_counts_down_without_jumps(steps: list[int]) -> None:
    """With a speed that varies fourfold from one report to the next, what is shown
    moves by at most a third (or two seconds) between two frames."""
    rate, done, shown = Rate(), 0, []
    for tick, step in enumerate(steps):
        now = tick / 10
        done += step
        rate.update(now, done, 200_000_000)
        remaining = rate.remaining(now)
        if now >= 3 * SETTLED:
            assert remaining is not None
            shown.append(remaining)
    for before, after in itertools.pairwise(shown):
        assert abs(after - before) <= max(2.0, before / 3)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1m00s"),
        (65, "1m05s"),
        (3599.6, "1h00m"),
        (7800, "2h10m"),
        (86400 * 3 + 3600 * 4, "3d04h"),
    ],
)
def test_lengths_of_time(seconds: float, text: str) -> None:
    """Seconds, then two units, in at most six characters."""
    assert short_duration(seconds) == text
    assert len(text) <= 6


def test_amounts_share_the_totals_unit() -> None:
    """So their width does not jump while they grow; an unknown total is left out."""
    assert done_text(900_000, 2_300_000_000) == "0.0/2.3 GB"
    assert done_text(1_234_000_000, 2_300_000_000) == "1.2/2.3 GB"
    assert done_text(120_000_000, 371_000_000) == "120/371 MB"
    assert done_text(5, 900) == "5/900 B"
    assert done_text(371_000_000, 0) == "371 MB"
    assert done_text(0, 0) == ""


# --- lines of a frame ------------------------------------------------------------------

rows_ = st.builds(
    LiveRow,
    st.text(st.sampled_from("abc -.日本語モデル🦙é"), max_size=60),
    st.none() | st.floats(0, 1),
    st.sampled_from(["", "3 s", "12m05s"]),
    st.sampled_from(["", "1.2/2.3 GB", "120/371 MB"]),
    st.sampled_from(["", "9.9 MB/s", "310 MB/s"]),
    st.sampled_from(["", "3 s left", "59m59s left"]),
    st.sampled_from(["", "in the same pass"]),
)


@given(st.lists(rows_, max_size=12), st.integers(1, 300), st.integers(1, 30), st.booleans())
def test_a_frame_fits_on_its_terminal(
    rows: list[LiveRow], width: int, height: int, unicode: bool
) -> None:
    """Every line leaves the last cell free, and there is a line left for the cursor's next."""
    lines = frame(rows, TerminalLook(width, height, LINES if unicode else ASCII))
    assert len(lines) <= max(1, height - 1)
    assert len(lines) == min(len(rows), max(1, height - 1))
    for line in lines:
        assert cell_len(line) <= max(1, width - 1)
        assert "\x1b" not in line


def test_what_goes_first_when_a_terminal_is_narrow() -> None:
    """The bar, then bytes, then speed, then the remaining time; percentage and name stay."""
    rows = [LiveRow("quantize big to Q4_K_M", 0.386, "", "130/338 MB", "89 MB/s", "2 s left")]

    def line(width: int) -> str:
        return frame(rows, TerminalLook(width))[0]

    assert line(100) == (
        "   38%  quantize big to Q4_K_M  ━━━━━━━━━───────────────"
        "  130/338 MB   89 MB/s     2 s left"
    )
    assert line(60) == "   38%  quantize… Q4_K_M  130/338 MB   89 MB/s     2 s left"
    assert line(50) == "   38%  quantize …o Q4_K_M   89 MB/s     2 s left"
    assert line(40) == "   38%  quantize …o Q4_K_M     2 s left"
    assert line(20) == "   38%  quant…4_K_M"
    assert line(9) == "   38%"


def test_names_are_cut_in_their_middle() -> None:
    """Variants differ at the end of the name; a wide character is never halved."""
    assert fit("quantize model to Q4_K_M", 13) == "quanti…Q4_K_M"
    assert fit("日本語モデル", 12) == "日本語モデル"
    assert fit("日本語モデル", 8) == "日本…ル"
    assert fit("日本", 1) == ""


def test_more_rows_than_lines() -> None:
    """A low terminal shows as many as fit and counts the rest."""
    rows = [LiveRow(f"step {number}") for number in range(9)]
    assert [line.strip() for line in frame(rows, TerminalLook(40, 4))] == [
        "step 0",
        "step 1",
        "and 7 more",
    ]


# --- terminals -------------------------------------------------------------------------


@pytest.fixture
def clock() -> Time:
    """The time of the renderer under test."""
    return Time()


@contextmanager
def shown_on(screen: Screen, clock: Time) -> Iterator[Terminal]:
    """A renderer whose standard error is the screen."""
    shown = Terminal(clock)
    with (
        contextlib.suppress(OSError),  # where it is gone
        open(screen.slave, "w", encoding="utf-8", closefd=False) as stream,
        contextlib.redirect_stderr(stream),
    ):
        try:
            yield shown
        finally:
            shown.close()


def two_variants(clock: Time, show: Callable[[BuildEvent], None]) -> Iterator[None]:
    """A build with something cached, an import beside two variants from one read."""
    show(BuildStarted("mario:latest", 4))
    show(StepFinished(1, "system", True, 0.0, 0, "system"))
    show(StepStarted(2, "quant モデル to Q4_K_M", 2))
    show(StepStarted(3, "quant モデル to Q8_0", 2))
    show(StepStarted(4, "import big\x1b[31m.gguf", 4))
    show(Status(Code.CONVERTING_MODEL))
    for second in range(5):
        clock.now += 1
        show(StepProgress(2, "", 50_000_000 * second, 400_000_000))
        show(StepProgress(4, "", 2_000_000_000 * second, 10_000_000_000))
    yield
    show(StepFinished(4, "import big\x1b[31m.gguf", False, 5.0, 10_000_000_000, "import"))
    yield
    show(Status(Code.AUTODETECTED_TEMPLATE, {"template": "chatml"}))
    show(Status(Code.AUTODETECTED_TEMPLATE, {"template": "chatml"}))
    show(Warned("the model has no template"))
    show(StepFinished(2, "quant モデル to Q4_K_M", False, 8.0, 300_000_000, "quantize"))
    show(StepFinished(3, "quant モデル to Q8_0", False, 8.0, 0, "quantize"))
    show(BuildFinished("mario:latest", ID, 2, 1, 371_000_000, 3.1))


FINAL = [
    "cached  system",
    "done    import big\\x1b[31m.gguf  5.0 s, 10 GB written",
    "        using autodetected template chatml",
    "warning: the model has no template",
    "done    quant モデル to Q4_K_M  8.0 s, 300 MB written",
    "done    quant モデル to Q8_0  8.0 s",
    SUMMARY,
]


def unwrapped(rows: list[str]) -> str:
    """What stands on rows, without spaces: however lines were wrapped, that stays."""
    return "".join("".join(row.split()) for row in rows)


def plain(rows: list[str]) -> list[str]:
    """Rows without the empty cell that pyte puts behind a wide character."""
    return [row.replace("\0", "") for row in rows]


@pytest.mark.parametrize("width", [20, 40, 80, 250])
def test_rows_while_it_runs_and_nothing_left_over(width: int, clock: Time) -> None:
    """Finished steps stand above the running ones, one line each; at the end no row is left."""
    with terminal(width, 24) as screen, shown_on(screen, clock) as shown:
        build = two_variants(clock, shown.show)
        next(build)
        rows = screen.until(lambda rows: len(rows) == 4)
        assert rows[0] == FINAL[0]
        assert [row[:6].strip() for row in rows[1:]] == ["50%", "50%", "80%"]
        assert screen.cursor == (0, 1)
        if width >= 80:
            assert "200/400 MB   50 MB/s     4 s left" in rows[-3]
            assert "in the same pass" in rows[-2]
            assert "8.0/10 GB  2.0 GB/s     1 s left".replace("8.0/10", "8/10") in rows[-1]
        next(build)
        above = unwrapped(FINAL[:2])
        screen.until(lambda rows: unwrapped(rows[:-2]) == above and "%" in rows[-2])
        assert list(build) == []
        shown.close()
        screen.read()
        rows = plain(screen.rows)
        assert unwrapped(rows) == unwrapped(FINAL)
        assert max(map(cell_len, rows)) <= width
        if width >= max(map(cell_len, FINAL)):
            assert rows == FINAL
        words = {word for line in FINAL for word in line.split() if cell_len(word) <= width - 8}
        assert words <= {word for row in rows for word in row.split()}  # none was cut in two
        assert screen.cursor == (0, min(len(rows), 23))


def test_resizing_leaves_nothing_behind(clock: Time) -> None:
    """Narrower, wider, lower, higher while steps run: each time the frame is right again."""
    with terminal(100, 24) as screen, shown_on(screen, clock) as shown:
        build = two_variants(clock, shown.show)
        next(build)
        screen.until(lambda rows: len(rows) == 4)
        for width, height in ((30, 24), (120, 24), (60, 3), (60, 24), (21, 8), (100, 24)):
            screen.resize(width, height)
            raw = len(screen.raw)
            screen.until(lambda rows, raw=raw: len(screen.raw) > raw)  # type: ignore[misc]
            rows = screen.until(lambda rows: rows[-1].lstrip()[:2] in ("80", "an"))
            assert [row[:6].strip() for row in rows if "%" in row][-3:][0] == "50%"
            assert sum("%" in row for row in rows) == (1 if height == 3 else 3)
        assert len(list(build)) == 1
        shown.close()
        screen.read()
        assert screen.rows[-3:] == FINAL[-3:]
        assert not any("%" in row for row in screen.rows)


def test_an_unchanged_frame_is_not_written_again(clock: Time) -> None:
    """No flicker: while nothing changes nothing is written, and never is a row erased first."""
    with terminal() as screen, shown_on(screen, clock) as shown:
        build = two_variants(clock, shown.show)
        next(build)
        screen.until(lambda rows: len(rows) == 4)
        screen.read(0.2)
        written = len(screen.raw)
        time.sleep(0.35)
        screen.read(0)
        assert len(screen.raw) == written
        clock.now += 1
        shown.show(StepProgress(2, "", 250_000_000, 400_000_000))
        screen.until(lambda rows: rows[1].startswith("   62%"))
        frame_ = screen.raw[written:].decode()
        assert frame_.index("62%") < frame_.index("\x1b[J")
        assert "\x1b[2J" not in frame_
        assert "\x1b[2K" not in frame_
        shown.close()


@pytest.mark.parametrize("colors", [True, False])
def test_colors_and_no_color(colors: bool, clock: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cached steps are dim, the total is bold; with NO_COLOR no line has a color or weight.

    The cursor is never hidden, so that there is nothing to restore after a kill.
    """
    if colors:
        monkeypatch.delenv("NO_COLOR", raising=False)
    else:
        monkeypatch.setenv("NO_COLOR", "1")
    with terminal() as screen, shown_on(screen, clock) as shown:
        build = two_variants(clock, shown.show)
        next(build)
        screen.until(lambda rows: len(rows) == 4)
        list(build)
        shown.close()
        screen.read()
        text = screen.raw.decode()
        assert ("\x1b[2mcached  system\x1b[0m" in text) == colors
        assert (f"\x1b[1m{SUMMARY}\x1b[0m" in text) == colors
        assert bool(re.search(r"\x1b\[[0-9;]*m", text)) == colors
        assert "\x1b[?25l" not in text


def test_short_steps_do_not_flash(clock: Time) -> None:
    """A step that is done at once never gets a row."""
    with terminal() as screen, shown_on(screen, clock) as shown:
        shown.show(StepStarted(1, "system", 1))
        time.sleep(0.25)
        shown.show(StepFinished(1, "system", False, 0.01, 14, "system"))
        shown.close()
        screen.read()
        assert screen.rows == ["done    system  14 B written"]
        assert screen.raw.count(b"system") == 1


def test_a_terminal_that_goes_away_ends_nothing(clock: Time) -> None:
    """The rows are lost; the build goes on."""
    with terminal() as screen, shown_on(screen, clock) as shown:
        build = two_variants(clock, shown.show)
        next(build)
        os.close(screen.master)
        next(build)
        shown.close()


# --- real builds -----------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a Modelfile over a small GGUF file."""
    (tmp_path / "Modelfile").write_text("FROM ./model.gguf\nSYSTEM You are Mario.\n")
    tiny_gguf(tmp_path / "model.gguf")
    return tmp_path


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Variables for a program in a terminal."""
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TERM")}
    return {**kept, "OLLAMA_MODELS": str(folder / "store"), **more}


def test_a_build_with_nothing_to_do_loads_nothing(project: Path) -> None:
    """On a terminal too: none of rich and the engine's heavy modules; its rows and its total."""
    code = (
        "import sys; from mbuild.cli.main import run; run(['-t', 'mario']);"
        "print([m for m in ('rich', 'networkx', 'lark', 'numpy',"
        " 'mbuild.cli.live') if m in sys.modules])"
    )
    for cached in (False, True):
        with program(["-c", code], project, environment(project)) as (screen, process):
            assert finished(screen, process) == 0
            rows = screen.rows
            assert rows[0] == f"{'cached' if cached else 'done  '}  import model.gguf" or not cached
            assert any(row.startswith("model   mario:latest  ") for row in rows)
            assert f"{0 if cached else 6} steps run" in rows[-2]
            assert (rows[-1] == "[]") == cached


def test_ctrl_c_leaves_a_clean_terminal(tmp_path: Path) -> None:
    """The rows are gone, the cursor stands below what is said, visible; nothing is left behind."""
    write_chat(tmp_path / "chat", WIDTH=1024, HIDDEN=2816, LAYERS=8, HEADS=16)
    (tmp_path / "Modelfile").write_text("FROM ./chat\n")
    build = ["-m", "mbuild", "-t", "m", "-q", "q4_K_M", "-q", "q5_K_M"]
    with program(build, tmp_path, environment(tmp_path), 70) as (screen, process):
        rows = screen.until(lambda rows: any("%" in row for row in rows))
        assert any(re.match(r" +\d+%  quantize.* Q4_K_M", row) for row in rows), rows
        os.write(screen.master, b"\x03")
        assert finished(screen, process) == 130
        rows = [row for row in screen.rows if "quantizers" not in row]  # compiled, once a machine
        said = r"interrupted: no model was changed(; \d\S* [KM]?B of finished work kept)?"
        assert re.fullmatch(said, rows[-1]), screen.raw[-400:]
        finished_steps = [row for row in rows[:-1] if row.startswith("done ")]
        assert rows[:-1] in (finished_steps, [*finished_steps, ""]), rows
        assert screen.cursor == (0, len(screen.rows))
        assert b"\x1b[?25l" not in screen.raw
    manifests = tmp_path / "store" / "manifests"
    assert not [path for path in manifests.rglob("*") if path.is_file()]


@pytest.mark.parametrize("term", ["dumb", "", "pipe"])
def test_no_control_characters_where_none_are_understood(
    term: str, project: Path, mbuild: Run
) -> None:
    """TERM=dumb, no TERM, and a pipe: plain lines in Ollama's words."""
    if term == "pipe":
        text = mbuild("-t", "mario").stderr
    else:
        variables = environment(project, TERM=term)
        with program(["-m", "mbuild", "-t", "mario"], project, variables) as (screen, process):
            assert finished(screen, process) == 0
            text = screen.raw.decode().replace("\r\n", "\n")
    assert "creating new layer sha256:" in text
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)


HALF = """
import itertools, pathlib, sys, time
from mbuild.build.steps import making

quantize, calls = making.quantize, itertools.count()

def quantizing(*arguments, **options):
    while next(calls) >= 16 and not pathlib.Path("go").exists():
        time.sleep(0.02)
    return quantize(*arguments, **options)

making.quantize = quantizing
from mbuild.cli.main import run
sys.exit(run(sys.argv[1:]))
"""
"""A build that stops half-way until the file ``go`` is there."""


@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
def test_a_terminal_that_folds_lines_anew(tmp_path: Path) -> None:
    """tmux folds the rows when it becomes narrower: they are erased all the same."""
    write_chat(tmp_path / "chat")
    (tmp_path / "Modelfile").write_text("FROM ./chat\n")
    (tmp_path / "half.py").write_text(HALF)
    prepare(
        [GGMLType.IQ4_NL, GGMLType.Q5_K, GGMLType.Q6_K, GGMLType.Q8_0], weighted=False
    )  # compiled by now
    tmux = ["tmux", "-S", str(tmp_path / "tmux")]

    def ask(*arguments: str) -> str:
        command = [*tmux, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def rows() -> list[str]:
        shown = ask("capture-pane", "-p", "-S", "-").splitlines()
        return [row for row in shown if row and not row.isdecimal()]

    # tmux moves rows at the top of its screen into the history when it folds them.
    command = f"seq 15; {sys.executable} half.py -t m -q iq4_nl -q q8_0; sleep 600"
    variables = environment(tmp_path, TERM="screen", NO_COLOR="1")
    size = ("-x", "110", "-y", "20")
    subprocess.run(
        [*tmux, "-f", "/dev/null", "new-session", "-d", *size, command],
        env=variables,
        cwd=tmp_path,
        check=True,
    )

    def until(fits: Callable[[list[str]], object]) -> list[str]:
        end = time.monotonic() + 120
        while not fits(shown := rows()):
            assert time.monotonic() < end, shown
            time.sleep(0.02)
        return shown

    def clean(shown: list[str]) -> bool:
        """Two rows live, and below the small steps that are done, whose rows may be folded."""
        folded = [before.startswith("done ") and len(before) == width for before in ["", *shown]]
        rest = [row for row, rests in zip(shown, folded, strict=False) if not rests]
        live = [row for row in rest if not re.match(r"done | {8}\S", row)]
        known = re.compile("%|quantizers|machine| {3}\\d+ s  detect")
        return sum("%" in row for row in shown) == 2 and all(map(known.search, live))

    try:
        for width in (110, 45, 200):
            ask("resize-window", "-x", str(width), "-y", "20")
            until(clean)
            time.sleep(0.3)  # some more rows are drawn
            until(clean)
        (tmp_path / "go").touch()
        shown = until(lambda shown: shown and shown[-1].startswith("built m:iq4_nl, m:q8_0 in "))
        assert not any("%" in row for row in shown), shown
        known = re.compile(r"done |cached |model |built |why |  +using |  +compiling | {8}written")
        assert [row for row in shown if not known.match(row)] == []
    finally:
        ask("kill-server")


def test_commands_that_read_a_lot_have_a_row_too(tmp_path: Path) -> None:
    """verify, export, import and diff: one row while they run, none when they are done."""
    code = (
        "import time\nfrom mbuild.cli.meter import meter\nwith meter('verifying') as show:\n"
        " for part in range(18):\n  show(part * 50_000_000, 1_000_000_000)\n  time.sleep(0.1)\n"
        "print('all good')"
    )
    with program(["-c", code], tmp_path, environment(tmp_path)) as (screen, process):
        rows = screen.until(lambda rows: any("left" in row for row in rows))
        assert re.match(r" +\d+%  verifying  .* 0\.\d/1\.0 GB .* s left$", rows[0])
        assert finished(screen, process) == 0
        assert screen.rows == ["all good"]


# --- logs, programs, and quiet ---------------------------------------------------------


def test_plain_tells_of_long_steps_now_and_then(
    clock: Time, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line every ten seconds about each step that takes longer, and one when it is done."""
    show = Plain(clock).show
    show(BuildStarted("m:latest", 2))
    show(StepStarted(1, "import a.gguf", 1))
    show(StepStarted(2, "import\x1b[2J b.gguf", 2))
    for tick in range(250):
        clock.now += 0.1
        show(StepProgress(1, "import a.gguf", (tick + 1) * 1_200_000, 1_200_000_000))
        if tick < 50:
            show(StepProgress(2, "import\x1b[2J b.gguf", tick, 0))
    show(StepFinished(1, "import a.gguf", False, 25.0, 250_000_000))
    show(StepFinished(2, "import\x1b[2J b.gguf", False, 5.0, 50))
    assert PLAIN_SECONDS == 10
    assert capsys.readouterr().err.splitlines() == [
        "import a.gguf: 10%, 0.1/1.2 GB, 12 MB/s, 1m30s left",
        "import a.gguf: 20%, 0.2/1.2 GB, 12 MB/s, 1m20s left",
        "import a.gguf: done, 25 s, 250 MB written",
    ]


def test_quiet_prints_ids_and_warnings(project: Path, mbuild: Run) -> None:
    """The id is that of the manifest, and alone on standard output; warnings are not hidden."""
    (project / "Modelfile").write_text("FROM ./model.gguf\nPARAMETER mirostat 1\n")
    done = mbuild("-t", "mario", "--quiet")
    assert re.fullmatch(r"sha256:[0-9a-f]{64}\n", done.stdout)
    assert done.stderr.startswith("warning: ")
    assert done.stderr.count("\n") == 1
    listed = json.loads(mbuild("list", "--json").stdout)
    assert [f"sha256:{row['id']}" for row in listed] == [done.stdout.strip()]


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (
            {"disk": 0.149, "hash": 0.559, "cores": 6.047},
            "waited 6.0 s for the cores, 0.6 s for the SHA-256 of what was written, "
            "0.1 s for the disk; more cores would help most",
        ),
        (
            {"disk": 0.0, "hash": 9.0, "cores": 1.0},
            "waited 9.0 s for the SHA-256 of what was written, 1.0 s for the cores, 0.0 s for the"
            " disk; one core digests one file, so that only --split would help",
        ),
        (
            {"disk": 9.0, "hash": 0.5, "cores": 1.0},
            "waited 9.0 s for the disk, 1.0 s for the cores, 0.5 s for the SHA-256 of what was"
            " written; a faster disk would help most",
        ),
        ({}, "waited for nothing: no weights were written"),
    ],
)
def test_what_a_build_waited_for(limits: dict[str, float], said: str) -> None:
    """The resource that was the limit for longest comes first, with what would help."""
    assert waited_for(limits) == said


def test_verbose_says_what_a_build_waited_for(project: Path, mbuild: Run) -> None:
    """After the last line, of a build that makes weights; the second one makes none."""
    write_chat(project / "chat")
    (project / "Modelfile").write_text("FROM ./chat\n")
    first, second = (mbuild("-t", "chat", "--verbose").stderr.splitlines() for _ in range(2))
    assert first[-2].startswith("built chat:latest")
    assert re.fullmatch(r"waited \d+\.\d s for .*(cores|--split|disk) would help.*", first[-1])
    assert second[-1] == "waited for nothing: no weights were written"
