"""Run as a program: how much memory an import, and a load, add to a process at most, in bytes. Prints two numbers."""

import sys
from pathlib import Path

from vlm.convert.from_hf import import_model
from vlm.model import VisionLanguageModel


def status(name: str) -> int:
    """A figure of /proc/self/status, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def begin() -> int:
    """Memory held now; the peak is counted from here on."""
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


source, first, out = sys.argv[1:]
import_model(first, Path(out).with_name("warm"))  # what torch allocates once for all
before = begin()
import_model(source, Path(out))
imported = status("VmHWM") - before
before = begin()
VisionLanguageModel.from_pretrained(out)
print(imported, status("VmHWM") - before)
