"""The live view on a real terminal: what people see while snakemake runs, and what goes into files."""

import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import termios
import time

import psutil
import pytest

from tests.conftest import make_dataset

WIDTH = 80
BAR = re.compile(r"encode_corpus [\w/]+: .*\d% · \S+/\S+ characters")
CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A program with a terminal of its own; standard output may go to a file instead."""

    def __init__(self, command: list[str], stdout=None, **options):
        self.fd, screen = os.openpty()
        fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", 24, WIDTH, 0, 0))
        self.sent = ""
        self.process = subprocess.Popen(
            command,
            stdin=screen,
            stdout=stdout or screen,
            stderr=screen,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            **options,
        )
        os.close(screen)

    @property
    def seen(self) -> str:
        """All that was ever shown."""
        return CODES.sub("", self.sent)

    def read(self, until=lambda: False, seconds: float = 400) -> None:
        """Take what the screen is sent, until a condition holds or the program ends."""
        end = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < end, f"not within {seconds} s:\n{self.seen}"
            if not select.select([self.fd], [], [], 1)[0]:
                continue
            try:
                block = os.read(self.fd, 65536).decode(errors="replace")
            except OSError:  # how Linux tells that the last program has closed the terminal
                break
            self.sent += block

    def runs(self, step: str) -> bool:
        """Tell whether a step has been started by its launcher."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        commands = [" ".join(cmdline_of(child)) for child in children]
        return any(f"-m {step}" in line and "torchrun" not in line for line in commands)

    def lines(self) -> list[str]:
        """Return what stands on the screen, as far as the view moves and erases there."""
        lines, row = [""], 0
        for code in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", self.sent):
            if code == "\n":
                row += 1
                lines += [""] * (row + 1 - len(lines))
            elif code == "\x1b[2K":
                lines[row] = ""
            elif up := re.fullmatch(r"\x1b\[(\d*)A", code):
                row -= int(up[1] or 1)
            elif code[0] not in "\r\x1b":
                lines[row] += code
        return lines

    def press(self, key: bytes) -> None:
        os.write(self.fd, key)

    def end(self, seconds: float = 400) -> int:
        """Wait for the end; return the exit status."""
        self.read(seconds=seconds)
        os.close(self.fd)
        return self.process.wait(seconds)


def cmdline_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.fixture
def start(workflow):
    """Start snakemake on a terminal; stop what a failed test leaves."""
    make_dataset(workflow.folder / "data", documents=5000)
    started = []

    def start(*arguments, **options) -> Terminal:
        environment = workflow.environment()
        del environment["COLUMNS"]
        command = workflow.command(*arguments)
        terminal = Terminal(command, cwd=workflow.folder, env=environment, **options)
        started.append(terminal.process)
        return terminal

    start.folder, start.config = workflow.folder, workflow.config
    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def left_behind(folder) -> list:
    return list((folder / ".snakemake").glob("progress-*"))


def test_bars_on_the_terminal_and_results_in_a_file(start):
    """`snakemake > out.txt`: lines and table are in the file, whole; bars and messages are on the screen."""
    with open(start.folder / "out.txt", "w") as file:
        terminal = start("evaluate", "--config", "nproc_per_node=2", stdout=file)
        assert terminal.end() == 0
    written = (start.folder / "out.txt").read_text()
    for line in (
        "encode corpus: 5,000 texts",
        "search: 12 queries",
        "score tiny/bert: ",
        "\ntiny ",
    ):
        assert written.count(line) == 1, line
    assert "\x1b" not in written
    assert max(map(len, written.splitlines())) > WIDTH, "no line is broken at the terminal's width"
    assert BAR.search(terminal.seen)
    assert "encode_corpus tiny/bert: " in terminal.seen
    assert "5,000 texts" not in terminal.seen
    assert not left_behind(start.folder)


def test_ctrl_c_leaves_a_clean_screen_and_the_next_run_goes_on(start):
    terminal = start("evaluate")
    terminal.read(until=lambda: terminal.runs("trove_steps.encode_corpus"))
    terminal.press(b"\x03")
    assert terminal.end() != 0
    assert "Traceback" not in terminal.seen, terminal.seen
    lines = terminal.lines()
    assert any("Terminating processes on user request" in line for line in lines)
    assert not any("jobs done" in line for line in lines)
    assert not left_behind(start.folder)

    terminal = start("evaluate")
    assert terminal.end() == 0
    lines = terminal.lines()
    for step in ("encode corpus", "search", "score tiny/bert"):
        assert sum(line.startswith(f"{step}: ") for line in lines) == 1, step
    table = next(n for n, line in enumerate(lines) if line.startswith("tiny "))
    assert table > next(n for n, line in enumerate(lines) if line.startswith("score "))
    assert not any("jobs done" in line for line in lines)


def test_a_failure_and_a_quiet_run(start):
    corpus = start.folder / "data" / "corpus.jsonl"
    good = corpus.read_text()
    # Enough of it that the view is there before the mistake is.
    copies = [good.replace('"_id": "', f'"_id": "{number}-') for number in range(60)]
    corpus.write_text("".join(copies) + '{"_id": "cut off\n')
    terminal = start("check")
    assert terminal.end() == 1
    lines = terminal.lines()
    assert any("corpus.jsonl:300001: " in line for line in lines)
    assert "jobs done" in terminal.seen
    assert not any("jobs done" in line for line in lines)
    assert "Traceback" not in terminal.seen
    assert not left_behind(start.folder)

    corpus.write_text(good)
    terminal = start("check", "--quiet")
    assert terminal.end() == 0
    assert sum(line.startswith("check tiny: 5,000 documents") for line in terminal.lines()) == 1
    assert "jobs done" not in terminal.seen
    assert "check_data" not in terminal.seen
