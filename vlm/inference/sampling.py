"""How the next token is chosen, for sequences that each have settings of their own.

In: next-token logits (s v). Out: one id for each sequence. The repetition penalty comes first, then the temperature, then
`top_k`, then `top_p` of what `top_k` left. A request draws from a random stream of its own on the CPU, so that its answer
hangs neither on the batch nor on the device.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

FEW = 1024  # likeliest tokens that are looked for first: for a row of 150,000 tokens 0.7 ms on a core, a sort of all 12


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How one request's answer is chosen, and where it ends.

    Raises:
        ValueError: a setting that makes no sense, or one that has no effect.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0  # 0: the likeliest token each time
    top_k: int | None = None  # draw among this many likeliest tokens
    top_p: float | None = None  # draw among the likeliest tokens that make up this share of probability
    repetition_penalty: float = 1.0  # logits of ids met before: positive ones divided by it, negative ones multiplied
    stop: tuple[str, ...] = ()  # the answer ends before the first of these
    stop_ids: tuple[int, ...] = ()  # ids that end the answer, besides the tokenizer's end token
    seed: int = 0  # of the request's random stream

    def __post_init__(self) -> None:
        self._check_types()
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature must be 0 (always the likeliest token) or above, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k is a number of tokens and must be at least 1, got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is a share of probability, above 0 and at most 1, got {self.top_p}")
        for name in ("top_k", "top_p"):
            if getattr(self, name) is not None and self.temperature == 0:
                raise ValueError(
                    f"{name} = {getattr(self, name)} has no effect at temperature 0; "
                    f"set a temperature, or leave {name} out"
                )
        if not 1e-3 <= self.repetition_penalty <= 1e6:
            raise ValueError(
                f"repetition_penalty must lie between 0.001 and 1e6 (1 is none), got {self.repetition_penalty}"
            )
        if isinstance(self.stop, str) or not all(isinstance(one, str) and one for one in self.stop):
            raise ValueError(f"stop is a tuple of texts, none of them empty, got {self.stop!r}")
        if min(self.stop_ids, default=0) < 0:
            raise ValueError(f"stop_ids are token ids, 0 or above, got {self.stop_ids}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be 0 or above and below 2**63, got {self.seed}")

    def _check_types(self) -> None:
        whole = {f"stop_ids[{place}]": one for place, one in enumerate(self.stop_ids)}
        whole |= {"max_new_tokens": self.max_new_tokens, "seed": self.seed}
        if self.top_k is not None:
            whole["top_k"] = self.top_k
        numbers = {"temperature": self.temperature, "repetition_penalty": self.repetition_penalty}
        if self.top_p is not None:
            numbers["top_p"] = self.top_p
        for kinds, what, found in ((int, "a whole number", whole), ((int, float), "a number", numbers)):
            for name, value in found.items():
                if not isinstance(value, kinds):
                    raise ValueError(f"{name} must be {what}, got {value!r}")


class Draw:
    """What one request needs for its next token: its settings, its random stream, and the ids it has met.

    Args:
        sampling: the request's settings.
        prompt_ids: ids of the prompt's text; for the repetition penalty.
    """

    def __init__(
        self, sampling: Sampling, prompt_ids: Int[Tensor, " n"], vocab_size: int, device: torch.device
    ) -> None:
        self.sampling = sampling
        self.stream = torch.Generator().manual_seed(sampling.seed) if sampling.temperature > 0 else None
        self.met: Bool[Tensor, " v"] | None = None
        if sampling.repetition_penalty != 1:
            met = torch.zeros(vocab_size, dtype=torch.bool)
            met[prompt_ids] = True
            self.met = met.to(device)

    def meet(self, token: int) -> None:
        """The token is part of the answer now."""
        if self.met is not None:
            self.met[token] = True


def choose(logits: Float[Tensor, "s v"], draws: Sequence[Draw]) -> Int[Tensor, " s"]:
    """One token for each sequence, by its own settings. Where all are greedy, one argmax is all that happens."""
    met = [(place, draw.met, draw.sampling) for place, draw in enumerate(draws) if draw.met is not None]
    if met:
        index = torch.tensor([place for place, _, _ in met], device=logits.device)
        factor = logits.new_tensor([sampling.repetition_penalty for _, _, sampling in met])[:, None]
        some = logits[index]
        less = torch.where(some > 0, some / factor, some * factor)
        some = torch.where(torch.stack([one for _, one, _ in met]), less, some)
        logits = logits.index_copy(0, index, some)
    token = logits.argmax(1)
    whole = [place for place, draw in enumerate(draws) if draw.stream is not None and not _cuts(draw.sampling)]
    cut = [place for place, draw in enumerate(draws) if draw.stream is not None and _cuts(draw.sampling)]
    for places, pick in ((whole, _draw_whole), (cut, _draw_cut)):
        if places:
            index = torch.tensor(places, device=logits.device)
            token = token.index_copy(0, index, pick(logits[index], [draws[place] for place in places]))
    return token


def _cuts(sampling: Sampling) -> bool:
    return sampling.top_k is not None or sampling.top_p is not None


def _draw_whole(logits: Float[Tensor, "s v"], draws: Sequence[Draw]) -> Int[Tensor, " s"]:
    """Among all tokens; no need to sort them."""
    return _invert(_scale(logits, draws).softmax(1), _uniform(draws, logits.device)).squeeze(1)


def _draw_cut(logits: Float[Tensor, "s v"], draws: Sequence[Draw]) -> Int[Tensor, " s"]:
    """Among the likeliest tokens: `top_k` of them, and of these the first that make up `top_p`."""
    device, num_tokens = logits.device, logits.shape[1]
    scaled, uniform = _scale(logits, draws), _uniform(draws, device)
    # In float64: in float32 a small share would be 0, and cut everything off.
    bounds = torch.tensor(
        [(min(draw.sampling.top_k or num_tokens, num_tokens), draw.sampling.top_p or math.inf) for draw in draws],
        dtype=torch.float64,
    )
    most, share = bounds.to(device, scaled.dtype).T
    total = scaled.logsumexp(1)
    some, order = _sort(scaled) if num_tokens <= FEW else scaled.topk(FEW, dim=1)
    prob, is_enough = _cut(some, total, most, share)
    token = order.gather(1, _invert(prob, uniform)).squeeze(1)
    rest = (~is_enough).nonzero().squeeze(1)
    if len(rest):
        some, order = _sort(scaled[rest])
        prob, _ = _cut(some, total[rest], most[rest], share[rest])
        token = token.index_copy(0, rest, order.gather(1, _invert(prob, uniform[rest])).squeeze(1))
    return token


def _sort(scaled: Float[Tensor, "s v"]) -> tuple[Float[Tensor, "s v"], Int[Tensor, "s v"]]:
    some, order = scaled.sort(dim=1, descending=True, stable=True)
    return some, order


def _cut(
    scaled: Float[Tensor, "s c"], total: Float[Tensor, " s"], most: Float[Tensor, " s"], share: Float[Tensor, " s"]
) -> tuple[Float[Tensor, "s c"], Bool[Tensor, " s"]]:
    """Probabilities of the likeliest tokens, 0 for those that are cut off; and whether all that are not are among them.

    Args:
        scaled: the largest first.
        total: the log of the sum over all tokens.
        most, share: `top_k` and `top_p`.
    """
    size = scaled.shape[1]
    scaled = scaled.masked_fill(torch.arange(size, device=scaled.device) >= most[:, None], -math.inf)
    is_whole = most <= size
    prob = (scaled - torch.where(is_whole, scaled.logsumexp(1), total)[:, None]).exp()
    up_to = prob.cumsum(1)
    is_enough = is_whole | (up_to[:, -1] >= share)
    return prob.masked_fill(up_to - prob >= share[:, None], 0), is_enough


def _scale(logits: Float[Tensor, "s v"], draws: Sequence[Draw]) -> Float[Tensor, "s v"]:
    """Logits over the temperature, in float64, the largest at 0: however low the temperature, nothing overflows."""
    exact = logits.double()
    temperature = exact.new_tensor([draw.sampling.temperature for draw in draws])[:, None]
    return (exact - exact.amax(1, keepdim=True)) / temperature


def _uniform(draws: Sequence[Draw], device: torch.device) -> Float[Tensor, "s 1"]:
    """A number in [0, 1) from each request's stream, on the CPU: the same on every device."""
    return torch.stack([torch.rand(1, generator=draw.stream, dtype=torch.float64) for draw in draws]).to(device)


def _invert(prob: Float[Tensor, "s c"], uniform: Float[Tensor, "s 1"]) -> Int[Tensor, "s 1"]:
    """Where the cumulative distribution passes this share of its sum."""
    total = prob.cumsum(1)
    last = total[:, -1:]
    # Below the last sum, so that a product rounded up never reaches past the last token that has a share.
    wanted = torch.minimum(uniform * last, torch.nextafter(last, torch.zeros_like(last)))
    # Logits that are not finite find no place; whoever drew from them is told so (decoding.py).
    return torch.searchsorted(total, wanted, right=True).clamp(max=prob.shape[1] - 1)
