"""The steps' command lines say what the configuration says."""

import argparse
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trove_steps import encode_corpus, search
from trove_steps.arguments import (
    add_model_arguments,
    given_model_options,
    model_flags,
    model_options,
    shown_path,
)
from trove_steps.errors import TroveStepsError
from trove_steps.jobs import devices

PATH = {"model_name_or_path": "model"}
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
GIVEN = st.fixed_dictionaries(
    {},
    optional={
        "pooling": st.sampled_from(["mean", "first_token", "last_token"]),
        "normalize": st.booleans(),
        "query_max_len": st.integers(2, 10**6),
        "passage_max_len": st.integers(2, 10**6),
        "torch_dtype": st.sampled_from(["float32", "float16", "bfloat16"]),
        "append_eos": st.booleans(),
        "similarity": st.sampled_from(["dot", "cosine"]),
        "query_format": TEXT,
        "passage_format": TEXT,
        "trust_remote_code": st.booleans(),
        "pad_to_multiple_of": st.integers(1, 64),
    },
)


def parsed(flags: list[str], role: str) -> dict:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_model_arguments(parser, role)
    return given_model_options(parser.parse_args(["--model-name-or-path", "model", *flags]), role)


@pytest.mark.parametrize(("role", "other"), [("corpus", "query_"), ("queries", "passage_")])
@given(options=GIVEN)
def test_flags_bring_back_what_was_given(role, other, options):
    """Also texts that are empty, begin with a dash, or hold spaces, quotes and braces."""
    expected = {name: value for name, value in options.items() if not name.startswith(other)}
    assert parsed(model_flags({**PATH, **options}, role), role) == {**PATH, **expected}


@pytest.mark.parametrize("given", ["-5", "1.5", "many", "²", ""])
@pytest.mark.parametrize(
    ("step", "option"),
    [
        (search, "--per-device-matmul-batch-size"),
        (encode_corpus, "--per-device-eval-batch-size"),
        (encode_corpus, "--tokens-per-batch"),
    ],
)
def test_a_batch_size_is_a_whole_number(step, option, given, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["step", f"{option}={given}"])
    with pytest.raises(SystemExit):
        step.main()
    expected = f"argument {option}: '{given}' is not a batch size: give a whole number, 0 or more"
    assert expected in capsys.readouterr().err


def test_one_is_a_number_and_not_true():
    assert model_flags({"pad_to_multiple_of": 1, "normalize": True}, "corpus") == [
        "--normalize=true",
        "--pad-to-multiple-of=1",
    ]


@pytest.mark.parametrize("text", ["yes", "true", "True", "1"])
def test_switches_take_yes_and_true(text):
    assert parsed([f"--normalize={text}"], "corpus")["normalize"] is True
    assert parsed(["--normalize=no"], "corpus")["normalize"] is False


@pytest.mark.parametrize(
    "flag", ["--normalize=maybe", "--pooling=cls", "--passage-max-len=many", "--query-max-len=3"]
)
def test_bad_values_are_refused(flag, capsys):
    with pytest.raises((argparse.ArgumentError, SystemExit)):
        parsed([flag], "corpus")


def test_every_option_has_a_description_for_help():
    for role in ("corpus", "queries"):
        parser = argparse.ArgumentParser()
        add_model_arguments(parser, role)
        help_text = " ".join(parser.format_help().split())
        for name, option in model_options(role).items():
            assert option["description"][-1] == "."
            if name != "model_revision":
                assert f"--{name.replace('_', '-')}" in help_text
                assert " ".join(option["description"].split())[:30] in help_text


def run_program(program: str, **options) -> subprocess.CompletedProcess:
    """Run lines of Python in a process of their own."""
    command = [sys.executable, "-c", program]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, **options
    )


def test_a_mistake_ends_a_step_with_one_line():
    program = (
        "from trove_steps.arguments import run_step\n"
        "from trove_steps.errors import TroveStepsError\n"
        "def main():\n"
        "    raise TroveStepsError('corpus.jsonl:3: no _id')\n"
        "run_step(main)\n"
    )
    ended = run_program(program)
    assert ended.returncode == 1
    assert ended.stderr == "error: corpus.jsonl:3: no _id\n"
    assert issubclass(TroveStepsError, Exception)


def test_ctrl_c_ends_a_step_without_a_traceback_and_after_its_cleaning_up():
    program = (
        "import os, signal\n"
        "from trove_steps.arguments import run_step\n"
        "def main():\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "    finally:\n"
        "        print('clean')\n"
        "run_step(main)\n"
    )
    ended = run_program(program)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "clean\n", "")


def test_ctrl_c_while_the_command_is_still_being_imported():
    program = (
        "import sys\n"
        "class Impatient:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'trove_steps.commands.why':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Impatient())\n"
        "from trove_steps.cli import main\n"
        "sys.exit(main(['plan']))\n"
    )
    ended = run_program(program)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "\n")


def test_a_step_ends_without_taking_its_libraries_apart_and_all_it_said_is_out():
    program = (
        "import atexit, sys\n"
        "from trove_steps.arguments import run_step\n"
        "def main():\n"
        "    print('said')\n"
        "    print('logged', end='', file=sys.stderr)\n"
        "class Library:\n"
        "    def __del__(self):\n"
        "        print('taken apart')\n"
        "library = Library()\n"
        "atexit.register(print, 'good-bye')\n"
        "run_step(main)\n"
    )
    ended = run_program(
        program,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "said\ngood-bye\n", "logged")


def test_shown_path_is_the_one_that_a_person_knows(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "work").mkdir()
    corpus = tmp_path / "data" / "corpus.jsonl"
    corpus.write_text("")
    (tmp_path / "work" / "link").symlink_to(corpus)
    monkeypatch.chdir(tmp_path)
    assert shown_path(tmp_path / "work" / "link") == os.path.join("data", "corpus.jsonl")
    monkeypatch.chdir(tmp_path / "work")
    assert shown_path("link") == str(corpus)


# --- how many processes --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("visible", "count"),
    [
        ("", 0),
        ("-1", 0),
        ("0", 1),
        ("0,1,3", 3),
        (" 0 , 1", 2),
        ("0,-1,1", 1),
        ("GPU-8f2a,GPU-9", 2),
    ],
)
def test_cuda_visible_devices_decides(monkeypatch, visible, count):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    devices._count_installed.cache_clear()
    assert devices.count_gpus() == count
    assert devices.processes("auto") == max(1, count)
    assert devices.processes(3) == 3
    devices._count_installed.cache_clear()


@pytest.mark.parametrize(
    ("script", "count"),
    [
        ("echo 'GPU 0: H100 (UUID: GPU-1)'; echo 'GPU 1: H100 (UUID: GPU-2)'", 2),
        ("echo 'GPU 0: A100 (UUID: GPU-1)'; echo '  MIG 1g.5gb Device 0: (UUID: MIG-1)'", 1),
        ("echo 'NVIDIA-SMI has failed'; exit 9", 0),
    ],
)
def test_nvidia_smi_counts_otherwise(monkeypatch, tmp_path, script, count):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    devices._count_installed.cache_clear()
    assert devices.count_gpus() == count
    devices._count_installed.cache_clear()


def test_a_machine_without_nvidia_smi_runs_one_process(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    devices._count_installed.cache_clear()
    assert devices.processes("auto") == 1
    devices._count_installed.cache_clear()
