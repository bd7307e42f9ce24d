"""Run a command and note what it took: `python -m vlm.encoder_comparison.launch NOTE COMMAND ...`.

A small process of its own, because the greatest size that the system tells of a child counts in that of the process which
started it, and the comparison itself holds models. The greatest of the command's own processes counts, its workers included.
"""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

UNIT = 1 if sys.platform == "darwin" else 1024  # bytes of what ru_maxrss counts


def launch(note: Path, command: list[str]) -> int:
    """Run it, write wall-clock and CPU seconds and peak bytes; returns its exit code."""
    began = time.monotonic()
    code = subprocess.run(command, check=False).returncode
    took, used = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    found = {"seconds": took, "cpu_s": used.ru_utime + used.ru_stime, "peak_bytes": used.ru_maxrss * UNIT}
    note.write_text(json.dumps(found) + "\n")
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(launch(Path(sys.argv[1]), sys.argv[2:]))
