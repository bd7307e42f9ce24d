"""Work shared by processes: results come in the order of the tasks, few tasks are under way at a time, and Ctrl-C ends all.

In: a function (state, task, beat) of a module, and tasks. The state is handed to each process once.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, TimeoutError
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Any

AHEAD = 4  # tasks under way for each process
WAIT_S = 0.2  # between two looks at how far the work is

_here: dict[str, Any] = {}  # of a worker


class Crew:
    """Processes that share the work; with one worker it is done in this process.

    Args:
        num_workers: at least 1.
        state: what every task needs.
    """

    def __init__(self, num_workers: int, state: Any) -> None:
        self._num_workers, self._state = num_workers, state
        self._pool: ProcessPoolExecutor | None = None
        self._done = 0

    def __enter__(self) -> "Crew":
        if self._num_workers > 1:
            # Forked where that is safe: a new interpreter imports torch again, which takes seconds.
            context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
            self._counter, self._stop = context.Value("q", 0), context.Value("b", 0)
            shared = (self._state, self._counter, self._stop, os.getpid())
            self._pool = ProcessPoolExecutor(self._num_workers, context, _begin, shared)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12, of threads that numpy keeps idle
                self._pool.submit(_nothing).result()  # now, before a progress bar has a thread
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._stop.value = 1
            self._pool.shutdown(wait=True, cancel_futures=True)

    def run(self, function: Callable[..., Any], tasks: Iterable[Any], show: Callable[[int], None]) -> Iterator[Any]:
        """The result of each task, in order.

        Args:
            function: called as function(state, task, beat); it calls beat with the amount of work done since the last time.
            show: called now and then with the work done in all.

        Raises:
            ValueError: a process was ended from outside.
        """
        self._done = 0
        if self._pool is None:
            for task in tasks:
                yield function(self._state, task, lambda amount: self._add(amount, show))
            return
        self._counter.value = 0
        futures: deque[Future[Any]] = deque()
        waiting = iter(tasks)
        try:
            while True:
                while len(futures) < AHEAD * self._num_workers and (task := next(waiting, None)) is not None:
                    futures.append(self._pool.submit(_work, function, task))
                if not futures:
                    return
                result = self._wait(futures.popleft(), show)
                show(self._counter.value)
                yield result
        except BrokenProcessPool:
            raise ValueError(
                f"one of {self._num_workers} worker processes was ended from outside, perhaps for want of memory; "
                "use fewer with --workers"
            ) from None
        finally:
            for future in futures:
                future.cancel()

    def _wait(self, future: "Future[Any]", show: Callable[[int], None]) -> Any:
        while True:
            try:
                return future.result(timeout=WAIT_S)
            except TimeoutError:
                if future.done():  # the task's own error
                    raise
                show(self._counter.value)

    def _add(self, amount: int, show: Callable[[int], None]) -> None:
        self._done += amount
        show(self._done)


def _begin(state: Any, counter: Any, stop: Any, parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    _here.update(state=state, counter=counter, stop=stop)


def _follow(parent: int) -> None:
    """End with the parent, also where that was killed."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _nothing() -> None:
    pass


def _work(function: Callable[..., Any], task: Any) -> Any:
    return function(_here["state"], task, _beat)


def _beat(amount: int) -> None:
    if _here["stop"].value:
        raise SystemExit("the work was stopped")
    with _here["counter"].get_lock():
        _here["counter"].value += amount
