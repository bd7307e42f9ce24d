"""The whole backbone once more, slowly: loops over documents, tokens, heads, experts and concepts.

Written from the formulas (ConceptMoE, arXiv 2601.21420, Eq. 1-11; Qwen3-MoE's block), over lists of vectors. From the
module under test it takes the weights, by name, and the config; none of its code.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vlm.backbone import BackboneConfig, ConceptMoE, ExpertsConfig

Vectors = list[Tensor]
Place = tuple[int, ...]  # time, row, column


@dataclass
class Slow:
    """What the loops give, in the order of the tokens."""

    hidden: Vectors = field(default_factory=list)
    prob: Vectors = field(default_factory=list)
    closes: list[bool] = field(default_factory=list)
    concept_of_token: list[int] = field(default_factory=list)
    routed: list[list[tuple[Tensor, list[int]]]] = field(default_factory=list)  # by run of a layer, by token


class _One(torch.autograd.Function):
    """The straight-through factor: 1, whose derivative is taken to be that of the confidence."""

    @staticmethod
    def forward(ctx, confidence: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        return torch.ones_like(confidence)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        return grad


class Oracle:
    def __init__(self, backbone: ConceptMoE) -> None:
        self.config: BackboneConfig = backbone.config
        self.weights = dict(backbone.named_parameters())

    def run(
        self, x: Tensor, lengths: list[int], closes: list[bool] | None = None, places: list[Place] | None = None
    ) -> Slow:
        """One document after another.

        Args:
            closes: where concepts end, if not where the probability reaches a half.
            places: positions, if not counted in each document.
        """
        out, first = Slow(), 0
        num_runs = self.config.encoder_layers + len(self.order()) + self.config.decoder_layers
        out.routed = [[] for _ in range(num_runs)]
        for length in lengths:
            rows = range(first, first + length)
            here: list[Place] = [(i - first,) * 3 if places is None else places[i] for i in rows]
            self.document(out, [x[i] for i in rows], here, None if closes is None else [closes[i] for i in rows])
            first += length
        return out

    def document(self, out: Slow, xs: Vectors, places: list[Place], closes: list[bool] | None) -> None:
        config = self.config
        runs = iter(out.routed)
        for layer in range(config.encoder_layers):
            xs = self.block(f"encoder.{layer}", xs, places, next(runs))
        seen = None
        if config.chunk is None:
            for layer in self.order():
                xs = self.block(f"concept.{layer}", xs, places, next(runs))
        else:
            prob = [self.boundary_probability(xs, n) for n in range(len(xs))]
            closes = [bool(p >= 0.5) for p in prob] if closes is None else closes
            ends = [n for n, ends_here in enumerate(closes) if ends_here]  # phi
            concepts = [self.concept(xs, ends, m) for m in range(len(ends))]
            here = [(m,) * 3 if config.chunk.positions == "count" else places[end] for m, end in enumerate(ends)]
            before = (
                [self.linear("project_in", c) for c in concepts] if "project_in.weight" in self.weights else concepts
            )
            after = before
            for layer in self.order():
                after = self.block(f"concept.{layer}", after, here, next(runs))
            changed = [a - b for a, b in zip(after, before, strict=True)]
            weights = [prob[end] for end in ends]
            whole = self.smoothed(after, weights)
            added = self.smoothed(changed, weights) if config.chunk.residual == "delta" else whole
            of_token = [sum(end <= n for end in ends) - 1 for n in range(len(xs))]  # psi
            sure = [p if ends_here else 1 - p for p, ends_here in zip(prob, closes, strict=True)]
            xs = [x + added[m] * _One.apply(s) for x, m, s in zip(xs, of_token, sure, strict=True)]
            seen = [whole[m] for m in of_token] if config.chunk.joint is not None else None
            num_before = out.concept_of_token[-1] + 1 if out.concept_of_token else 0
            out.prob += prob
            out.closes += closes
            out.concept_of_token += [num_before + m for m in of_token]
        for layer in range(config.decoder_layers):
            xs = self.block(f"decoder.{layer}", xs, places, next(runs), seen)
        out.hidden += [self.norm("norm", x) for x in xs]

    def order(self) -> list[int]:
        """The block of the loop as a whole runs again."""
        layers, loop = list(range(self.config.concept_layers)), self.config.concept.loop
        if loop is None:
            return layers
        again = [loop.first + i for _ in range(loop.passes) for i in range(loop.layers)]
        return layers[: loop.first] + again + layers[loop.first + loop.layers :]

    def boundary_probability(self, h: Vectors, n: int) -> Tensor:
        if n == 0:
            return torch.ones((), dtype=h[0].dtype)
        q, k = self.linear("chunker.q_proj", h[n]), self.linear("chunker.k_proj", h[n - 1])
        return (1 - q @ k / (q.norm() * k.norm())) / 2

    def concept(self, h: Vectors, ends: list[int], m: int) -> Tensor:
        assert self.config.chunk is not None
        if self.config.chunk.merge == "last":
            return h[ends[m]]
        begin = ends[m - 1] + 1 if m else 0
        total = torch.zeros_like(h[0])
        for n in range(begin, ends[m] + 1):
            total = total + h[n]
        return total

    def smoothed(self, concepts: Vectors, prob: Vectors) -> Vectors:
        out = [concepts[0]]
        for concept, p in zip(concepts[1:], prob[1:], strict=True):
            out.append(p * concept + (1 - p) * out[-1])
        return [self.linear("project_out", c) for c in out] if "project_out.weight" in self.weights else out

    def block(
        self,
        name: str,
        xs: Vectors,
        places: list[Place],
        routed: list[tuple[Tensor, list[int]]],
        seen: Vectors | None = None,
    ) -> Vectors:
        is_concept = name.startswith("concept")
        block = self.config.concept_block if is_concept else self.config.token_block
        normed = [self.norm(f"{name}.input_layernorm", x) for x in xs]
        attended = self.attention(f"{name}.self_attn", block.num_heads, block.num_kv_heads, normed, places, seen)
        xs = [x + a for x, a in zip(xs, attended, strict=True)]
        return [x + self.feed_forward(f"{name}.mlp", block.experts, x, name, routed) for x in xs]

    def attention(
        self, name: str, num_heads: int, num_kv_heads: int, xs: Vectors, places: list[Place], seen: Vectors | None
    ) -> Vectors:
        q, k, v = ([self.linear(f"{name}.{part}_proj", x) for x in xs] for part in "qkv")
        if seen is not None:
            normed = [self.norm(f"{name}.joint_norm", c) for c in seen]
            q, k, v = (
                [own + self.linear(f"{name}.joint_{part}_proj", c) for own, c in zip(rows, normed, strict=True)]
                for part, rows in (("q", q), ("k", k), ("v", v))
            )
        queries = [self.heads(f"{name}.q_norm", x, num_heads, place) for x, place in zip(q, places, strict=True)]
        keys = [self.heads(f"{name}.k_norm", x, num_kv_heads, place) for x, place in zip(k, places, strict=True)]
        values = [x.chunk(num_kv_heads) for x in v]
        out = []
        for i in range(len(xs)):
            heads = []
            for head in range(num_heads):
                group = head // (num_heads // num_kv_heads)
                scores = [queries[i][head] @ keys[j][group] / math.sqrt(self.config.head_width) for j in range(i + 1)]
                share = torch.stack(scores).exp() / torch.stack(scores).exp().sum()
                heads.append(sum((share[j] * values[j][group] for j in range(i + 1)), torch.zeros_like(values[0][0])))
            out.append(self.linear(f"{name}.o_proj", torch.cat(heads)))
        return out

    def heads(self, norm: str, x: Tensor, num_heads: int, place: Place) -> Vectors:
        if self.config.qk_norm == "all":
            x = self.norm(norm, x)
        heads = list(x.chunk(num_heads))
        if self.config.qk_norm == "head":
            heads = [self.norm(norm, head) for head in heads]
        return [self.turned(head, place) for head in heads]

    def turned(self, head: Tensor, place: Place) -> Tensor:
        """Entry i and entry i + half turn together; pairs take time, row and column in turns."""
        half = len(head) // 2
        first, second = [], []
        for i in range(half):
            angle = place[i % 3] * self.config.rope_theta ** (-i / half)
            a, b = head[i], head[i + half]
            first.append(a * math.cos(angle) - b * math.sin(angle))
            second.append(a * math.sin(angle) + b * math.cos(angle))
        return torch.stack(first + second)

    def feed_forward(
        self, name: str, experts: ExpertsConfig, x: Tensor, block: str, routed: list[tuple[Tensor, list[int]]]
    ) -> Tensor:
        x = self.norm(f"{block}.post_attention_layernorm", x)
        if experts.num_experts == 1:
            return self.swiglu(name, x)
        scores = self.linear(f"{name}.gate", x)
        prob = scores.exp() / scores.exp().sum()
        chosen = sorted(range(experts.num_experts), key=lambda e: prob[e].item(), reverse=True)[: experts.top_k]
        routed.append((scores, chosen))
        total = torch.zeros_like(x)
        for e in chosen:
            weight = prob[e] / sum(prob[c] for c in chosen) if experts.normalize_top_k else prob[e]
            gate, up = (self.weights[f"{name}.experts.gate_up_proj"][e] @ x).chunk(2)
            total = total + weight * (self.weights[f"{name}.experts.down_proj"][e] @ (gate * gate.sigmoid() * up))
        return total + self.swiglu(f"{name}.shared_expert", x) if experts.shared_hidden else total

    def swiglu(self, name: str, x: Tensor) -> Tensor:
        gate, up = self.linear(f"{name}.gate_proj", x), self.linear(f"{name}.up_proj", x)
        return self.linear(f"{name}.down_proj", gate * gate.sigmoid() * up)

    def linear(self, name: str, x: Tensor) -> Tensor:
        out = self.weights[f"{name}.weight"] @ x
        return out + self.weights[f"{name}.bias"] if f"{name}.bias" in self.weights else out

    def norm(self, name: str, x: Tensor) -> Tensor:
        return x / (x.square().mean() + self.config.norm_eps).sqrt() * self.weights[f"{name}.weight"]


def losses_by_loop(config: BackboneConfig, slow: Slow, is_image: list[bool]) -> dict[str, Tensor]:
    """Ratio, balance and z losses of what an oracle gave."""
    zero = torch.zeros((), dtype=torch.float64)
    balance, z = [], []
    for run in slow.routed:
        if not run:
            continue
        num_experts = len(run[0][0])
        uneven, logs = zero, zero
        for e in range(num_experts):
            share = sum(e in chosen for _, chosen in run) / sum(len(chosen) for _, chosen in run)
            mean = sum((scores.softmax(0)[e] for scores, _ in run), zero) / len(run)
            uneven = uneven + num_experts * share * mean
        for scores, _ in run:
            logs = logs + scores.exp().sum().log() ** 2 / len(run)
        balance.append(uneven)
        z.append(logs)
    out = {"balance": sum(balance, zero) / max(1, len(balance)), "z": sum(z, zero) / max(1, len(z))}
    if config.chunk is None:
        return out | {"ratio": zero}
    two = config.chunk.compression_image is not None
    for name, target in config.chunk.targets.items():
        members = [n for n in range(len(slow.prob)) if not two or is_image[n] == (name == "ratio_image")]
        by_threshold = config.chunk.ratio_share == "threshold"
        closed = [bool(slow.prob[n] >= 0.5) if by_threshold else slow.closes[n] for n in members]
        f = sum(closed) / len(members)
        g = sum((slow.prob[n] for n in members), zero) / len(members)
        out[name] = target / (target - 1) * ((target - 1) * f * g + (1 - f) * (1 - g))
    return out
