import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import get_worker_info

from data.workers import DeadWorker, Workers

pytestmark = pytest.mark.long
ROOT = Path(__file__).resolve().parents[2]


class Numbers:
    """0, 1, 2, ... dealt out to workers; each number with the threads that torch may use."""

    def __init__(self, last: int, pause_s: float = 0.0) -> None:
        self._last, self._pause_s = last, pause_s

    def __iter__(self) -> Iterator[tuple[int, int, np.ndarray]]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for number in range(first, self._last, step):
            time.sleep(self._pause_s)
            yield number, torch.get_num_threads(), np.array([number])


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_any_number_of_workers_gives_the_same_things_as_they_are(num_workers: int) -> None:
    given = list(Workers(Numbers(20), num_workers))
    assert [number for number, _, _ in given] == list(range(20))
    assert all(type(array) is np.ndarray for _, _, array in given)
    if num_workers:
        assert {threads for _, threads, _ in given} == {1}


def test_a_worker_that_is_killed_is_one_clear_line_where_its_batch_is_waited_for() -> None:
    before = signal.getsignal(signal.SIGCHLD)
    workers = Workers(Numbers(10**6, 0.01), 2)
    assert signal.getsignal(signal.SIGCHLD) == before
    next(workers)
    pid = workers.pids[1]
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.5)  # nothing is raised here, in the middle of a step
    start = time.monotonic()
    with pytest.raises(DeadWorker, match=rf"\(pid {pid}\) was ended by SIGKILL; .*memory.*--ckpt_path last") as error:
        list(workers)
    assert time.monotonic() - start < 60
    assert "\n" not in str(error.value)


def test_workers_of_a_thread_that_ends_live_on() -> None:
    made: list[Workers] = []
    thread = threading.Thread(target=lambda: made.append(Workers(Numbers(500, 0.002), 1)))
    thread.start()
    thread.join()
    assert len(list(made[0])) == 500


PARENT = """
import sys, time
sys.path.insert(0, {root!r})
from tests.data.test_workers import Numbers, Workers
workers = Workers(Numbers(10**9, {pause_s}), 2)
next(workers)
print(*workers.pids, flush=True)
time.sleep(600)
"""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("pause_s", [0.0, 1.0], ids=["waiting", "reading"])
def test_workers_end_with_the_process_that_is_killed(pause_s: float) -> None:
    code = PARENT.format(root=str(ROOT), pause_s=pause_s)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        assert all(map(is_running, pids))
        parent.kill()
    end = time.monotonic() + 3  # torch alone takes 5 s, or for ever
    while any(map(is_running, pids)) and time.monotonic() < end:
        time.sleep(0.02)
    assert not any(map(is_running, pids))
