"""A model of ours that takes benchmarks: questions in, answers or scores out (the Answerer of eval/task.py)."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import torch

from data.sample import BadRecord, Question
from data.text import Row, opening_row, prompt_row
from encoders.feature_cache import FeatureCache
from eval.task import Answer
from vlm.inference.generate import Request, generate
from vlm.inference.pictures import PictureFeatures
from vlm.inference.sampling import Sampling
from vlm.inference.score import score
from vlm.model import VisionLanguageModel

RULE = "sum of log-probabilities of the candidate's tokens and the end token; greedy"  # part of the fingerprint


class ModelAnswerer:
    """Answers by a model whose weights stay as they are; make a new one after training steps.

    Args:
        cache: features of pictures on disk, shared with training.
        token_budget: prompt and answer tokens held at once.
    """

    def __init__(self, model: VisionLanguageModel, cache: FeatureCache | None = None, token_budget: int = 8192) -> None:
        if token_budget < 1:
            raise ValueError(f"token_budget must be at least 1, got {token_budget}")
        self.model = model
        self.token_budget = token_budget
        self.pictures = PictureFeatures(model, cache)

    def generate(self, questions: Sequence[Question], max_new_tokens: int) -> list[Answer]:
        """One greedy answer for each question.

        Raises:
            BadRecord: a question that cannot be answered, such as one with an unreadable picture; names it.
        """
        sampling = Sampling(max_new_tokens=max_new_tokens)
        requests = [Request(self.prompt(question), sampling) for question in questions]
        said = generate(self.model, requests, pictures=self.pictures, token_budget=self.token_budget)
        for generation in said:
            if generation.error is not None:
                raise BadRecord(generation.error)
        return [Answer(one.text, truncated=not one.ended, tokens=len(one.ids)) for one in said]

    def score(self, questions: Sequence[Question], candidates: Sequence[Sequence[str]]) -> list[list[float]]:
        """Log-probability of each candidate as the whole answer to its question.

        Raises:
            BadRecord: a question that cannot be read; names it.
        """
        rows = [self.prompt(question) for question in questions]
        return score(self.model, rows, candidates, pictures=self.pictures, token_budget=self.token_budget)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text as an answer, the end token included."""
        return [len(self.model.tokenizer.encode(text)) + 1 for text in texts]

    def prompt(self, question: Question) -> Row:
        """The question as the model reads it, up to where its answer begins; one without content is how a document begins.

        Raises:
            ValueError: the question has a picture, or something else the model cannot take; names the question.
        """
        if not question.content:
            return replace(opening_row(None, self.model.tokenizer), sample_id=question.id)
        try:
            row = prompt_row(question.content, question.images, self.model.tokenizer, self.model.layout)
        except ValueError as error:
            kind = BadRecord if isinstance(error, BadRecord) else ValueError
            raise kind(f"question {question.id}: {error}") from error
        return replace(row, sample_id=question.id)

    def fingerprint(self) -> str:
        """Changes whenever an answer could: weights, precision, tokenizer, picture preparation, rule of scoring."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        layout = self.model.layout
        digest = hashlib.sha256()
        for part in (RULE, str(self.model.config.backbone), self.model.tokenizer.fingerprint()):
            digest.update(part.encode() + b"\0")
        digest.update((layout.fingerprint() if layout is not None else "text only").encode() + b"\0")
        for name, value in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\0".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()[:16]
