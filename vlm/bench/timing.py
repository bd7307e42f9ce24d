"""Time several things in one run so that their ratios hold on a shared machine.

Rounds are interleaved: each round runs everything once, so that a slow minute hits all alike. On a CPU the time is the
process's own, which other programs cannot take away; on a GPU it is the wall's, between two waits for the device.
"""

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

import torch


@dataclass(frozen=True)
class Timing:
    """What one thing took in each round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.seconds)

    @property
    def spread(self) -> float:
        """(greatest - least) / median."""
        return (max(self.seconds) - min(self.seconds)) / self.median

    def over(self, other: "Timing") -> float:
        """How many times as long as `other`: the median of the rounds' ratios, as both share each round's conditions."""
        return median(mine / theirs for mine, theirs in zip(self.seconds, other.seconds, strict=True))


def interleave(
    runs: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 7,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Timing]:
    """Run everything once unmeasured, then `rounds` times in turn; seconds by name.

    Args:
        progress: told how many of how many runs are done.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    on_gpu = torch.device(device).type == "cuda"
    clock = time.perf_counter if on_gpu else time.process_time
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    total = (rounds + 1) * len(runs)
    for turn in range(rounds + 1):
        for index, (name, run) in enumerate(runs.items()):
            gc.collect()
            if on_gpu:
                torch.cuda.synchronize()
            began = clock()
            run()
            if on_gpu:
                torch.cuda.synchronize()
            if turn:
                seconds[name].append(clock() - began)
            if progress is not None:
                progress(turn * len(runs) + index + 1, total)
    return {name: Timing(tuple(of)) for name, of in seconds.items()}
