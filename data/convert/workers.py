"""Work in several processes whose results come in order, however long each takes.

In: chunks, and a picklable function of one. Out: its results, chunk after chunk. A worker holds one chunk and then its result, so memory
is bounded and no pipe is full at both ends. A worker ends when its pipe closes, also after the main process was killed.
"""

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

Work = Callable[[list[Any]], list[Any]]


class Workers:
    """Processes that wait for work. Used as a context; with one worker everything happens in the main process."""

    def __init__(self, number: int) -> None:
        if number < 1:
            raise ValueError(f"at least 1 worker is needed, got {number}")
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        # Spawned, not forked: a fork would hold the other workers' pipes open, and the progress bar has a thread.
        context = multiprocessing.get_context("spawn")
        for _ in range(number if number > 1 else 0):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def map(self, work: Work, chunks: Iterable[list[Any]]) -> Iterator[list[Any]]:
        """The results of each chunk, in the order of the chunks.

        Raises:
            ValueError: a worker died.
            Exception: whatever `work` raises.
        """
        if not self._pipes:
            yield from map(work, chunks)
            return
        source, waiting = iter(chunks), deque[int]()
        for number in range(len(self._pipes)):
            if (chunk := next(source, None)) is not None:
                self._send(number, (work, chunk))
                waiting.append(number)
        while waiting:
            number = waiting.popleft()
            result = self._receive(number)
            if (chunk := next(source, None)) is not None:
                self._send(number, (work, chunk))
                waiting.append(number)
            if isinstance(result, BaseException):
                raise result
            yield result

    def _send(self, number: int, message: object) -> None:
        try:
            self._pipes[number].send(message)
        except (BrokenPipeError, ConnectionResetError):
            raise self._death(number) from None

    def _receive(self, number: int) -> Any:
        try:
            return self._pipes[number].recv()
        except (EOFError, ConnectionResetError):
            raise self._death(number) from None

    def _death(self, number: int) -> ValueError:
        self._processes[number].join(5)
        code = self._processes[number].exitcode
        how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with code {code}"
        return ValueError(
            f"a worker {how}; if memory was short, use fewer --workers; the same command goes on from here"
        )

    def __enter__(self) -> "Workers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(0 if error else 5)
            if process.is_alive():
                process.kill()
                process.join()
            process.close()


def _serve(pipe: Connection) -> None:
    """A worker's life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the main process ends the others
    while True:
        try:
            work, chunk = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            result: Any = work(chunk)
        except Exception as error:
            result = error
        try:
            pipe.send(result)
        except (BrokenPipeError, ConnectionResetError):
            return
