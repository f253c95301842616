#!/usr/bin/env python3
"""SLURM's programs, as far as snakemake uses them: jobs are processes of this machine.

Called by the name of one of the programs; what is known of jobs lies in the folder $FAKE_SLURM. A file
`N.state` there says what becomes of job N; a file `hold` there keeps new jobs from starting.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

STATE = Path(os.environ["FAKE_SLURM"])


def sbatch(given: list[str]) -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for option in ("--job-name", "--output", "--comment", "--wrap", "-D"):
        parser.add_argument(option)
    options, _ = parser.parse_known_args(given)
    number = str(len(list(STATE.glob("*.json"))) + 1)
    job = {"name": options.job_name, "comment": options.comment, "call": given, "folder": options.D}
    if not (STATE / "hold").exists():
        kept = f"({options.wrap}) >{options.output.replace('%j', number)} 2>&1; echo $? >{STATE}/{number}.rc"
        started = subprocess.Popen(
            ["sh", "-c", kept],
            env={**os.environ, "SLURM_JOB_ID": number, "SLURM_CPUS_ON_NODE": "9"},
            cwd=options.D,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        job["pid"] = started.pid
    written = STATE / f"{number}.new"
    written.write_text(json.dumps(job))
    written.rename(STATE / f"{number}.json")
    print(number)


def squeue(given: list[str]) -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for option in ("--name", "--format", "--states"):
        parser.add_argument(option)
    options, _ = parser.parse_known_args(given)
    for path in sorted(STATE.glob("*.json")):
        job, state = json.loads(path.read_text()), state_of(path.stem)
        ended = state not in ("RUNNING", "PENDING")
        if options.name not in (None, job["name"]) or (ended and options.states != "all"):
            continue
        values = {"i": path.stem, "T": state, "N": "here", "r": "None"}
        values.update(k=job["comment"], Z=job["folder"])
        print("|".join(values[field.lstrip("%")] for field in options.format.split("|")))


def state_of(number: str) -> str:
    said, ended = STATE / f"{number}.state", STATE / f"{number}.rc"
    if said.exists():
        return said.read_text().strip()
    if ended.exists() and ended.read_text():
        return "COMPLETED" if ended.read_text().strip() == "0" else "FAILED"
    return "RUNNING"


def scancel(given: list[str]) -> None:
    (STATE / "scancel").open("a").write(" ".join(given) + "\n")
    for path in STATE.glob("*.json"):
        job = json.loads(path.read_text())
        if f"--name={job['name']}" in given or path.stem in given:
            (STATE / f"{path.stem}.state").write_text("CANCELLED")
            if "pid" in job:
                os.killpg(job["pid"], signal.SIGKILL)


def srun(given: list[str]) -> None:
    program = next(number for number, word in enumerate(given) if not word.startswith("-"))
    os.execvp(given[program], given[program:])


def scontrol(given: list[str]) -> None:
    print("Slurmctld(primary) at here is UP" if given == ["ping"] else "MinJobAge = 300 sec")


def sinfo(given: list[str]) -> None:
    print("main*|infinite|64000\ngpu|1:00:00|64000")


if __name__ == "__main__":
    name = Path(sys.argv[0]).name
    if name not in globals():
        sys.exit(1)  # sacct and others: this cluster has no accounting
    globals()[name](sys.argv[1:])
