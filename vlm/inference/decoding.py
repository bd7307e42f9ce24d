"""Sequences that are answered side by side: they join, go on by a token at a time, and drop out when they end.

In: prompts, each with its `Answer`. Out: the new text of each answer after each step. All share one cache; no sequence waits
for another, and none changes what another says.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from data.text import Row
from vlm.backbone import Cache, Documents
from vlm.inference.answer_text import AnswerText
from vlm.inference.pictures import PictureFeatures
from vlm.inference.prompts import embed_prompts, next_time
from vlm.inference.sampling import Draw, Sampling, choose
from vlm.model import VisionLanguageModel


class Answer:
    """One answer as it grows.

    Args:
        row: the prompt, to which ids of the answer are compared by the repetition penalty and after which time goes on.

    Attributes:
        ids: all that were chosen, with the one that ended it.
        logprobs: of each id, by the model itself (temperature 1, nothing cut off).
        finish: None while it grows.
        error: one line, where it ended because the model's logits were not finite.
    """

    def __init__(self, model: VisionLanguageModel, row: Row, sampling: Sampling) -> None:
        tokenizer = model.tokenizer
        prompt_ids = torch.from_numpy(row.ids[~row.is_image])
        self.sampling = sampling
        self.draw = Draw(sampling, prompt_ids, tokenizer.vocab_size, model.embed.weight.device)
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.finish: Literal["end", "stop", "length", "error"] | None = None
        self.error: str | None = None
        self._end = tokenizer.stop
        self._start = next_time(row)
        self._text = AnswerText(tokenizer, sampling.stop)

    @property
    def text(self) -> str:
        """All that was told."""
        return self._text.text

    @property
    def time(self) -> int:
        """The position of the last id."""
        return self._start + len(self.ids) - 1

    def take(self, token: int, logprob: float) -> str:
        """Grow by a token; gives the text that is certain now."""
        if not math.isfinite(logprob):
            self.finish = "error"
            self.error = (
                f"the model's logits are not finite after {len(self.ids)} tokens of the answer; "
                "are there NaN or inf among its weights, or does its precision overflow?"
            )
            return self._text.finish()
        self.ids.append(token)
        self.logprobs.append(logprob)
        self.draw.meet(token)
        told = ""
        if token == self._end:
            self.finish = "end"
        elif token in self.sampling.stop_ids:
            self.finish = "stop"
        else:
            told = self._text.push(token)
            if self._text.stopped:
                self.finish = "stop"
            elif len(self.ids) == self.sampling.max_new_tokens:
                self.finish = "length"
        if self.finish is not None:
            told += self._text.finish()
            if self.finish == "length" and self._text.stopped:
                self.finish = "stop"
        return told


def choose_next(
    model: VisionLanguageModel, hidden: Float[Tensor, "s d"], answers: Sequence[Answer]
) -> list[tuple[int, float]]:
    """The next token of each answer with its log-probability, from the vectors of the tokens before."""
    logits = model.logits(hidden)
    token = choose(logits, [answer.draw for answer in answers])
    logprob = logits.gather(1, token[:, None]).squeeze(1) - logits.logsumexp(1)
    # One tensor for both: the host waits for the device once in a step. A float64 holds every id.
    both = torch.stack([token.double(), logprob.double()], dim=1)
    return [(int(one), value) for one, value in both.tolist()]


def step_hidden(model: VisionLanguageModel, cache: Cache, answers: Sequence[Answer]) -> Float[Tensor, "s d"]:
    """Read the last token of each answer."""
    last = torch.tensor([(answer.ids[-1], answer.time) for answer in answers], device=model.embed.weight.device)
    return model.backbone.step(model.embed(last[:, 0]), cache, positions=last[:, 1:].expand(-1, 3)).hidden


class LiveBatch:
    """The answers in the making, and their cache. Use it within `answering` (pictures.py).

    Args:
        max_tokens: the longest that a sequence may get.
    """

    def __init__(self, model: VisionLanguageModel, pictures: PictureFeatures, max_tokens: int) -> None:
        self.answers: list[Answer] = []
        self._model, self._pictures, self._max_tokens = model, pictures, max_tokens
        self._cache: Cache | None = None

    def join(self, rows: Sequence[Row], answers: Sequence[Answer]) -> list[str]:
        """Read new prompts and begin their answers, while the others stay where they are.

        Returns:
            The first text of each new answer.
        """
        model, first = self._model, len(self.answers)
        packed = embed_prompts(model, rows, self._pictures)
        if self._cache is None:
            self._cache = model.backbone.new_cache(len(rows), self._max_tokens)
        else:
            self._cache.append(len(rows))
        hidden = model.backbone.prefill(
            packed.x,
            Documents.from_lengths(packed.lengths, packed.x.device),
            self._cache,
            positions=packed.positions,
            sequences=list(range(first, first + len(rows))),
        ).hidden
        last = torch.from_numpy(np.cumsum(packed.lengths) - 1).to(hidden.device)
        self.answers += answers
        return self._grow(hidden[last], answers)

    def step(self) -> list[str]:
        """One token more for every answer.

        Returns:
            The new text of each, in the order that `answers` had.
        """
        assert self._cache is not None
        return self._grow(step_hidden(self._model, self._cache, self.answers), list(self.answers))

    def _grow(self, hidden: Float[Tensor, "s d"], answers: Sequence[Answer]) -> list[str]:
        chosen = choose_next(self._model, hidden, answers)
        told = [answer.take(*one) for answer, one in zip(answers, chosen, strict=True)]
        self._drop_finished()
        return told

    def _drop_finished(self) -> None:
        going = [place for place, answer in enumerate(self.answers) if answer.finish is None]
        if len(going) == len(self.answers):
            return
        self.answers = [self.answers[place] for place in going]
        if not going:
            self._cache = None
        else:
            assert self._cache is not None
            self._cache.select(going)
