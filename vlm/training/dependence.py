"""Image dependence: what a validation loss becomes with other pictures, and without any.

In: a packed row of documents, some with pictures. Out: sums over its documents, from which come three losses of the same answers:
- with the document's own pictures;
- with those of another document that has as many of the same sizes, so that the row looks as before and only the contents are wrong;
- with none: the document without its image slots, as it would be written for a text without pictures. Not zeros or a mean vector in the
  slots: a model never saw those, so its loss with them also tells how odd they are (docs/training.md has numbers).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from data.batch import NO_LABEL, Batch
from vlm.model import VisionLanguageModel

MIN_SAMPLES = 8  # with fewer the standard error says little
LEAST_NATS = 1e-3  # per answered token; less than that is no dependence, however sure
LOGIT_ROWS = 512  # of logits that exist at a time
SUMS = 8  # samples, answers, three losses, and the squares and products of which the standard error is made

Pictures = list[tuple[Tensor | None, str]]  # pixels, or None where they are cached, and the feature key


@dataclass(frozen=True)
class _Document:
    """A document with pictures and answers, as it stands in a batch."""

    number: int
    first: int  # place of its first token
    end: int
    pictures: slice  # of the batch's pictures


@dataclass(frozen=True, kw_only=True)
class Dependence:
    """Losses per answered token, over the same answers."""

    samples: int
    true_picture: float
    other_picture: float
    no_picture: float
    standard_error: float  # of other_picture - true_picture, over samples

    @classmethod
    def from_sums(cls, sums: Sequence[float]) -> "Dependence | None":
        """The losses from sums over documents; None where there are no samples."""
        samples, answers, true, other, none, squared, product, answers_squared = sums
        if not samples:
            return None
        mean = (other - true) / answers
        # Of a ratio of sums: documents with more answers weigh more.
        spread = squared - 2 * mean * product + mean**2 * answers_squared
        error = math.sqrt(max(0.0, spread) * samples / (samples - 1)) / answers if samples > 1 else math.inf
        return cls(
            samples=int(samples),
            true_picture=true / answers,
            other_picture=other / answers,
            no_picture=none / answers,
            standard_error=error,
        )

    @property
    def is_absent(self) -> bool:
        """True where another picture does as well: the difference lies within two standard errors of 0, or is too small to matter."""
        difference = self.other_picture - self.true_picture
        return self.samples >= MIN_SAMPLES and difference <= max(2 * self.standard_error, LEAST_NATS)

    def figures(self) -> dict[str, float]:
        """For the log."""
        return {
            "loss_true_picture": self.true_picture,
            "loss_other_picture": self.other_picture,
            "loss_no_picture": self.no_picture,
        }

    def words(self) -> str:
        """One line for people."""
        change = self.other_picture - self.true_picture
        error = f" +- {self.standard_error:.3f}" if math.isfinite(self.standard_error) else ""
        return (
            f"loss {self.true_picture:.3f} with its picture, {self.other_picture:.3f} with another's "
            f"({change:+.3f}{error}), {self.no_picture:.3f} with none ({self.samples} samples)"
        )


class ImageDependence:
    """Measures the first rows with pictures of each source, on each process.

    Args:
        rows: how many of each source; 0 measures nothing.

    Raises:
        ValueError: the number is negative.
    """

    def __init__(self, rows: int) -> None:
        if rows < 0:
            raise ValueError(f"model.image_dependence_rows must not be negative, got {rows}; 0 measures nothing")
        self.rows = rows
        self.begin()

    def begin(self) -> None:
        """Before each validation."""
        self._measured: dict[int, int] = {}  # rows of each source
        self._earlier: dict[tuple[int, ...], list[Pictures]] = {}  # of the row before, by source and slots

    @torch.no_grad()
    def measure(
        self, model: VisionLanguageModel, batch: Batch, hidden: Float[Tensor, "n d"], source: int
    ) -> Float64[Tensor, " sums"] | None:
        """Sums over the row's documents; None where there is nothing to measure, or enough was.

        Args:
            hidden: what the model gave for the batch as it is.
        """
        if not batch.images or self._measured.get(source, 0) >= self.rows:
            return None
        documents = _documents_with_pictures(batch)
        donors = self._donors(batch, documents, source)
        chosen = [document for document in documents if document.number in donors]
        if not chosen:
            return None
        self._measured[source] = self._measured.get(source, 0) + 1
        numbers = torch.tensor([document.number for document in chosen], device=hidden.device)
        true = document_losses(model, hidden, batch.labels, batch.lengths)[numbers]
        other = _losses(model, _with_pictures(batch, chosen, [donors[document.number] for document in chosen]))
        none = _losses(model, _with_pictures(batch, chosen, None))
        answers = answers_of(batch)[numbers].to(true)
        difference = other - true
        squares = ((difference, difference), (difference, answers), (answers, answers))
        sums = (torch.ones_like(true), answers, true, other, none, *(a * b for a, b in squares))
        return torch.stack([part.sum() for part in sums])

    def _donors(self, batch: Batch, documents: Sequence[_Document], source: int) -> dict[int, Pictures]:
        """For each document the pictures of another one that has as many with as many slots, and none of its own.

        Of the same row where there is such a document, else of the row before.
        """
        alike: dict[tuple[int, ...], list[_Document]] = {}
        for document in documents:
            alike.setdefault((source, *batch.slots_per_image[document.pictures]), []).append(document)
        donors = {}
        for kind, group in alike.items():
            pictures = [_pictures(batch, document) for document in group]
            for place, document in enumerate(group):
                candidates = [*pictures[place + 1 :], *pictures[:place], *self._earlier.get(kind, [])]
                own = {key for _, key in pictures[place]}
                if donor := next((one for one in candidates if own.isdisjoint(key for _, key in one)), None):
                    donors[document.number] = donor
            self._earlier[kind] = pictures[:2]
        return donors


def document_losses(
    model: VisionLanguageModel, hidden: Float[Tensor, "n d"], labels: Int64[Tensor, " n"], lengths: Sequence[int]
) -> Float64[Tensor, " s"]:
    """The sum of the cross entropies of each document's answered tokens."""
    answered = (labels != NO_LABEL).nonzero().squeeze(1)
    document = torch.repeat_interleave(torch.tensor(lengths, device=labels.device))
    total = torch.zeros(len(lengths), dtype=torch.float64, device=labels.device)
    for rows in answered.split(LOGIT_ROWS):
        losses = F.cross_entropy(model.logits(hidden[rows]), labels[rows], reduction="none")
        total.index_add_(0, document[rows], losses.double())
    return total


def answers_of(batch: Batch) -> Int64[Tensor, " s"]:
    """Answered tokens of each document."""
    counts = [int(part.sum()) for part in (batch.labels != NO_LABEL).cpu().split(list(batch.lengths))]
    return torch.tensor(counts, device=batch.labels.device)


def _losses(model: VisionLanguageModel, batch: Batch) -> Float64[Tensor, " s"]:
    return document_losses(model, model(batch).hidden, batch.labels, batch.lengths)


def _pictures(batch: Batch, document: _Document) -> Pictures:
    return list(zip(batch.images[document.pictures], batch.image_keys[document.pictures], strict=True))


def _documents_with_pictures(batch: Batch) -> list[_Document]:
    is_image = batch.is_image.cpu().split(list(batch.lengths))
    answers = answers_of(batch).tolist()
    documents, first, picture = [], 0, 0
    for number, (length, is_slot) in enumerate(zip(batch.lengths, is_image, strict=True)):
        before, held, wanted = picture, 0, int(is_slot.sum())
        while held < wanted:
            held += batch.slots_per_image[picture]
            picture += 1
        # Where a picture stands first, nothing stands before the text that could ask for its first token without it.
        if picture > before and answers[number] and not is_slot[0]:
            documents.append(_Document(number, first, first + length, slice(before, picture)))
        first += length
    return documents


def _with_pictures(batch: Batch, documents: Sequence[_Document], given: Sequence[Pictures] | None) -> Batch:
    """Some documents of a batch, with other pictures in their slots, or without their slots where None are given."""
    is_image = batch.is_image
    parts = [torch.arange(document.first, document.end, device=is_image.device) for document in documents]
    if given is None:
        parts = [part[~is_image[part]] for part in parts]
    lengths, kept = tuple(len(part) for part in parts), torch.cat(parts)
    # A slot may carry the label of the text behind it: which tokens are asked for is told by the tokens, not by their places.
    is_asked = F.pad(batch.labels != NO_LABEL, (1, 0))[:-1][kept]
    ids = batch.ids[kept]
    labels = torch.where(F.pad(is_asked, (0, 1))[1:], F.pad(ids, (0, 1))[1:], NO_LABEL)
    positions = batch.positions[kept]
    if given is None:
        count = torch.cat([torch.arange(length, device=is_image.device) for length in lengths])
        positions = count[:, None].expand(-1, positions.shape[1])
    pictures = [] if given is None else [one for some in given for one in some]
    slots = [] if given is None else [batch.slots_per_image[document.pictures] for document in documents]
    return replace(
        batch,
        ids=ids,
        labels=labels,
        positions=positions,
        lengths=lengths,
        is_image=is_image[kept],
        images=tuple(image for image, _ in pictures),
        image_keys=tuple(key for _, key in pictures),
        slots_per_image=tuple(one for some in slots for one in some),
        sample_ids=tuple(batch.sample_ids[document.number] for document in documents),
        num_image_slots=sum(one for some in slots for one in some),
        num_answered=int((labels != NO_LABEL).sum()),
    )
