"""Matched pairs of a plain MoE and a ConceptMoE: equal parameters, equal FLOPs for a token without attention maps.

In: one of the two as a config. Out: the other, by the paper's strategies for spending what chunking saves: 1 chooses more
experts, 2 runs concept layers again and chooses more experts, 3 makes the concept layers wider.
Source: ConceptMoE (arXiv 2601.21420) sec. 3.5 and Table 1. As there, the strategies match concept layers alone and leave
out the chunker's router, joint projections, projectors and smoothing; `match_plain` counts them, as small models need.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from vlm.backbone.chunk import ChunkConfig
from vlm.backbone.config import BackboneConfig, ConceptConfig, LoopConfig
from vlm.backbone.cost import Part, concept_parts, costs, expert_flops, layer, token_parts
from vlm.backbone.experts import ExpertsConfig

ALIGNED = 8  # widths are multiples of this: grouped products want rows of 16 bytes


@dataclass(frozen=True)
class Match:
    """A config matched to another one, and by how much it misses, all parts counted."""

    name: str
    config: BackboneConfig
    flops_deviation: float  # percent of the other's forward FLOPs for a token, at the target, without attention maps
    parameter_deviation: float  # percent of the other's parameters


def match(
    plain: BackboneConfig,
    compression: float,
    strategy: int,
    *,
    loop: float | None = None,
    widen: float | None = None,
    chunk: ChunkConfig | None = None,
) -> Match:
    """The ConceptMoE whose concept layers have the parameters of a plain MoE's, and do the same work for a token.

    Args:
        compression: tokens per concept, R.
        strategy: where the saved work goes: 1 experts, 2 a loop and experts, 3 width.
        loop: for strategy 2: runs of concept layers for each concept layer, 1.5 for half of them run twice.
        widen: for strategy 3: the concept layers' width in the token layers'; the root of R where None.
        chunk: the chunker's other settings; the defaults where None.

    Raises:
        ValueError: the plain model is none, an argument does not fit the strategy, or no such model can be made of it.
    """
    if plain.chunk is not None or plain.concept != ConceptConfig() or not plain.concept_layers:
        raise ValueError(
            "matching starts from a plain MoE with concept_layers, chunk: null and no concept settings; "
            "match_plain makes one of a ConceptMoE"
        )
    if strategy not in (1, 2, 3):
        raise ValueError(f"unknown strategy {strategy!r}; known: 1 (experts), 2 (loop and experts), 3 (width)")
    if (loop is not None) != (strategy == 2) or (widen is not None and strategy != 3):
        raise ValueError(
            f"strategy 2 needs loop, 3 may have widen, and no other has either; got strategy={strategy}, "
            f"loop={loop}, widen={widen}"
        )
    chunk = ChunkConfig(compression=compression) if chunk is None else chunk
    chunk = replace(chunk, compression=compression, compression_image=None)
    if strategy == 3:
        concept, width = _wide(plain, compression, math.sqrt(compression) if widen is None else widen)
        kind = f"{width:.3g}W-top{plain.experts.top_k}"
    else:
        repeats = 1.0 if loop is None else loop
        top_k = matched_top_k(plain, compression, repeats)
        looped = None if loop is None else _middle(plain.concept_layers, loop)
        concept = ConceptConfig(experts=replace(plain.experts, top_k=top_k), loop=looped)
        kind = f"{repeats:g}L-top{top_k}"
    return _match(f"{kind}-R{compression:.3g}", replace(plain, chunk=chunk, concept=concept), plain)


def match_plain(chunked: BackboneConfig) -> Match:
    """The plain MoE of the same layers, width, heads and top_k whose experts make it cost what a ConceptMoE costs.

    Everything is counted that the ConceptMoE has. The experts' inner width (a multiple of 8) sets FLOPs, their number
    the parameters; of the pairs nearby, the one whose two deviations are least in sum.

    Raises:
        ValueError: it is plain already, or has two targets and so no one compression to match at.
    """
    chunk = chunked.chunk
    if chunk is None:
        raise ValueError("the model is plain already (chunk: null); match_plain takes a ConceptMoE")
    if chunk.compression_image not in (None, chunk.compression):
        raise ValueError(
            f"text tokens have the target {chunk.compression:g} and image tokens {chunk.compression_image:g}: "
            "there is no one compression to match at; set compression to the mean tokens per concept of both, and "
            "compression_image: null"
        )
    plain = replace(chunked, chunk=None, concept=ConceptConfig())
    goal = costs(chunked)
    fitted = _fit(
        lambda experts: _every_part(replace(plain, experts=experts)), plain.experts, goal.text.flops, goal.total
    )
    return _match(f"plain-top{fitted.top_k}", replace(plain, experts=fitted), chunked)


def _match(name: str, config: BackboneConfig, other: BackboneConfig) -> Match:
    own, goal = costs(config), costs(other)
    return Match(name, config, 100 * (own.text.flops / goal.text.flops - 1), 100 * (own.total / goal.total - 1))


def _every_part(config: BackboneConfig) -> Part:
    return sum([*token_parts(config).values(), *concept_parts(config).values()], Part())


def matched_top_k(plain: BackboneConfig, compression: float, loop: float = 1.0) -> int:
    """How many experts concept layers choose to do a plain MoE's work for a token: k' = R k / x + a (R / x - 1), rounded.

    k are the experts chosen before, x is `loop`, and a is what a layer does beside its chosen experts (attention, and
    here also the experts' router and a shared expert), in units of one expert. A compression of 1 is a model without a
    chunker, whose loop alone is to be paid for.

    Raises:
        ValueError: the layers are dense, or would choose more experts than they have, or none.
    """
    block = plain.concept_block
    one, chosen = expert_flops(block), block.experts.top_k
    if block.experts.num_experts == 1:
        raise ValueError("num_experts is 1: a dense layer cannot choose more experts; use strategy 3")
    other = layer(block).flops / one - chosen
    exact = compression * chosen / loop + other * (compression / loop - 1)
    top_k = math.floor(exact + 0.5)
    if top_k > block.experts.num_experts:
        raise ValueError(
            f"at compression {compression:g} the concept layers would choose top_k={top_k} of "
            f"num_experts={block.experts.num_experts} experts; loop more layers, or have more and smaller experts"
        )
    if top_k < 1:
        raise ValueError(
            f"a loop of {loop:g} at compression {compression:g} leaves top_k={top_k} experts; loop fewer layers"
        )
    return top_k


def _middle(layers: int, loop: float) -> LoopConfig:
    """The loop in the middle of the concept layers that gives `loop` runs for each."""
    passes = max(2, math.ceil(loop - 1e-9))
    looped = layers * (loop - 1) / (passes - 1)
    if loop <= 1 or abs(looped - round(looped)) > 1e-6 or round(looped) < 1:
        possible = ", ".join(f"{1 + count / layers:.4g}" for count in range(1, layers + 1))
        raise ValueError(
            f"loop={loop:g} is no whole number of {layers} concept layers run again; two passes can give {possible}"
        )
    return LoopConfig(first=(layers - round(looped)) // 2, layers=round(looped), passes=passes)


def _wide(plain: BackboneConfig, compression: float, widen: float) -> tuple[ConceptConfig, float]:
    """Wider concept layers with more heads and fewer experts, and how much wider they are."""
    if widen <= 1:
        raise ValueError(f"widen is the concept layers' width in the token layers' and must be above 1, got {widen:g}")
    num_heads, num_kv_heads = _scaled_heads(plain.num_heads, plain.num_kv_heads, widen)
    width = ALIGNED * round(plain.width * num_heads / plain.num_heads / ALIGNED)
    before = layer(plain.concept_block)

    def wide(experts: ExpertsConfig) -> Part:
        block = replace(
            plain.concept_block, width=width, num_heads=num_heads, num_kv_heads=num_kv_heads, experts=experts
        )
        return layer(block)

    try:
        fitted = _fit(wide, plain.experts, compression * before.flops, before.total)
    except ValueError as error:
        raise ValueError(f"a width of {width} for {plain.width} is too much: {error}; choose a smaller widen") from None
    own = ConceptConfig(width=width, num_heads=num_heads, num_kv_heads=num_kv_heads, experts=fitted)
    return own, width / plain.width


def _scaled_heads(num_heads: int, num_kv_heads: int, scale: float) -> tuple[int, int]:
    """The numbers of heads nearest to `scale` times as many (by ratio), the key heads dividing the query heads."""
    keys = range(1, 2 * math.ceil(scale * num_kv_heads) + 1)
    pairs = [(key * group, key) for key in keys for group in range(1, 2 * num_heads // num_kv_heads + 1)]

    def miss(pair: tuple[int, int]) -> float:
        # The query heads count twice: they decide the width.
        return 2 * abs(math.log(pair[0] / num_heads / scale)) + abs(math.log(pair[1] / num_kv_heads / scale))

    return min(pairs, key=miss)


def _fit(cost: Callable[[ExpertsConfig], Part], experts: ExpertsConfig, flops: float, parameters: int) -> ExpertsConfig:
    """The inner width and the number of experts whose costs are nearest to the given ones, deviations in sum.

    With the number held, both costs are linear in the inner width, so that the best one lies beside that which gives the
    FLOPs, or that which gives the parameters. A dense layer has one number to choose, and FLOPs decide.
    """
    best: tuple[float, ExpertsConfig] | None = None
    is_sparse = experts.num_experts > 1
    for number in itertools.count(max(experts.top_k, 2)) if is_sparse else [1]:
        one, two = (cost(replace(experts, num_experts=number, hidden=hidden)) for hidden in (ALIGNED, 2 * ALIGNED))
        exact = [1 + (flops - one.flops) / (two.flops - one.flops)]
        if exact[0] < 1:
            break
        if is_sparse:
            exact.append(1 + (parameters - one.total) / (two.total - one.total))
        for unit in {rounded for units in exact for rounded in (math.floor(units), math.ceil(units)) if rounded >= 1}:
            found_flops = one.flops + (unit - 1) * (two.flops - one.flops)
            found_total = one.total + (unit - 1) * (two.total - one.total)
            miss = abs(found_flops / flops - 1) + abs(found_total / parameters - 1) * is_sparse
            if best is None or miss < best[0]:
                best = miss, replace(experts, num_experts=number, hidden=ALIGNED * unit)
        # With ever more experts of this width the parameters only grow; half too many is past any match.
        if one.total + (exact[0] - 1) * (two.total - one.total) > 1.5 * parameters:
            break
    if best is None:
        raise ValueError(f"no experts are left: the layers cost more than the {flops:,.0f} FLOPs to match without them")
    return best[1]
