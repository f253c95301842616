"""Snakemake's jobs as Kubernetes Jobs, through kubectl: what profiles/kubernetes calls.

python -m trove_steps.pods submit --image I --volume CLAIM:PATH … SCRIPT   prints the Job's name
python -m trove_steps.pods status NAME                                      running, success or failed
python -m trove_steps.pods cancel NAME…
"""

import argparse
import json
import os
import re
import subprocess
import sys
import uuid

from trove_steps.errors import TroveStepsError

# What asking again does not mend; a server that is away for a while is something else.
LASTING = re.compile(
    r"^kubectl (?:can't be run|\w+: error:)|\((?:Forbidden|Unauthorized|BadRequest|Invalid)\)"
)
ENVIRONMENT = ("PATH", "PYTHONPATH", "HF_HOME", "HF_HUB_CACHE", "HOME")


def job_manifest(arguments: argparse.Namespace, name: str) -> dict:
    """Return the Kubernetes Job that runs a script of snakemake's in one pod."""
    claim, _, path = arguments.volume.partition(":")
    asked = {"cpu": str(arguments.cpus), "memory": f"{arguments.memory_mb}M"}
    limits = {"memory": asked["memory"]}
    if arguments.gpus:
        limits["nvidia.com/gpu"] = str(arguments.gpus)
    container = {
        "name": "step",
        "image": arguments.image,
        "command": ["sh", os.path.abspath(arguments.script)],
        "workingDir": os.getcwd(),
        "env": [
            {"name": name, "value": os.environ[name]} for name in ENVIRONMENT if name in os.environ
        ],
        "resources": {"requests": asked, "limits": limits},
        "volumeMounts": [{"name": "shared", "mountPath": path}],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": {"app": "trove-steps"}},
        "spec": {
            "backoffLimit": 0,  # snakemake tries again, with more memory
            "activeDeadlineSeconds": 60 * arguments.minutes,
            "ttlSecondsAfterFinished": 24 * 3600,
            "template": {
                "spec": {
                    "restartPolicy": "Never",
                    "containers": [container],
                    "volumes": [{"name": "shared", "persistentVolumeClaim": {"claimName": claim}}],
                }
            },
        },
    }


def submit(arguments: argparse.Namespace) -> None:
    """Create the Job and print its name."""
    name = f"trove-steps-{uuid.uuid4().hex[:12]}"
    _kubectl(arguments, "create", "-f", "-", given=json.dumps(job_manifest(arguments, name)))
    print(name)


def status(arguments: argparse.Namespace) -> None:
    """Print the state of a Job; one that is gone has failed.

    Raises TroveStepsError if kubectl can't tell and never will; a server that doesn't answer says nothing
    about the job.
    """
    try:
        described = json.loads(_kubectl(arguments, "get", "job", arguments.name, "-o", "json"))
    except TroveStepsError as error:
        if LASTING.search(str(error)):
            raise
        print("failed" if "(NotFound)" in str(error) else "running")
        return
    state = described.get("status", {})
    print("success" if state.get("succeeded") else "failed" if state.get("failed") else "running")


def cancel(arguments: argparse.Namespace) -> None:
    """Delete Jobs and their pods."""
    _kubectl(arguments, "delete", "job", "--ignore-not-found", "--wait=false", *arguments.names)


def _kubectl(arguments: argparse.Namespace, *command: str, given: str = "") -> str:
    try:
        ended = subprocess.run(
            ["kubectl", "--namespace", arguments.namespace, *command],
            input=given,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        raise TroveStepsError(f"kubectl can't be run ({error}): is it installed?") from None
    if ended.returncode:
        raise TroveStepsError(f"kubectl {command[0]}: {ended.stderr.strip()}")
    return ended.stdout


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m trove_steps.pods",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True)
    for action in (submit, status, cancel):
        command = commands.add_parser(action.__name__)
        command.add_argument("--namespace", default="default")
        command.set_defaults(run=action)
        if action is submit:
            command.add_argument("--image", required=True)
            command.add_argument("--volume", required=True, metavar="CLAIM:PATH")
            for option in ("--cpus", "--memory-mb", "--gpus", "--minutes"):
                command.add_argument(option, type=int, required=True)
            command.add_argument("script")
        elif action is status:
            command.add_argument("name")
        else:
            command.add_argument("names", nargs="+")
    arguments = parser.parse_args()
    try:
        arguments.run(arguments)
    except TroveStepsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
