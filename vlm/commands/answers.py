"""Requests put to a model, and a record of each answer. In: `Asked` (requests.py). Out: pieces of text and records."""

import math
from collections.abc import Iterator, Sequence

from vlm.commands.answers_file import Record, answer_key
from vlm.commands.requests import Asked, picture_fault, request
from vlm.inference.generate import Fault, Generation, Piece, Request, stream
from vlm.model import VisionLanguageModel


class Answers:
    """The answers of a model to requests.

    Args:
        token_budget: tokens held at once.
        max_sequences: requests answered at once.
        model_key: of the model, for records that go into a file and are found there again.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        asked: Sequence[Asked],
        token_budget: int,
        max_sequences: int,
        model_key: str | None = None,
    ) -> None:
        self.num_failed = 0
        self._model, self._asked, self._model_key = model, asked, model_key
        self._token_budget, self._max_sequences = token_budget, max_sequences
        self._reading: dict[int, Request] = {}  # requests being answered, by their place

    def pieces(self) -> Iterator[tuple[Piece, Record | None]]:
        """Pieces of the answers as they come; with the last piece of each the record of its request."""
        for piece in stream(
            self._model, self._requests(), token_budget=self._token_budget, max_sequences=self._max_sequences
        ):
            yield piece, None if piece.generation is None else self._record(piece.index, piece.generation)

    def _requests(self) -> Iterator[Request | Fault]:
        for place, one in enumerate(self._asked):
            try:
                self._reading[place] = request(one, self._model)
            except ValueError as error:
                yield Fault(str(error))
            else:
                yield self._reading[place]

    def _record(self, place: int, said: Generation) -> Record:
        asked, read = self._asked[place], self._reading.pop(place, None)
        logprob = sum(said.logprobs)
        error = said.error
        if error is not None and read is not None:
            error = picture_fault(asked.images) or error.removeprefix(f"{asked.id}: ")  # the former names the file
        elif error is None and not math.isfinite(logprob):
            error = f"the model gave the log-probability {logprob}; check its weights for NaN"
        if error is not None:
            self.num_failed += 1
        record = {
            "id": asked.id,
            "prompt": asked.prompt,
            "answer": None if error else said.text,
            "finish": "error" if error else said.finish,
            "error": " ".join(error.split()) if error else None,
            "logprob": None if error else logprob,
            "prompt_tokens": None if read is None else len(read.row),
            "answer_tokens": 0 if error else len(said.ids),
        }
        if self._model_key is None:
            return record
        if error or read is None:
            return record | {"key": None}
        return record | {"key": answer_key(self._model_key, asked, [picture.key for picture in read.row.pictures])}
