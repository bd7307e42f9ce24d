"""A feed-forward layer of experts: each token is sent to the top-k of them.

The router chooses and sorts the (token, expert) pairs by expert; `dispatch.py` does the experts' work. Names and layouts
of the weights are those of Qwen3-MoE.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vlm.backbone.dispatch import run_experts
from vlm.backbone.few_rows import is_for_few, run_few
from vlm.backbone.layers import SwiGLU


@dataclass(frozen=True, kw_only=True)
class ExpertsConfig:
    """How many experts a layer has and how tokens choose among them; one expert means a dense layer."""

    num_experts: int
    top_k: int
    hidden: int  # width of one expert's inner layer
    shared_hidden: int = 0  # inner width of an expert that serves every token beside the chosen ones; 0: none
    normalize_top_k: bool = True  # weights of the chosen experts sum to 1
    balance_weight: float = 0.01  # weight of the balance loss in the total
    z_weight: float = 0.0  # weight of the router's z loss in the total

    def __post_init__(self) -> None:
        if not 1 <= self.top_k <= self.num_experts:
            raise ValueError(f"top_k must be between 1 and num_experts={self.num_experts}, got {self.top_k}")
        if self.hidden < 1:
            raise ValueError(
                f"hidden is the width of an expert's inner layer and must be at least 1, got {self.hidden}"
            )
        if self.shared_hidden < 0 or (self.shared_hidden and self.num_experts == 1):
            raise ValueError(
                f"shared_hidden is the width of an expert beside num_experts={self.num_experts} others, got "
                f"{self.shared_hidden}; for a dense layer give hidden alone"
            )
        if self.balance_weight < 0 or self.z_weight < 0:
            raise ValueError(
                f"loss weights must not be negative, got balance_weight={self.balance_weight}, z_weight={self.z_weight}"
            )


@dataclass(frozen=True)
class Routing:
    """Which experts each token goes to, and what the losses are made of."""

    chosen: Int[Tensor, "n top"]
    weight: Float[Tensor, "n top"]
    order: Int[Tensor, " pairs"]  # (token, choice) pairs sorted by expert, as indices into the flattened `chosen`
    ends: Int[Tensor, " e"]  # int32: how many of the sorted pairs belong to this expert or one before it
    load: Float[Tensor, " e"]  # number of tokens that chose each expert; no gradient
    prob: Float[Tensor, " e"]  # mean probability of each expert
    z: Float[Tensor, ""]  # mean of the squared log of the softmax's denominator


def sort_by_expert(chosen: Int[Tensor, "n top"], num_experts: int) -> tuple[Int[Tensor, " pairs"], Int[Tensor, " e"]]:
    """(token, choice) pairs sorted by expert, and how many of them belong to each expert or one before it (int32)."""
    expert, order = chosen.flatten().sort(stable=True)
    experts = torch.arange(num_experts, device=chosen.device)
    return order, torch.searchsorted(expert, experts, right=True).to(torch.int32)


class Router(nn.Linear):
    """Scores of the experts, at least float32; `mlp.gate` of a checkpoint."""

    def __init__(self, width: int, config: ExpertsConfig) -> None:
        super().__init__(width, config.num_experts, bias=False)
        self.top_k, self.normalize = config.top_k, config.normalize_top_k

    def rank(
        self, x: Float[Tensor, "n d"]
    ) -> tuple[Int[Tensor, "n top"], Float[Tensor, "n top"], Float[Tensor, "n e"], Float[Tensor, "n e"]]:
        """The chosen experts, their weights, and the scores and probabilities of all."""
        precise = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            scores = F.linear(x.to(precise), self.weight.to(precise))
        prob = scores.softmax(-1)
        weight, chosen = prob.topk(self.top_k, dim=-1)
        if self.normalize:
            weight = weight / weight.sum(-1, keepdim=True)
        return chosen, weight, scores, prob

    def choose(self, x: Float[Tensor, "n d"]) -> Routing:
        chosen, weight, scores, prob = self.rank(x)
        order, ends = sort_by_expert(chosen, self.out_features)
        load = torch.diff(ends, prepend=ends.new_zeros(1)).to(prob.dtype)
        z = scores.logsumexp(-1).square().mean()
        return Routing(chosen, weight, order, ends, load, prob.mean(0), z)


class Experts(nn.Module):
    """The experts' weights: gate and up stacked in one tensor, so that one product serves both."""

    def __init__(self, width: int, config: ExpertsConfig) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.empty(config.num_experts, 2 * config.hidden, width))
        self.down_proj = nn.Parameter(torch.empty(config.num_experts, width, config.hidden))

    def forward(
        self,
        x: Float[Tensor, "n d"],
        weight: Float[Tensor, "n top"],
        order: Int[Tensor, " pairs"],
        ends: Int[Tensor, " e"],
    ) -> Float[Tensor, "n d"]:
        gate_up: Tensor = self.gate_up_proj
        down: Tensor = self.down_proj
        if torch.is_autocast_enabled(x.device.type):
            # grouped_mm is unknown to autocast and wants one dtype for both operands.
            dtype = torch.get_autocast_dtype(x.device.type)
            x, gate_up, down = x.to(dtype), gate_up.to(dtype), down.to(dtype)
        return run_experts(x, weight, order, ends, gate_up, down)


class SparseFeedForward(nn.Module):
    """Router, experts, and the shared expert if there is one."""

    def __init__(self, width: int, config: ExpertsConfig) -> None:
        super().__init__()
        self.gate = Router(width, config)
        self.experts = Experts(width, config)
        self.shared_expert = SwiGLU(width, config.shared_hidden) if config.shared_hidden else None

    def forward(self, x: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n d"], Routing]:
        routing = self.gate.choose(x)
        out = self.experts(x, routing.weight, routing.order, routing.ends)
        return out if self.shared_expert is None else out + self.shared_expert(x), routing

    def answer(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """`forward` without what only losses need, and without gradients: prefill and decoding."""
        chosen, weight, _, _ = self.gate.rank(x)
        if is_for_few(x, chosen):
            out = run_few(x, chosen, weight, self.experts.gate_up_proj, self.experts.down_proj)
        else:
            out = self.experts(x, weight, *sort_by_expert(chosen, self.gate.out_features))
        return out if self.shared_expert is None else out + self.shared_expert(x)


def routing_losses(
    routings: Sequence[Routing | None], like: Tensor, over_ranks: bool
) -> tuple[dict[str, Float[Tensor, ""]], tuple[Float[Tensor, " _"], ...]]:
    """Balance and z loss, means over layers, and each layer's shares of choices; without experts 0 and nothing.

    Balance is e * sum(share of choices * mean probability): 1 where the experts are used evenly. Token layers count
    tokens, concept layers concepts. The shares are those of all ranks, the probabilities the rank's own, scaled by what
    the rank has of all tokens or concepts, so that the mean over ranks is the loss of all of them together.
    """
    sparse = [routing for routing in routings if routing is not None]
    if not sparse:
        return {"balance": like.new_zeros(()), "z": like.new_zeros(())}, ()
    loads = [routing.load for routing in sparse]
    mine = torch.stack([load.sum() for load in loads])
    portion = torch.ones_like(mine)
    if over_ranks:
        everywhere = torch.cat(loads)
        torch.distributed.all_reduce(everywhere)
        loads = list(everywhere.split([len(load) for load in loads]))
        portion = torch.distributed.get_world_size() * mine / torch.stack([load.sum() for load in loads])
    shares = [load / load.sum() for load in loads]
    uneven = [len(share) * (share * routing.prob).sum() for share, routing in zip(shares, sparse, strict=True)]
    balance = (torch.stack(uneven) * portion).mean()
    z = (torch.stack([routing.z for routing in sparse]) * portion).mean()
    return {"balance": balance, "z": z}, tuple(shares)
