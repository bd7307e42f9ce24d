"""Continue prompts in the model's own words, and rate given words.

In: rows (data/text.py) that end where the answer begins. Out: generated ids with their log-probabilities, or sums of
log-probabilities. Prompts of unequal length are packed, never padded: an answer does not depend on its neighbours.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from data.batch import collate
from data.text import Row
from vlm.backbone import Documents
from vlm.inference.pictures import PictureFeatures, answering
from vlm.model import VisionLanguageModel

LOGITS_ELEMENTS = 2**24  # logits held at once while rating: 64 MB in float32, whatever the vocabulary


@dataclass(frozen=True)
class Generation:
    """What the model said to one prompt."""

    text: str
    ids: tuple[int, ...]  # with the end token, if it came
    logprobs: tuple[float, ...]  # of each id, by the model itself (temperature 1, nothing cut off)
    ended: bool  # False where max_new_tokens cut the answer off


@dataclass(frozen=True)
class PackedPrompts:
    """Prompts as the backbone takes them."""

    x: Float[Tensor, "n d"]
    lengths: tuple[int, ...]
    positions: Int[Tensor, "n 3"]
    is_image: Bool[Tensor, " n"]


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen."""

    temperature: float
    top_p: float | None

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature must be 0 (always the likeliest token) or above, got {self.temperature}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is a share of probability, above 0 and at most 1, got {self.top_p}")
        if self.top_p is not None and self.temperature == 0:
            raise ValueError(
                f"top_p = {self.top_p} has no effect at temperature 0; set a temperature, or leave top_p out"
            )

    def choose(self, logits: Float[Tensor, "s v"], streams: Sequence[torch.Generator]) -> Int[Tensor, " s"]:
        """One token for each sequence."""
        if self.temperature == 0:
            return logits.argmax(1)
        prob, order = (logits / self.temperature).softmax(1).sort(dim=1, descending=True, stable=True)
        before = prob.cumsum(1) - prob
        if self.top_p is not None:
            prob = prob.where(before < self.top_p, 0)
        # The inverse of the cumulative distribution at a uniform number, drawn on the CPU: the same on every device.
        total = prob.cumsum(1)
        uniform = torch.stack([torch.rand((), generator=stream, dtype=torch.float64) for stream in streams]).to(total)
        rank = (total <= uniform[:, None] * total[:, -1:]).sum(1, keepdim=True)
        last = (prob > 0).sum(1, keepdim=True) - 1
        return order.gather(1, rank.minimum(last)).squeeze(1)


def generate(
    model: VisionLanguageModel,
    rows: Sequence[Row],
    max_new_tokens: int,
    *,
    temperature: float = 0.0,
    top_p: float | None = None,
    seed: int = 0,
    pictures: PictureFeatures | None = None,
    token_budget: int = 8192,
) -> list[Generation]:
    """Answer each prompt until the end token or `max_new_tokens`.

    Args:
        temperature: 0 takes the likeliest token each time.
        top_p: sample among the likeliest tokens that make up this share; None among all.
        seed: of the random streams, one for each prompt by its place among `rows`.
        pictures: features to share with other calls; None computes them for this call.
        token_budget: prompt and answer tokens held at once.

    Raises:
        ValueError: no token may be generated, a prompt is empty, or the sampling makes no sense.
    """
    sampling = Sampling(temperature, top_p)
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
    _check_prompts(rows)
    pictures = pictures or PictureFeatures(model)
    answers: dict[int, Generation] = {}
    # Prompts of similar length together: the cache gives every sequence the room of the longest.
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    with answering(model, pictures):
        for group in _groups([len(rows[index]) + max_new_tokens for index in order], token_budget):
            chosen = [order[place] for place in group]
            streams = [torch.Generator().manual_seed((seed << 32) + index) for index in chosen]
            some = _generate_group(
                model, [rows[index] for index in chosen], max_new_tokens, sampling, streams, pictures
            )
            answers.update(zip(chosen, some, strict=True))
    return [answers[index] for index in range(len(rows))]


def score(
    model: VisionLanguageModel,
    prompts: Sequence[Row],
    candidates: Sequence[Sequence[str]],
    *,
    pictures: PictureFeatures | None = None,
    token_budget: int = 8192,
) -> list[list[float]]:
    """The log-probability of each candidate answer: the sum over its tokens and the end token, after its prompt.

    Raises:
        ValueError: prompts and candidate lists differ in number, or a prompt is empty.
    """
    if len(prompts) != len(candidates):
        raise ValueError(
            f"got {len(prompts)} prompts but {len(candidates)} lists of candidates; give one list for each prompt"
        )
    _check_prompts(prompts)
    pictures = pictures or PictureFeatures(model)
    end = model.tokenizer.end
    jobs = [
        (which, [*model.tokenizer.encode(candidate), end])
        for which, listed in enumerate(candidates)
        for candidate in listed
    ]
    sums: list[float] = []
    with answering(model, pictures):
        for group in _groups([len(prompts[which]) + len(ids) for which, ids in jobs], token_budget):
            sums += _score_group(model, prompts, [jobs[place] for place in group], pictures)
    found = iter(sums)
    return [[next(found) for _ in listed] for listed in candidates]


def embed_prompts(model: VisionLanguageModel, rows: Sequence[Row], pictures: PictureFeatures) -> PackedPrompts:
    """Prompts, pictures in their slots, one after another."""
    pictures.prepare(rows)
    spec = None if model.layout is None else model.layout.spec
    batch = collate(rows, spec, cached=pictures).to(model.embed.weight.device)
    return PackedPrompts(model.embed_batch(batch), batch.lengths, batch.positions, batch.is_image)


def embed_answer(model: VisionLanguageModel, row: Row, ids: Sequence[int]) -> PackedPrompts:
    """Tokens that stand right after a prompt."""
    device = model.embed.weight.device
    positions = torch.arange(len(ids), device=device)[:, None].expand(-1, 3) + next_time(row)
    x = model.embed(torch.tensor(ids, dtype=torch.long, device=device))
    return PackedPrompts(x, (len(ids),), positions, torch.zeros(len(ids), dtype=torch.bool, device=device))


def next_time(row: Row) -> int:
    """The position of the first token after a row: one past the largest, as a picture takes its longer side."""
    return int(row.positions.max()) + 1


def _check_prompts(rows: Sequence[Row]) -> None:
    for row in rows:
        if len(row) == 0:
            raise ValueError(f"the prompt of {row.sample_id} has no tokens; a prompt has at least one")


def _groups(lengths: Sequence[int], token_budget: int) -> Iterator[list[int]]:
    """Neighbours whose lengths stay within the budget together; what is longer by itself stands alone."""
    group: list[int] = []
    used = 0
    for place, length in enumerate(lengths):
        if group and used + length > token_budget:
            yield group
            group, used = [], 0
        group.append(place)
        used += length
    if group:
        yield group


def _generate_group(
    model: VisionLanguageModel,
    rows: Sequence[Row],
    max_new_tokens: int,
    sampling: Sampling,
    streams: Sequence[torch.Generator],
    pictures: PictureFeatures,
) -> list[Generation]:
    packed = embed_prompts(model, rows, pictures)
    device = packed.x.device
    documents = Documents.from_lengths(packed.lengths)
    cache = model.backbone.new_cache(len(rows), max(packed.lengths) + max_new_tokens)
    hidden = model.backbone.prefill(packed.x, documents, cache, positions=packed.positions).hidden
    logits = model.logits(hidden[torch.tensor(np.cumsum(packed.lengths) - 1, device=device)])
    time = torch.tensor([next_time(row) for row in rows], device=device)
    alive = list(range(len(rows)))
    ids: list[list[int]] = [[] for _ in rows]
    logprobs: list[list[float]] = [[] for _ in rows]
    while True:
        token = sampling.choose(logits, [streams[which] for which in alive])
        logprob = logits.log_softmax(1).gather(1, token[:, None]).squeeze(1)
        for which, one, value in zip(alive, token.tolist(), logprob.tolist(), strict=True):
            ids[which].append(one)
            logprobs[which].append(value)
        going = [place for place, which in enumerate(alive) if ids[which][-1] != model.tokenizer.end]
        if not going or len(ids[alive[going[0]]]) == max_new_tokens:
            break
        if len(going) < len(alive):
            index = torch.tensor(going, device=device)
            cache.select(index)
            alive, token, time = [alive[place] for place in going], token[index], time[index]
        hidden = model.backbone.step(model.embed(token), cache, positions=time[:, None].expand(-1, 3)).hidden
        logits = model.logits(hidden)
        time = time + 1
    end = model.tokenizer.end
    return [
        Generation(model.tokenizer.decode(said), tuple(said), tuple(values), said[-1] == end)
        for said, values in zip(ids, logprobs, strict=True)
    ]


def _score_group(
    model: VisionLanguageModel, prompts: Sequence[Row], jobs: Sequence[tuple[int, list[int]]], pictures: PictureFeatures
) -> list[float]:
    asked = sorted({which for which, _ in jobs})
    packed = embed_prompts(model, [prompts[which] for which in asked], pictures)
    device = packed.x.device
    x_of, positions_of, is_image_of = (
        dict(zip(asked, part.split(packed.lengths), strict=True))
        for part in (packed.x, packed.positions, packed.is_image)
    )
    x: list[Tensor] = []
    positions: list[Tensor] = []
    is_image: list[Tensor] = []
    reads: list[Tensor] = []  # the tokens whose next token is an answer's
    start = 0
    for which, ids in jobs:
        read = embed_answer(model, prompts[which], ids[:-1])  # the last token, the end, is predicted and never read
        x += [x_of[which], read.x]
        positions += [positions_of[which], read.positions]
        is_image += [is_image_of[which], read.is_image]
        first = start + len(prompts[which]) - 1
        reads.append(torch.arange(first, first + len(ids), device=device))
        start += len(prompts[which]) + len(ids) - 1
    documents = Documents.from_lengths([len(prompts[which]) + len(ids) - 1 for which, ids in jobs])
    out = model.backbone(torch.cat(x), documents, positions=torch.cat(positions), is_image=torch.cat(is_image))
    answered = out.hidden[torch.cat(reads)]
    targets = torch.tensor([one for _, ids in jobs for one in ids], device=device)
    logprob = _logprob(model, answered, targets)
    return [float(part.double().sum()) for part in logprob.split([len(ids) for _, ids in jobs])]


def _logprob(
    model: VisionLanguageModel, hidden: Float[Tensor, "n d"], targets: Int[Tensor, " n"]
) -> Float[Tensor, " n"]:
    size = max(1, LOGITS_ELEMENTS // model.tokenizer.vocab_size)
    parts = []
    for some, wanted in zip(hidden.split(size), targets.split(size), strict=True):
        logits = model.logits(some)
        parts.append(logits.gather(1, wanted[:, None]).squeeze(1) - logits.logsumexp(1))
    return torch.cat(parts)
