"""What the ranks of a step need from each other: a shared counter, a barrier, gathering of arrays.

Work is handed out by a counter from which ranks claim numbers, so that fast and slow devices finish
together and no file name knows a rank. Arrays travel as tensors; nothing is pickled.
"""

import datetime
import os
import time
from contextlib import contextmanager

import numpy as np

from trove_steps.errors import TroveStepsError

TIMEOUT = datetime.timedelta(hours=2)  # a dead rank is noticed by torchrun long before
LAUNCHER_SECONDS = 30  # within which torchrun ends the ranks that a dead one left behind


class Comm:
    """One process on its own."""

    rank = 0
    world = 1
    one_node = True  # all ranks are on the same node

    def __init__(self):
        self._counters: dict[str, int] = {}

    def claim(self, counter: str, amount: int = 1) -> int:
        """Take the next `amount` numbers of a counter; return the first of them."""
        first = self._counters.get(counter, 0)
        self._counters[counter] = first + amount
        return first

    def barrier(self) -> None:
        """Wait until every rank is here."""

    def gather(self, array: np.ndarray) -> list[np.ndarray] | None:
        """Return the arrays of all ranks on rank 0, None elsewhere; they may differ in length."""
        return [array]

    def broadcast(self, number: int) -> int:
        """Return rank 0's number on every rank."""
        return number


@contextmanager
def _with_other_ranks():
    """Around talk with other ranks: if one has died, the launcher says so and ends this one too."""
    try:
        yield
    except RuntimeError as error:  # what torch.distributed and gloo raise
        time.sleep(LAUNCHER_SECONDS)
        reason = str(error).partition("\n")[0]
        raise TroveStepsError(
            f"lost another process of this step ({reason}); what was finished is kept: start again to go on"
        ) from error


class TorchComm(Comm):
    """The ranks that torchrun started, through torch.distributed (gloo)."""

    def __init__(self):
        import torch.distributed as dist

        dist.init_process_group("gloo", timeout=TIMEOUT)
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.one_node = int(os.environ.get("LOCAL_WORLD_SIZE", self.world)) == self.world
        self._store = dist.PrefixStore("claims", dist.distributed_c10d._get_default_store())

    @_with_other_ranks()
    def claim(self, counter: str, amount: int = 1) -> int:
        return self._store.add(counter, amount) - amount

    @_with_other_ranks()
    def barrier(self) -> None:
        import torch.distributed as dist

        dist.barrier()

    @_with_other_ranks()
    def gather(self, array: np.ndarray) -> list[np.ndarray] | None:
        import torch
        import torch.distributed as dist

        array = np.ascontiguousarray(array)
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world)]
        dist.all_gather(lengths, torch.tensor([len(array)]))
        if self.rank != 0:
            if len(array):
                dist.send(_as_bytes(array), dst=0)
            return None
        gathered = [array]
        for source in range(1, self.world):
            part = np.empty((int(lengths[source]), *array.shape[1:]), array.dtype)
            if len(part):
                dist.recv(_as_bytes(part), src=source)
            gathered.append(part)
        return gathered

    @_with_other_ranks()
    def broadcast(self, number: int) -> int:
        import torch
        import torch.distributed as dist

        tensor = torch.tensor([number], dtype=torch.int64)
        dist.broadcast(tensor, src=0)
        return int(tensor)


def _as_bytes(array: np.ndarray):
    import torch

    return torch.from_numpy(array.reshape(-1).view(np.uint8))


@contextmanager
def communicator():
    """Yield the Comm of this process: TorchComm under torchrun with several ranks, else Comm."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Comm()
        return
    import torch.distributed as dist

    comm = TorchComm()
    try:
        yield comm
    finally:
        dist.destroy_process_group()


def pick_device() -> str:
    """Return the device of this rank: its own GPU if there is one for each local rank, else "cpu".

    A GPU becomes the process's current one: what libraries allocate without naming a device lands there.
    """
    import torch

    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if torch.cuda.is_available() and local_rank < torch.cuda.device_count():
        torch.cuda.set_device(local_rank)
        return f"cuda:{local_rank}"
    return "cpu"


def share_cpu_threads() -> None:
    """Divide the threads that this job was given among its local ranks."""
    import torch

    local_world = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    given = int(os.environ.get("TROVE_STEPS_THREADS") or len(os.sched_getaffinity(0)))
    torch.set_num_threads(max(1, given // local_world))
