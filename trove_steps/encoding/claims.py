"""Several jobs that encode one corpus together, without talking to each other.

A text belongs to one of a fixed number of blocks by its key, so that all jobs cut the corpus alike,
whatever each of them found in the store when it began. A block is worked on by the process that holds its
claim: a file in a folder beside the manifest.

    corpus-{texts}.claims/{blocks}/{block}.0      held by a process, which touches it again and again
    corpus-{texts}.claims/{blocks}/{block}.1      held by its heir; the last one counts
    corpus-{texts}.claims/{blocks}/{block}.done   its vectors are in the store
    corpus-{texts}.claims/round                   a name for what the jobs do together

Claims are made with link(), which is atomic on NFS too; no file locks are needed, and no clock but the
file server's. A claim that was not touched for EXPIRY_SECONDS is that of a process that was killed, and is
inherited: only one of several heirs can make the next claim. Should two processes work on one block all
the same, its vectors are written twice, which costs time only.
"""

import contextlib
import itertools
import os
import shutil
import signal
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

BLOCKS_PER_JOB = 32
EXPIRY_SECONDS = 120.0
BEAT_SECONDS = 15.0


class Claims:
    """The claims of the jobs that share one corpus."""

    def __init__(self, manifest: Path, jobs: int):
        self.blocks = 1 << (jobs * BLOCKS_PER_JOB - 1).bit_length()
        self.manifest = Path(manifest)
        self.directory = _root(self.manifest) / str(self.blocks)
        self._own: dict[int, Path] = {}

    def block_of(self, keys: np.ndarray) -> np.ndarray:
        """Return the block int64[n] of text keys uint8[n, 16]."""
        high = np.ascontiguousarray(keys[:, :4]).view(">u4").reshape(-1).astype(np.int64)
        return high % self.blocks

    def round(self) -> str:
        """Return a name that all jobs have in common that encode the corpus until its manifest is there.

        Empty if the last of them removes the claims at this moment.
        """
        path = _root(self.manifest) / "round"
        try:
            self._create(path)
            return path.read_text().split()[0]
        except (OSError, IndexError):
            return ""

    def done(self) -> set[int]:
        """Return the blocks whose vectors are in the store, by the marks that jobs left."""
        return {int(path.stem) for path in self.directory.glob("*.done")}

    def reopen(self, blocks) -> None:
        """Forget that blocks are done: some of their vectors are gone from the store."""
        for block in blocks:
            self._mark(block).unlink(missing_ok=True)
            for claim in reversed(self._claims(block)):
                claim.unlink(missing_ok=True)

    def is_done(self, block: int) -> bool:
        """Tell whether a block's vectors are in the store."""
        return self._mark(block).exists() or self.manifest.exists()

    def take(self, block: int) -> str | None:
        """Try to claim a block: "new", "inherited" from a process that ended before it, or None."""
        if self._create(self._claim(block, 0)):
            self._own[block] = self._claim(block, 0)
            return "new"
        earlier = self._claims(block)
        heir = self._claim(block, len(earlier))
        if earlier and self._is_expired(earlier[-1]) and self._create(heir):
            self._own[block] = heir
            return "inherited"
        return None

    @contextlib.contextmanager
    def held(self, block: int) -> Iterator[None]:
        """Keep a claim fresh; at the end mark the block as done.

        On an exception, and on a signal that ends this process, give it back: the others need not wait
        until it has expired. Only SIGKILL leaves a claim behind.
        """
        claim = self._own.pop(block)
        stop = threading.Event()
        given_back = False

        def beat() -> None:
            while not stop.wait(BEAT_SECONDS):
                with contextlib.suppress(OSError):
                    if not given_back:
                        os.utime(claim)

        def give_back() -> None:
            # Without a lock: a second signal may come while one is acted upon, in the same thread.
            nonlocal given_back
            given_back = True
            with contextlib.suppress(OSError):
                os.utime(claim, (0, 0))

        thread = threading.Thread(target=beat, name="claim", daemon=True)
        thread.start()
        try:
            with _before_end(give_back):
                yield
                self._create(self._mark(block))
        except BaseException:
            give_back()
            raise
        finally:
            stop.set()
            thread.join()

    def _claims(self, block: int) -> list[Path]:
        """Return the claims on a block, oldest first."""
        claims = (self._claim(block, number) for number in itertools.count())
        return list(itertools.takewhile(Path.exists, claims))

    def _claim(self, block: int, number: int) -> Path:
        return self.directory / f"{block:06d}.{number}"

    def _mark(self, block: int) -> Path:
        return self.directory / f"{block:06d}.done"

    def _create(self, path: Path) -> bool:
        """Create a file that says whose it is; False if it exists."""
        self.directory.mkdir(parents=True, exist_ok=True)
        own = self.directory / f".{uuid.uuid4().hex}"
        own.write_text(
            f"{own.name[1:]} {socket.gethostname()} {os.getpid()} {os.environ.get('SLURM_JOB_ID', '')}\n"
        )
        try:
            with contextlib.suppress(OSError):
                os.link(own, path)
            # NFS may report a link that it made as failed: the count of links does not lie.
            return own.stat().st_nlink == 2
        finally:
            own.unlink(missing_ok=True)

    def _is_expired(self, claim: Path) -> bool:
        try:
            return self._now() - claim.stat().st_mtime >= EXPIRY_SECONDS
        except OSError:
            return False  # reopened at this moment

    def _now(self) -> float:
        """Return the file server's time."""
        probe = self.directory / f".{uuid.uuid4().hex}"
        probe.touch()
        try:
            return probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)


@contextlib.contextmanager
def _before_end(act: Callable[[], None]) -> Iterator[None]:
    """Call `act()` when a signal ends this process, before it does; a second signal may call it once more."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def end(number: int, _frame) -> None:
        act()
        signal.signal(number, handlers[number])
        signal.raise_signal(number)

    taken = [
        number for number, handler in handlers.items() if handler not in (signal.SIG_IGN, None)
    ]
    for number in taken:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, handlers[number])


def remove_claims(manifest: Path) -> None:
    """Remove all claims on a corpus: its manifest is there, and says the same."""
    shutil.rmtree(_root(manifest), ignore_errors=True)


def _root(manifest: Path) -> Path:
    return Path(manifest).with_suffix(".claims")


def finished(claims: Claims, keys: np.ndarray, sizes: np.ndarray) -> Callable[[], int]:
    """Return a function that says how much of `sizes` int64[n], one for each of `keys` uint8[n, 16], is in
    blocks that are done, whoever did them."""
    by_block = np.bincount(claims.block_of(keys), sizes, claims.blocks)
    return lambda: int(by_block[list(claims.done())].sum())
