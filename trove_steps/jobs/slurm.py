"""A step on several nodes of a SLURM allocation: one launcher per node, which find each other.

Snakemake starts a step once, on the first node of the allocation. `spread` gives the srun command that
starts a launcher on every node; there `meet` tells torchrun who is first, and which network leads to it.
"""

import os
import re
import socket
import subprocess
import sys

from trove_steps.errors import TroveStepsError

PORT = "TROVE_STEPS_RENDEZVOUS_PORT"
PORTS = range(20000, 30000)  # below the ports that Linux gives to outgoing connections
ANSWER_SECONDS = 60
# All that a step inside an allocation needs to know of its surroundings. Whatever else an outer step or
# sbatch has set is a default for srun, and would shrink or multiply the step.
KEPT = ("SLURM_CONF", "SLURM_CLUSTER_NAME", "SLURM_JOB_ID")


def is_spread() -> bool:
    """Tell whether this process is a launcher that `spread` started."""
    return PORT in os.environ


def spread(nodes: int, threads: int | None) -> tuple[list[str], dict[str, str]] | None:
    """Return the srun command (to be followed by a program) and its environment.

    None, with a warning, where there is only one node: outside of an allocation, or in one of a single
    node. Raises TroveStepsError if SLURM can't be asked.
    """
    job = os.environ.get("SLURM_JOB_ID")
    given = _allocated_nodes(job) if job else 1
    if given < nodes:
        where = f"the allocation {job} has" if job else "without a SLURM allocation there is"
        print(f"warning: {where} {given} node(s), not {nodes}; going on with that", file=sys.stderr)
    if min(given, nodes) == 1:
        return None
    nodes = min(given, nodes)
    command = [
        "srun",
        "--overlap",  # a step that is there already (srun --pty bash) must not make this one wait
        f"--nodes={nodes}",
        f"--ntasks={nodes}",
        "--ntasks-per-node=1",
        "--mpi=none",
        "--kill-on-bad-exit=1",
        "--input=none",
    ]
    if threads:
        command.append(f"--cpus-per-task={threads}")  # not inherited since SLURM 22.05
    environment = {
        name: value
        for name, value in os.environ.items()
        if name in KEPT or not name.startswith(("SLURM_", "SRUN_", "SBATCH_"))
    }
    environment[PORT] = str(free_port(int(job)))
    return command, environment


def free_port(job: int) -> int:
    """Return a port of this host that nobody listens on; jobs with other numbers look elsewhere first."""
    for attempt in range(len(PORTS)):
        port = PORTS[(job * 7 + attempt) % len(PORTS)]
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise TroveStepsError(f"no port from {PORTS.start} to {PORTS.stop - 1} is free on this node")


def meet(processes: int) -> list[str]:
    """Return torchrun's flags for this node and its processes; point gloo to the network of the nodes."""
    hosts = host_names(os.environ.get("SLURM_STEP_NODELIST") or os.environ["SLURM_JOB_NODELIST"])
    number = int(os.environ["SLURM_NODEID"])
    peer = hosts[0] if number else hosts[-1]
    interface = interface_to(peer)
    if interface:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    print(
        f"node {number} of {len(hosts)} ({socket.gethostname()}): ranks {number * processes}–"
        f"{(number + 1) * processes - 1} of {len(hosts) * processes}, "
        f"meeting at {hosts[0]}:{os.environ[PORT]} through {interface or 'any network'}",
        file=sys.stderr,
    )
    return [
        f"--nnodes={len(hosts)}",
        f"--node-rank={number}",
        f"--master-addr={hosts[0]}",
        f"--master-port={os.environ[PORT]}",
    ]


def host_names(node_list: str) -> list[str]:
    """Return the nodes of a SLURM list like node[1-2,7], in order."""
    return ask("scontrol", "show", "hostnames", node_list).split()


def interface_to(host: str) -> str | None:
    """Return the name of the network interface that leads to a host, None if it can't be told.

    Many nodes have several networks, and on some the host's own name means the loopback.
    """
    import psutil

    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)  # sends nothing; it only picks a route
            own = probe.getsockname()[0]
    except OSError:
        return None
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address.partition("%")[0] == own for address in addresses):
            return name
    return None


def _allocated_nodes(job: str) -> int:
    described = ask("scontrol", "show", "job", job, "--oneliner")
    found = re.search(r"\bNumNodes=(\d+)", described)
    if not found:
        raise TroveStepsError(f"SLURM does not say how many nodes job {job} has: {described[:200]}")
    return int(found[1])


def ask(*command: str) -> str:
    """Return what one of SLURM's programs prints. Raises TroveStepsError if it fails."""
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TroveStepsError(
            f"{command[0]} can't be run on {socket.gethostname()} ({error})"
        ) from None
    if ended.returncode:
        raise TroveStepsError(f"{' '.join(command)}: {ended.stderr.strip()}")
    return ended.stdout
