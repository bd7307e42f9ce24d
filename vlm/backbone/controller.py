"""A controller on the weight of the ratio loss, which holds the compression that evaluation will see.

Why: the ratio loss pulls the mean probability with a force of weight * (R F - 1), and the language loss pulls the other
way. The balance point moves as training goes on, so a constant weight drifts: on a toy task with target 4 a weight of
0.03 ended at 16, and one of 0.3 at 6. A controller that knows the error raises the weight until the balance point is
near the target, and lowers it again where that costs nothing.

Which F: that of the threshold (`ChunkConfig.ratio_share = "threshold"`), not that of the noisy draw. Where the draw
meets the target the force is zero whatever the weight, and the draw's share lies nearer to a half than the threshold's;
on the same task the weight then ran to its upper bound and evaluation still ended at 5.0 instead of 4.

Which error: the mean of the signed one. Under a large weight the share swings around its target, and a weight that grew
with the size of the error would feed the swing; a swing's own mean is near zero, and its excess is counted against the
weight.
"""

import math
from collections.abc import Mapping

SWING = 0.3  # how much of the error's swing counts against its mean


class RatioController:
    """Raises a loss weight while the measured compression is off its target, and lowers it while it is near.

    Args:
        compression: target of tokens per concept.
        weight: where to start.
        rate: greatest change of log(weight) in one update.
        tolerance: relative error below which the weight falls.
        memory: updates over which errors are averaged.
        bounds: least and greatest weight.
    """

    def __init__(
        self,
        compression: float,
        weight: float = 0.03,
        rate: float = 0.1,
        tolerance: float = 0.02,
        memory: float = 20.0,
        bounds: tuple[float, float] = (0.01, 10.0),
    ) -> None:
        if compression <= 1:
            raise ValueError(f"compression is tokens per concept and must be above 1, got {compression}")
        if not 0 < bounds[0] <= bounds[1]:
            raise ValueError(f"bounds must be positive and in order, got {bounds}")
        if rate <= 0 or tolerance <= 0 or memory < 1:
            raise ValueError(
                f"rate and tolerance must be positive and memory at least 1, got {rate}, {tolerance} and {memory}"
            )
        self.compression = compression
        self.rate, self.tolerance, self.memory, self.bounds = rate, tolerance, memory, bounds
        self.weight = min(max(weight, bounds[0]), bounds[1])
        self.num_updates = 0
        self.error = 0.0  # mean of log(target / measured compression): positive where there are too many concepts
        self.size = 0.0  # mean of that error's absolute value

    @property
    def measured(self) -> float | None:
        """Compression over the last updates; None before the first."""
        return self.compression * math.exp(-self.error) if self.num_updates else None

    def update(self, num_tokens: int, num_closed: int) -> None:
        """Take one step's counts, those of the threshold and of all ranks; a step without tokens changes nothing."""
        if num_tokens == 0:
            return
        # Within a factor e, so that one odd step cannot fill the memory.
        error = min(max(math.log(max(num_closed, 1) * self.compression / num_tokens), -1.0), 1.0)
        self.num_updates += 1
        share = 1 / min(self.memory, self.num_updates)
        self.error += share * (error - self.error)
        self.size += share * (abs(error) - self.size)
        off = abs(self.error) - self.tolerance - SWING * (self.size - abs(self.error))
        # Full speed from an error of five tolerances on.
        change = min(max(off / (5 * self.tolerance), -1.0), 1.0)
        low, high = self.bounds
        self.weight = min(max(self.weight * math.exp(self.rate * change), low), high)

    def state_dict(self) -> dict[str, float]:
        return {"weight": self.weight, "error": self.error, "size": self.size, "num_updates": self.num_updates}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self.weight, self.error, self.size = state["weight"], state["error"], state["size"]
        self.num_updates = int(state["num_updates"])
