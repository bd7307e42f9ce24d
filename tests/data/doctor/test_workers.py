import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data.doctor.workers import Crew

SLOW = """
import sys, time
from data.doctor.workers import Crew
sys.path.insert(0, {tests!r})
from work_of_a_crew import wait_long
if __name__ == "__main__":
    with Crew(2, None) as crew:
        print("ready", flush=True)
        for _ in crew.run(wait_long, range(100), lambda done: None):
            pass
"""


def square(state: int, task: int, beat) -> int:
    if task % 3 == 0:
        time.sleep(0.01)  # so that tasks end in another order than they began
    beat(1)
    return state + task**2


def end(state: int, task: int, beat) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail(state: int, task: int, beat) -> None:
    raise TimeoutError("the task's own")


@pytest.mark.parametrize("num_workers", [1, 3])
def test_results_come_in_the_order_of_the_tasks(num_workers: int) -> None:
    shown: list[int] = []
    with Crew(num_workers, 7) as crew:
        assert list(crew.run(square, range(40), shown.append)) == [7 + task**2 for task in range(40)]
        assert list(crew.run(square, range(3), shown.append)) == [7, 8, 11]
    assert max(shown) == 40
    assert shown[-1] == 3


def test_a_worker_that_is_killed_is_an_error_and_no_hang() -> None:
    with Crew(2, 0) as crew, pytest.raises(ValueError, match=r"ended from outside.*--workers"):
        list(crew.run(end, range(4), lambda done: None))


def test_a_tasks_own_error_is_raised_here() -> None:
    with Crew(2, 0) as crew, pytest.raises(TimeoutError, match="own"):
        list(crew.run(fail, range(4), lambda done: None))


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_its_parent(tmp_path: Path, number: int) -> None:
    (tmp_path / "work_of_a_crew.py").write_text(
        "import os, time\n"
        "def wait_long(state, task, beat):\n"
        f"    open({str(tmp_path)!r} + f'/{{os.getpid()}}.pid', 'w').close()\n"
        "    for _ in range(600):\n        time.sleep(0.05)\n        beat(1)\n"
    )
    script = tmp_path / "run.py"
    script.write_text(SLOW.format(tests=str(tmp_path)))
    running = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert running.stdout is not None
    assert running.stdout.readline() == b"ready\n"
    while len(pids := [int(file.stem) for file in tmp_path.glob("*.pid")]) < 2:
        time.sleep(0.05)
    running.send_signal(number)
    running.communicate(timeout=30)
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, "a worker is still there"
        time.sleep(0.1)
