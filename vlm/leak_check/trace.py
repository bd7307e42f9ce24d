"""What each part of the model computed for each record of a row.

In: a model and a packed batch. Out: a `Trace`: stations in the order of the forward pass, each a tensor whose rows (tokens,
concepts, vectors of pictures) are known to belong to this or that record. The row's own lengths say which, not the
model's bookkeeping, so that a mistake of the latter shows.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from data.batch import Batch
from encoders.protocol import Features
from vlm.leak_check.noise import RecordNoise
from vlm.model import VisionLanguageModel


@dataclass(frozen=True)
class Station:
    """One tensor on the way through the model."""

    tensor: Tensor  # in the graph
    lengths: tuple[int, ...]  # rows of each record

    def rows(self, record: int) -> Tensor:
        first = sum(self.lengths[:record])
        return self.tensor[first : first + self.lengths[record]]


@dataclass
class Trace:
    """One forward pass.

    Attributes:
        embeddings: of the tokens, the leaf that gradients go to.
        pixels: of each crop, as the encoder takes them; leaves too.
        crops: of each record.
        vectors: of each crop, as the encoder gives them.
        error: why the model refused the row, which ends the trace.
    """

    batch: Batch
    crops: tuple[int, ...]
    stations: dict[str, Station] = field(default_factory=dict)
    embeddings: Tensor | None = None
    pixels: list[Tensor] = field(default_factory=list)
    vectors: list[int] = field(default_factory=list)
    concept_of_token: Tensor | None = None
    boundary: Tensor | None = None
    error: str | None = None

    @property
    def num_records(self) -> int:
        return len(self.batch.lengths)

    def tokens_of(self, record: int) -> slice:
        first = sum(self.batch.lengths[:record])
        return slice(first, first + self.batch.lengths[record])


def trace(
    model: VisionLanguageModel, batch: Batch, crops: Sequence[int], seeds: Sequence[int], has_graph: bool = True
) -> Trace:
    """Run the model, in the mode that it is in.

    Args:
        crops: of each record of the batch.
        seeds: of each record's noise.
        has_graph: False where no gradient will be asked for. Weights are taken to ask for none.
    """
    found = Trace(batch, tuple(crops))
    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        if model.training:
            stack.enter_context(RecordNoise(seeds, batch.lengths))
        stack.enter_context(_watch(model, found, has_graph))
        try:
            out = model(batch)
        except (ValueError, RuntimeError, IndexError) as error:
            found.error = " ".join(str(error).split())
            return found
    _note(found, "hidden", out.hidden, batch.lengths)
    _note(found, "logits", model.logits(out.hidden), batch.lengths)
    if out.chunks is not None:
        found.concept_of_token, found.boundary = out.chunks.concept_of_token, out.chunks.boundary
    return found


def _note(found: Trace, name: str, tensor: Tensor, lengths: Sequence[int]) -> None:
    """Keep a station; a layer that runs again is another one."""
    count = 2
    written = name
    while written in found.stations:
        written, count = f"{name} (run {count})", count + 1
    found.stations[written] = Station(tensor, tuple(lengths))


@contextmanager
def _watch(model: VisionLanguageModel, found: Trace, has_graph: bool) -> Iterator[None]:
    """While active, what the parts of the model compute is noted."""
    tokens = found.batch.lengths
    with ExitStack() as stack:

        def after(module: nn.Module, name: str, lengths: Callable[[], Sequence[int]]) -> None:
            def keep(_: nn.Module, __: Any, output: Any) -> None:
                _note(found, name, output[0] if isinstance(output, tuple) else output, lengths())

            stack.callback(module.register_forward_hook(keep).remove)

        def embed(_: nn.Module, __: Any, output: Tensor) -> Tensor:
            found.embeddings = output.detach().requires_grad_(has_graph)
            _note(found, "embed", found.embeddings, tokens)
            return found.embeddings

        stack.callback(model.embed.register_forward_hook(embed).remove)
        if found.batch.images and model.connector is not None:  # without pictures a blank one goes through, times zero
            stack.enter_context(_encoder_watched(model, found, has_graph))

            def connect(_: nn.Module, __: Any, output: Tensor) -> None:
                slots = found.batch.is_image.cpu().split(list(tokens))
                _note(found, "connector", output, [int(part.sum()) for part in slots])

            stack.callback(model.connector.register_forward_hook(connect).remove)
        stack.enter_context(_backbone_watched(model, found, after))
        yield


@contextmanager
def _encoder_watched(model: VisionLanguageModel, found: Trace, has_graph: bool) -> Iterator[None]:
    """Pixels become leaves, of the dtype of the weights: `ImageSpec.normalise` gives float32 whatever the model's."""
    encoder: Any = model.encoder
    encode, dtype = encoder.encode, next(encoder.parameters(), model.embed.weight).dtype

    def watched(images: Sequence[Tensor]) -> Features:
        found.pixels = [image.detach().to(dtype).requires_grad_(has_graph) for image in images]
        with torch.enable_grad():  # also where the encoder is frozen
            features: Features = encode(found.pixels)
        found.vectors = vectors = [rows * columns for rows, columns in features.grids.tolist()]
        firsts = [sum(found.crops[:record]) for record in range(found.num_records)]
        lengths = [sum(vectors[first : first + own]) for first, own in zip(firsts, found.crops, strict=True)]
        _note(found, "encoder", features.vectors, lengths)
        return features

    with _replaced(encoder, "encode", watched):
        yield


@contextmanager
def _backbone_watched(
    model: VisionLanguageModel, found: Trace, after: Callable[[nn.Module, str, Callable[[], Sequence[int]]], None]
) -> Iterator[None]:
    backbone: Any = model.backbone
    tokens = found.batch.lengths
    concepts: list[int] = list(tokens)  # those of the chunker, once it has drawn them

    with ExitStack() as stack:

        def enter(name: str, block: nn.Module, lengths: Callable[[], Sequence[int]]) -> None:
            """Note what a stack of layers is given."""

            def keep(_: nn.Module, args: tuple[Any, ...]) -> None:
                x, stream, *rest = args
                if f"{name}: positions" in found.stations:  # a layer that runs again
                    return
                _note(found, f"{name}: given", x, lengths())
                if rest and rest[0] is not None:
                    _note(found, f"{name}: concepts seen", rest[0], lengths())
                _note(found, f"{name}: positions", torch.cat(stream.rotary, -1).flatten(1), lengths())

            stack.callback(block.register_forward_pre_hook(keep).remove)

        def of_tokens() -> Sequence[int]:
            return tokens

        def of_concepts() -> Sequence[int]:
            return concepts

        def begin(_: nn.Module, args: tuple[Any, ...]) -> None:
            _note(found, "row", args[0], tokens)

        stack.callback(backbone.register_forward_pre_hook(begin).remove)
        for part in ("encoder", "concept", "decoder"):
            layers, lengths = getattr(backbone, part), of_concepts if part == "concept" else of_tokens
            first = (*backbone.config.concept_order, 0)[0] if part == "concept" else 0
            for number, block in enumerate(layers):
                path = f"backbone.{part}.{number}"
                if number == first:
                    enter(f"backbone.{part}", block, lengths)
                after(block.self_attn, f"{path}.self_attn", lengths)
                after(block.mlp, f"{path}.mlp", lengths)
                after(block, path, lengths)
        if backbone.chunker is not None:
            stack.enter_context(_chunker_watched(backbone.chunker, found, concepts))
        if not len(backbone.decoder):

            def end(_: nn.Module, args: tuple[Any, ...]) -> None:
                _note(found, "backbone.decoder: given", args[0], tokens)

            stack.callback(backbone.norm.register_forward_pre_hook(end).remove)
        yield


@contextmanager
def _chunker_watched(chunker: Any, found: Trace, concepts: list[int]) -> Iterator[None]:
    compute_prob, compute_merge = chunker.prob, chunker.merge
    tokens = found.batch.lengths

    def prob(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        computed: Tensor = compute_prob(x, *args, **kwargs)
        _note(found, "backbone.chunker: probabilities", computed, tokens)
        return computed

    def merge(x: Tensor, closes: Tensor, boundary: Tensor, *args: Any, **kwargs: Any) -> Any:
        _note(found, "backbone.chunker: boundaries", closes, tokens)
        concepts[:] = [int(part.sum()) for part in closes.split(list(tokens))]
        merged = compute_merge(x, closes, boundary, *args, **kwargs)
        _note(found, "backbone.chunker: unmerged", x, tokens)
        _note(found, "backbone.chunker: merged", merged[0], concepts)
        return merged

    with _replaced(chunker, "prob", prob), _replaced(chunker, "merge", merge):
        yield


@contextmanager
def _replaced(module: nn.Module, name: str, method: Callable[..., Any]) -> Iterator[None]:
    """A method of this one module is another for a while."""
    own = vars(module).get(name)
    vars(module)[name] = method
    try:
        yield
    finally:
        if own is None:
            del vars(module)[name]
        else:
            vars(module)[name] = own
