"""`vlm bench parts`: the backbone's parts, each beside what one would write without it; forward and backward, float32.

Experts stand beside dense products of the same FLOPs, which is what the machine could do if routing were free; attention
beside a dense mask; smoothing beside a loop; the loss beside full logits; the chunker beside the whole step that it is in.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlm.backbone import ChunkConfig, ConceptMoE, Documents, ExpertsConfig
from vlm.backbone.attend import attend
from vlm.backbone.block import Stream
from vlm.backbone.chunk import smooth
from vlm.backbone.experts import Routing, SparseFeedForward
from vlm.bench.models import PLAIN
from vlm.bench.timing import interleave
from vlm.training.allocator import keep_freed_memory
from vlm.training.loss import answered_cross_entropy

Run = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class PartTime:
    """One part and its peer, timed in the same rounds."""

    name: str
    peer: str
    ours_s: float  # medians of the rounds
    peer_s: float
    ratio: float  # the peer's time over ours, median of the rounds' ratios
    spread: float  # (greatest - least) / median of those ratios


@dataclass(frozen=True)
class Pair:
    """What is timed: a part, and what stands beside it."""

    name: str
    peer: str
    run_ours: Run
    run_peer: Run


def backward(run: Callable[[], Tensor], inputs: list[Tensor]) -> Run:
    """Forward and backward to the inputs, from one fixed gradient."""
    with torch.no_grad():
        shape = run()
    grad = torch.randn_like(shape)
    return lambda: torch.autograd.grad(run(), inputs, grad)


def experts(num_tokens: int, width: int, num_experts: int, top_k: int, hidden: int, device: torch.device) -> Pair:
    """Experts beside six dense products over as many rows as there are (token, expert) pairs; the router is left out."""
    layer = SparseFeedForward(width, ExpertsConfig(num_experts=num_experts, top_k=top_k, hidden=hidden)).to(device)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    x = torch.randn(num_tokens, width, device=device, requires_grad=True)
    routing = layer.gate.choose(x.detach())
    weight = routing.weight.detach().requires_grad_()
    routing = replace(routing, weight=weight)
    num_rows = num_tokens * top_k
    rows, inner, middle, out = (
        torch.randn(num_rows, size, device=device) for size in (width, 2 * hidden, hidden, width)
    )
    gate_up, down = torch.randn(2 * hidden, width, device=device), torch.randn(width, hidden, device=device)

    def products() -> None:
        for left, right, grad in ((rows, gate_up, inner), (middle, down, out)):
            _ = left @ right.T, grad @ right, grad.T @ left

    inputs = [x, weight, *layer.experts.parameters()]
    name = f"experts, {num_tokens} x {width}, top-{top_k} of {num_experts} x {hidden}"
    return Pair(
        name,
        "dense products",
        backward(lambda: layer.experts(x, routing.weight, routing.order, routing.ends), inputs),
        products,
    )


def attention(num_documents: int, device: torch.device, num_tokens: int = 4096) -> Pair:
    """Six heads of 64 over documents of one length beside attention with a dense mask."""
    documents = Documents.from_lengths([num_tokens // num_documents] * num_documents, device)
    q, k, v = heads = [torch.randn(num_tokens, 6, 64, device=device, requires_grad=True) for _ in range(3)]
    document, token = documents.document_of_token, torch.arange(num_tokens, device=device)
    sees = (document[:, None] == document) & (token[:, None] >= token)

    def masked() -> Tensor:
        query, key, value = (part.transpose(0, 1)[None] for part in heads)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=sees)

    name = f"attention, {num_tokens} tokens in {num_documents} documents"
    return Pair(name, "dense mask", backward(lambda: attend(q, k, v, documents), heads), backward(masked, heads))


def smoothing(device: torch.device, num_concepts: int = 4096, width: int = 384) -> Pair:
    """The moving average over concepts beside a loop over them."""
    concepts = torch.randn(num_concepts, width, device=device, requires_grad=True)
    prob = torch.rand(num_concepts, device=device, requires_grad=True)

    def loop() -> Tensor:
        out: list[Tensor] = []
        for concept, p in zip(concepts.unbind(0), prob.unbind(0), strict=True):
            out.append(p * concept + (1 - p) * out[-1] if out else p * concept)
        return torch.stack(out)

    inputs = [concepts, prob]
    name = f"smoothing, {num_concepts} x {width}"
    return Pair(name, "loop", backward(lambda: smooth(concepts, prob), inputs), backward(loop, inputs))


def loss(device: torch.device, num_tokens: int = 2048, width: int = 384, vocabulary: int = 32000) -> Pair:
    """Cross entropy in chunks beside that of all logits at once; every token is answered."""
    hidden = torch.randn(num_tokens, width, device=device, requires_grad=True)
    weight = (torch.randn(vocabulary, width, device=device) * width**-0.5).requires_grad_()
    labels = torch.randint(vocabulary, (num_tokens,), device=device)
    inputs = [hidden, weight]

    def full() -> Tensor:
        return F.cross_entropy(hidden @ weight.T, labels, reduction="sum")

    def ours() -> Tensor:
        return answered_cross_entropy(hidden, labels, weight, num_tokens)

    name = f"cross entropy, {num_tokens} x {width} x {vocabulary}"
    return Pair(name, "full logits", backward(ours, inputs), backward(full, inputs))


STEP = replace(PLAIN, chunk=ChunkConfig(compression=2.0))


class _NoLayers(ConceptMoE):
    """Everything between encoder and decoder, except the concept layers."""

    def run_concepts(self, concepts: Tensor, stream: Stream, routings: list[Routing | None]) -> Tensor:
        return concepts


def chunker(device: torch.device, num_tokens: int = 2048) -> Pair:
    """What chunking costs beside the step that it is in: 12 layers, without head and optimizer."""
    whole = ConceptMoE(STEP).to(device)
    # Its last norm stands behind the decoder.
    alone = _NoLayers(replace(STEP, encoder_layers=0, concept_layers=1, decoder_layers=0)).to(device)
    alone.norm = nn.Identity()  # type: ignore[assignment]
    documents = Documents.from_lengths([num_tokens // 8] * 8, device)
    x = torch.randn(num_tokens, STEP.width, device=device, requires_grad=True)
    grad, one = torch.randn_like(x), torch.ones((), device=device)

    def step(backbone: ConceptMoE) -> Run:
        learning = [x, *(p for name, p in backbone.named_parameters() if name.startswith("chunker"))]
        if backbone is whole:
            learning = [x, *backbone.parameters()]

        def run() -> Any:
            out = backbone(x, documents)
            return torch.autograd.grad([out.hidden, out.losses["ratio"]], learning, [grad, one], allow_unused=True)

        return run

    return Pair(f"chunker, {num_tokens} x {STEP.width}", "the whole step", step(alone), step(whole))


def pairs(device: torch.device) -> Iterator[Pair]:
    """All parts, one at a time: each holds its tensors only while it is measured."""
    yield experts(2048, 384, 16, 2, 512, device)
    yield experts(2048, 512, 32, 8, 512, device)
    yield attention(8, device)
    yield attention(128, device)
    yield smoothing(device)
    yield loss(device)
    yield chunker(device)


NUM_PAIRS = 7


def measure(pair: Pair, rounds: int = 7, device: torch.device | str = "cpu") -> PartTime:
    """Time a part and its peer in turn."""
    timings = interleave({"ours": pair.run_ours, "peer": pair.run_peer}, rounds=rounds, device=device)
    ours, peer = timings["ours"], timings["peer"]
    ratios = [theirs / mine for mine, theirs in zip(ours.seconds, peer.seconds, strict=True)]
    return PartTime(
        name=pair.name,
        peer=pair.peer,
        ours_s=ours.median,
        peer_s=peer.median,
        ratio=median(ratios),
        spread=(max(ratios) - min(ratios)) / median(ratios),
    )


def measure_parts(
    *, rounds: int = 7, device: torch.device | str = "cpu", progress: Callable[[int, int], None] | None = None
) -> list[PartTime]:
    """Time every part."""
    keep_freed_memory()  # as training does
    torch.manual_seed(0)
    results = []
    for pair in pairs(torch.device(device)):
        results.append(measure(pair, rounds, device))
        if progress is not None:
            progress(len(results), NUM_PAIRS)
    return results
