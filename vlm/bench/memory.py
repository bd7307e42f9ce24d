"""Peak memory of one model's training step above its weights, measured in a process that does nothing else.

Run as `python -m vlm.bench.memory NAME DOCUMENTS LENGTH COMPRESSION`; prints MiB. It is how far the process's greatest resident
size lies above its size before the step, gradients included, so tens of MiB are noise. Read from /proc, so on Linux alone:
getrusage would give what the parent process had.
"""

import subprocess
import sys
from pathlib import Path

import torch


def peak_mib(name: str, num_documents: int, length: int, compression: float) -> float:
    """MiB that two training steps of the model called `name` take above its weights, on the CPU, in float32.

    Raises:
        ValueError: this is no Linux.
    """
    if not STATUS.exists():
        raise ValueError("peak memory is read from /proc, which this system has not; add --no-memory")
    command = [sys.executable, "-m", "vlm.bench.memory", name, str(num_documents), str(length), str(compression)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the memory of {name} could not be measured: {done.stderr.strip().splitlines()[-1]}")
    return float(done.stdout.split()[-1])


STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _resident_mib(field: str) -> float:
    """`VmRSS`: resident now; `VmHWM`: the most since the mark was reset."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def measure(name: str, num_documents: int, length: int, compression: float) -> float:
    """How far this process's greatest resident size in two steps lies above its size before."""
    from vlm.bench.models import Row, builders
    from vlm.bench.train import train_step

    torch.manual_seed(0)
    model = builders(compression)[name]().train()
    # A few tokens first: what the libraries load at their first call is no memory of the step.
    train_step(model, Row.random(1, 8, torch.device("cpu")), torch.float32)()
    step = train_step(model, Row.random(num_documents, length, torch.device("cpu")), torch.float32)
    before = _resident_mib("VmRSS")
    CLEAR.write_text("5")  # resets the mark
    step()
    step()
    return _resident_mib("VmHWM") - before


if __name__ == "__main__":
    print(measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))
