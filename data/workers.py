"""Processes that read and decode beside the training process, and what becomes of them when one of the two dies.

In: a stream of parcels. Out: the same parcels, in the same order, however many workers make them.
A worker has one thread and ends with the process that started it, also if that is killed. Of a worker that dies the training
process says one line, the next time it waits for a batch, instead of torch's page in the middle of a step.
"""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

PREFETCH = 2  # batches read ahead by each worker
PR_SET_PDEATHSIG = 1  # prctl(2): the signal that a process gets when the thread that started it ends


class DeadWorker(ValueError):
    """A process that reads data ended before its time."""


class Workers:
    """Iterates over a stream in processes; iterates once.

    Args:
        stream: made in each worker; gives those parcels that are the worker's (by `torch.utils.data.get_worker_info`).
        num_workers: processes; 0 reads in this one.
    """

    def __init__(self, stream: Iterable[Any], num_workers: int) -> None:
        options: dict[str, Any] = {}
        if num_workers:
            in_main = threading.current_thread() is threading.main_thread()
            start = partial(_begin_worker, parent=os.getpid() if in_main else None)
            options = {"prefetch_factor": PREFETCH, "persistent_workers": True, "worker_init_fn": start}
        pin = torch.cuda.is_available()
        # torch's own conversion would make tensors of all arrays.
        loader = DataLoader(
            _Stream(stream), batch_size=None, collate_fn=_as_it_is, num_workers=num_workers, pin_memory=pin, **options
        )
        self._iterator = _quietly(lambda: iter(loader)) if num_workers else iter(loader)

    @property
    def pids(self) -> list[int]:
        """The processes."""
        return [worker.pid for worker in getattr(self._iterator, "_workers", [])]

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            return next(self._iterator)
        except RuntimeError as error:
            dead = [worker for worker in getattr(self._iterator, "_workers", []) if worker.exitcode not in (None, 0)]
            if not dead:
                raise
            how = _how_ended(dead[0].exitcode)
            raise DeadWorker(
                f"a process that reads data (pid {dead[0].pid}) {how}; go on from the last checkpoint (--ckpt_path last), with "
                f"a smaller data.num_workers if memory ran out"
            ) from error


def _as_it_is(parcel: Any) -> Any:
    return parcel


def _how_ended(exitcode: int) -> str:
    if exitcode >= 0:
        return f"ended with exit code {exitcode}"
    killed = "; the system does that to processes when memory runs out" if exitcode == -signal.SIGKILL else ""
    return f"was ended by {signal.Signals(-exitcode).name}{killed}"


class _Stream(IterableDataset):
    """A stream, in the form in which torch sends it to workers."""

    def __init__(self, stream: Iterable[Any]) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[Any]:
        return iter(self._stream)


def _quietly(start: Callable[[], Any]) -> Any:
    """Start workers without torch's handler, which raises in whatever the main thread does when one of them dies."""
    if threading.current_thread() is not threading.main_thread():
        return start()
    before = signal.getsignal(signal.SIGCHLD)
    try:
        return start()
    finally:
        signal.signal(signal.SIGCHLD, before)


def _begin_worker(worker: int, parent: int | None) -> None:
    torch.set_num_threads(1)  # a worker shares the machine with the training process and other workers
    if parent is not None and sys.platform == "linux":
        # torch's own watch looks every 5 s, and only while the worker has nothing to do.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended in the meantime
            os._exit(1)
