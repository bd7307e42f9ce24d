"""Answer many prompts: requests join a batch as others end, and their text comes as it is made.

In: requests. Out: pieces of text (`stream`), or whole answers in order (`generate`). An answer does not depend on its
neighbours, and a request that cannot be served fails alone.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from data.sample import BadRecord
from data.text import Row
from vlm.inference.decoding import Answer, LiveBatch
from vlm.inference.pictures import PictureFeatures, answering
from vlm.inference.prompts import check_prompt
from vlm.inference.sampling import Sampling
from vlm.model import VisionLanguageModel

TOKEN_BUDGET = 8192
MAX_SEQUENCES = 64


@dataclass(frozen=True)
class Request:
    """A prompt, and how it is to be answered."""

    row: Row  # ends where the answer begins, as `prompt_row` makes it
    sampling: Sampling


@dataclass(frozen=True)
class Fault:
    """Stands among requests for one that could not be made, so that its answer is the reason, in its place."""

    error: str  # one line


@dataclass(frozen=True)
class Generation:
    """What the model said to one prompt."""

    text: str
    ids: tuple[int, ...]  # all that were chosen: with the end token or stop id if it came, with those of a stop string
    logprobs: tuple[float, ...]  # of each id, by the model itself (temperature 1, no penalty, nothing cut off)
    finish: Literal["end", "stop", "length", "error"]  # stop: a stop string or stop id came; length: max_new_tokens did
    error: str | None = None  # one line: why there is no answer

    @property
    def ended(self) -> bool:
        """False where max_new_tokens cut the answer off, and where there is none."""
        return self.finish in ("end", "stop")


@dataclass(frozen=True)
class Piece:
    """What is new in one answer. The texts of a request's pieces together are its generation's text."""

    index: int  # of the request
    text: str  # never half a character, never a part of a stop string
    generation: Generation | None = None  # with the request's last piece


def stream(
    model: VisionLanguageModel,
    requests: Iterable[Request | Fault],
    *,
    pictures: PictureFeatures | None = None,
    token_budget: int = TOKEN_BUDGET,
    max_sequences: int = MAX_SEQUENCES,
) -> Generator[Piece, None, None]:
    """Answer requests side by side, and give their text as it comes. A request is taken when there is room for it.

    Between pieces the model is as it was before: in its own mode, with gradients as the caller has them.

    Args:
        pictures: features to share with other calls; None computes them for this call.
        token_budget: prompt and `max_new_tokens` of all requests in the making together. One that is longer is
            answered alone.
        max_sequences: how many requests are in the making at most.

    Raises:
        ValueError: the limits make no sense. A fault of a request is the `error` of its generation.
    """
    for name, value in (("token_budget", token_budget), ("max_sequences", max_sequences)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    return _stream(model, requests, pictures or PictureFeatures(model), token_budget, max_sequences)


def generate(
    model: VisionLanguageModel,
    requests: Sequence[Request | Fault],
    *,
    pictures: PictureFeatures | None = None,
    token_budget: int = TOKEN_BUDGET,
    max_sequences: int = MAX_SEQUENCES,
    progress: Callable[[int, int], None] | None = None,
) -> list[Generation]:
    """Answer each request; the answers are in the order of the requests.

    Args:
        pictures, token_budget, max_sequences: see `stream`.
        progress: told after each answer: how many there are, and how many requests.
    """
    # The longest first: the cache has room for the longest in each of its rows, and what comes late does not end late.
    order = sorted(range(len(requests)), key=lambda index: -_size(requests[index]))
    answers: dict[int, Generation] = {}
    pieces = stream(
        model,
        (requests[index] for index in order),
        pictures=pictures,
        token_budget=token_budget,
        max_sequences=max_sequences,
    )
    for piece in pieces:
        if piece.generation is not None:
            answers[order[piece.index]] = piece.generation
            if progress is not None:
                progress(len(answers), len(requests))
    return [answers[index] for index in range(len(requests))]


def check_request(model: VisionLanguageModel, request: Request) -> None:
    """Refuse what this model cannot read or answer.

    Raises:
        BadRecord: names the row, and says what came and what is needed.
    """
    check_prompt(model, request.row, request.sampling.max_new_tokens)
    for token in request.sampling.stop_ids:
        if token >= model.tokenizer.vocab_size:
            raise BadRecord(
                f"{request.row.sample_id}: the stop id {token} has no effect, as the model's ids end at "
                f"{model.tokenizer.vocab_size - 1}; leave it out"
            )


def piece_of(index: int, answer: Answer, text: str) -> Piece:
    """What `take` of an answer gave, as a piece."""
    if answer.finish is None:
        return Piece(index, text)
    said = Generation(answer.text, tuple(answer.ids), tuple(answer.logprobs), answer.finish, answer.error)
    return Piece(index, text, said)


def _failed(index: int, error: str) -> Piece:
    return Piece(index, "", Generation("", (), (), "error", " ".join(error.split())))


def _size(request: Request | Fault) -> int:
    return 0 if isinstance(request, Fault) else len(request.row) + request.sampling.max_new_tokens


def _stream(
    model: VisionLanguageModel,
    requests: Iterable[Request | Fault],
    pictures: PictureFeatures,
    token_budget: int,
    max_sequences: int,
) -> Generator[Piece, None, None]:
    queue = _Queue(requests)
    batch: LiveBatch | None = None
    places: dict[Answer, tuple[int, int]] = {}  # of each answer in the making: index and size of its request
    while True:
        room = token_budget - sum(size for _, size in places.values())
        taken = queue.take(room, max_sequences - len(places), is_empty=not places)
        faults: list[Piece] = []
        with answering(model, pictures):
            fit = _serveable(model, taken, pictures, faults)
        yield from faults
        if not taken and not places:
            return
        if fit:
            if batch is None or not places:
                batch = LiveBatch(model, pictures, max(token_budget, max(_size(request) for _, request in fit)))
            joining = {Answer(model, one.row, one.sampling): (index, _size(one)) for index, one in fit}
            places |= joining
            with answering(model, pictures):
                told = batch.join([one.row for _, one in fit], list(joining))
            yield from _pieces(joining, told, places)
        if places:
            assert batch is not None
            before = batch.answers
            with answering(model, pictures):
                told = batch.step()
            yield from _pieces(before, told, places)


def _pieces(answers: Iterable[Answer], told: Sequence[str], places: dict[Answer, tuple[int, int]]) -> Iterator[Piece]:
    """What is new, in order; answers that are complete leave `places`."""
    pieces = [piece_of(places[answer][0], answer, text) for answer, text in zip(answers, told, strict=True)]
    for answer in [answer for answer in places if answer.finish is not None]:
        del places[answer]
    return (piece for piece in pieces if piece.text or piece.generation is not None)


def _serveable(
    model: VisionLanguageModel,
    taken: Sequence[tuple[int, Request | Fault]],
    pictures: PictureFeatures,
    faults: list[Piece],
) -> list[tuple[int, Request]]:
    """The requests without fault, their pictures known; the others go to `faults`."""
    good: list[tuple[int, Request]] = []
    for index, request in taken:
        if isinstance(request, Fault):
            faults.append(_failed(index, request.error))
            continue
        try:
            check_request(model, request)
            good.append((index, request))
        except BadRecord as error:
            faults.append(_failed(index, str(error)))
    try:
        pictures.prepare([request.row for _, request in good])
        return good
    except BadRecord:
        pass  # Together they are encoded faster, so that one by one is for finding the bad ones only.
    readable: list[tuple[int, Request]] = []
    for index, request in good:
        try:
            pictures.prepare([request.row])
            readable.append((index, request))
        except BadRecord as error:
            faults.append(_failed(index, str(error)))
    return readable


class _Queue:
    """Requests with their indices, taken one by one; one that did not fit waits and comes first."""

    def __init__(self, requests: Iterable[Request | Fault]) -> None:
        self._rest = enumerate(requests)
        self._waiting: tuple[int, Request | Fault] | None = None

    def take(self, room: int, count: int, is_empty: bool) -> list[tuple[int, Request | Fault]]:
        """Up to `count` requests that fit into `room` tokens; the first fits anyway if the batch is empty."""
        taken: list[tuple[int, Request | Fault]] = []
        while len(taken) < count:
            if self._waiting is None:
                self._waiting = next(self._rest, None)
            if self._waiting is None:
                break
            size = _size(self._waiting[1])
            if size > room and not (is_empty and not taken):
                break
            taken.append(self._waiting)
            room -= size
            self._waiting = None
        return taken
