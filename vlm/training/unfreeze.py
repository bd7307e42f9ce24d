"""Parts that begin to learn in the middle of a run.

Their weights are of the optimizer from the start and have gradients, which are dropped before each step until their time comes: AdamW passes over a
weight without a gradient, its decay too, so it stays as it is to the last bit. Switching `requires_grad` instead would break DDP, which decides
when the model is wrapped for which weights it waits. The price is the backward pass through them from the first step on.
"""

from collections.abc import Mapping

from torch import nn

from vlm.training.parts import by_longest_name


class Unfreezing:
    """When the weights of a model begin to learn.

    Args:
        steps: for a part, by name, after how many steps it begins; of the names that match, the longest counts.

    Raises:
        ValueError: a number of steps is not positive, a name is no part that learns, or nothing learns from the start.
    """

    def __init__(self, model: nn.Module, steps: Mapping[str, int]) -> None:
        for name, step in steps.items():
            if step < 1:
                raise ValueError(
                    f"model.unfreeze: {name} begins to learn after {step} steps; give 1 or more, or leave it out"
                )
        self.after = by_longest_name(model, steps, "model.unfreeze", "steps")  # by path
        weights = dict(model.named_parameters())
        if self.after and self.after.keys() == {path for path, weight in weights.items() if weight.requires_grad}:
            raise ValueError(
                f"model.unfreeze leaves nothing that learns in the first {min(self.after.values())} steps; "
                "leave out the part that learns first"
            )
        self._begins = [(weights[path], step) for path, step in self.after.items()]

    def waiting(self, step: int) -> set[nn.Parameter]:
        """The weights that do not learn in a step, counted from 0."""
        return {weight for weight, after in self._begins if step < after}

    def require_within(self, max_steps: int) -> None:
        """Refuse a part whose time never comes.

        Raises:
            ValueError: names a weight of it.
        """
        late = {path: step for path, step in self.after.items() if step >= max_steps}
        if late:
            path, step = next(iter(late.items()))
            raise ValueError(
                f"model.unfreeze lets {len(late)} weights (such as {path}) learn after {step} steps, but the run has "
                f"{max_steps}; freeze that part by model.freeze, or raise trainer.max_steps"
            )
