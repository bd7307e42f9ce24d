"""Rate given answers: the log-probability of each candidate after its prompt, for multiple choice.

In: prompts, and candidates for each. Out: a sum of log-probabilities for each candidate. A prompt is read once: its last
vector rates the candidates' first tokens, and the candidates then branch off from its cache.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from data.text import Row
from vlm.backbone import Cache, Documents
from vlm.inference.pictures import PictureFeatures, answering
from vlm.inference.prompts import check_prompt, embed_answers, embed_prompts
from vlm.model import VisionLanguageModel

LOGITS_ELEMENTS = 2**24  # logits held at once: 64 MB in float32, whatever the vocabulary


@dataclass(frozen=True)
class _Candidate:
    prompt: int  # which of the prompts that are read together
    ids: list[int]  # with the end token


def score(
    model: VisionLanguageModel,
    prompts: Sequence[Row],
    candidates: Sequence[Sequence[str]],
    *,
    pictures: PictureFeatures | None = None,
    token_budget: int = 8192,
) -> list[list[float]]:
    """The log-probability of each candidate answer: the sum over its tokens and the end token, after its prompt.

    Args:
        pictures: features to share with other calls; None computes them for this call.
        token_budget: tokens of prompts, and of candidates, that are read together.

    Raises:
        BadRecord: a prompt that the model cannot read, or with a candidate too long for its positions; names the prompt.
        ValueError: prompts and candidate lists differ in number.
    """
    if any(isinstance(listed, str) for listed in candidates):
        raise ValueError("candidates are lists of texts, one list for each prompt; a text came in place of a list")
    if len(prompts) != len(candidates):
        raise ValueError(
            f"got {len(prompts)} prompts but {len(candidates)} lists of candidates; give one list for each prompt"
        )
    if token_budget < 1:
        raise ValueError(f"token_budget must be at least 1, got {token_budget}")
    ids = [[model.tokenizer.answer_ids(candidate) for candidate in listed] for listed in candidates]
    for row, listed in zip(prompts, ids, strict=True):
        check_prompt(model, row, max(map(len, listed), default=0))
    pictures = pictures or PictureFeatures(model)
    sums: list[list[float]] = [[] for _ in prompts]
    with answering(model, pictures):
        asked = [place for place, listed in enumerate(ids) if listed]
        for group in _groups([len(prompts[place]) for place in asked], token_budget):
            places = [asked[one] for one in group]
            jobs = [_Candidate(one, candidate) for one, place in enumerate(places) for candidate in ids[place]]
            found = _score_group(model, [prompts[place] for place in places], jobs, pictures, token_budget)
            for job, value in zip(jobs, found, strict=True):
                sums[places[job.prompt]].append(value)
    return sums


def _score_group(
    model: VisionLanguageModel,
    prompts: Sequence[Row],
    jobs: Sequence[_Candidate],
    pictures: PictureFeatures,
    token_budget: int,
) -> list[float]:
    """Prompts that are read together."""
    packed = embed_prompts(model, prompts, pictures)
    device = packed.x.device
    cache = model.backbone.new_cache(len(prompts), max(packed.lengths))
    documents = Documents.from_lengths(packed.lengths, device)
    hidden = model.backbone.prefill(packed.x, documents, cache, positions=packed.positions).hidden
    last = hidden[torch.from_numpy(np.cumsum(packed.lengths) - 1).to(device)]
    del hidden
    logits = model.logits(last).log_softmax(1)
    first = logits[
        torch.tensor([job.prompt for job in jobs], device=device),
        torch.tensor([job.ids[0] for job in jobs], device=device),
    ]
    sums = first.double()
    longer = [place for place, job in enumerate(jobs) if len(job.ids) > 1]
    for group in _groups([len(jobs[place].ids) - 1 for place in longer], token_budget):
        places = [longer[one] for one in group]
        rest = _score_rest(model, prompts, [jobs[place] for place in places], cache)
        sums = sums.index_add(0, torch.tensor(places, device=device), rest)
    return sums.tolist()


def _score_rest(
    model: VisionLanguageModel, prompts: Sequence[Row], jobs: Sequence[_Candidate], cache: Cache
) -> Float[Tensor, " c"]:
    """Sums over all but the first token of each candidate; the last, the end, is predicted and never read."""
    packed = embed_answers(model, [(prompts[job.prompt], job.ids[:-1]) for job in jobs])
    device = packed.x.device
    documents = Documents.from_lengths(packed.lengths, device)
    sequences = [job.prompt for job in jobs]
    hidden = model.backbone.branch(packed.x, documents, cache, sequences, positions=packed.positions).hidden
    targets = torch.tensor([one for job in jobs for one in job.ids[1:]], device=device)
    logprob = _logprob(model, hidden, targets).double()
    return logprob.new_zeros(len(jobs)).index_add(0, documents.document_of_token, logprob)


def _logprob(
    model: VisionLanguageModel, hidden: Float[Tensor, "n d"], targets: Int[Tensor, " n"]
) -> Float[Tensor, " n"]:
    size = max(1, LOGITS_ELEMENTS // model.tokenizer.vocab_size)
    parts = []
    for some, wanted in zip(hidden.split(size), targets.split(size), strict=True):
        logits = model.logits(some)
        parts.append(logits.gather(1, wanted[:, None]).squeeze(1) - logits.logsumexp(1))
    return torch.cat(parts)


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
