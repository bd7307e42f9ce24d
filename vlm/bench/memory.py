"""Peak memory of one model's training step above its weights, measured in a process that does nothing else.

Run as `python -m vlm.bench.memory NAME DOCUMENTS LENGTH COMPRESSION`; prints MiB. On a CPU it is the growth of the process's
greatest resident size, so tens of MiB are noise.
"""

import resource
import subprocess
import sys

import torch


def peak_mib(name: str, num_documents: int, length: int, compression: float) -> float:
    """MiB that two training steps of the model called `name` take above its weights, on the CPU, in float32."""
    command = [sys.executable, "-m", "vlm.bench.memory", name, str(num_documents), str(length), str(compression)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the memory of {name} could not be measured: {done.stderr.strip().splitlines()[-1]}")
    return float(done.stdout.split()[-1])


def _resident_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(name: str, num_documents: int, length: int, compression: float) -> float:
    """What this process's greatest resident size grows by in two steps."""
    from vlm.bench.models import Row, builders
    from vlm.bench.train import train_step

    torch.manual_seed(0)
    model = builders(compression)[name]().train()
    # A few tokens first: what the libraries load at their first call is no memory of the step.
    train_step(model, Row.random(1, 8, torch.device("cpu")), torch.float32)()
    weights = _resident_mib()
    step = train_step(model, Row.random(num_documents, length, torch.device("cpu")), torch.float32)
    step()
    step()
    return _resident_mib() - weights


if __name__ == "__main__":
    print(measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))
