"""The attention layer: projections, norms and rotation around `attend`."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from vlm.backbone.attend import Layout, attend
from vlm.backbone.documents import Documents
from vlm.backbone.layers import RMSNorm, rotate
from vlm.backbone.stored import KeptLayer

QueryKeyNorm = Literal["head", "all"] | None
AttentionBias = Literal["qkv", "qkvo"] | None


class Attention(nn.Module):
    """Grouped-query attention, with normalised queries and keys as in Qwen3; optionally joint with a concept.

    Joint decoding (the paper's Eq. 11): queries, keys and values each get a second projection of the concept that the
    token sees. The paper gives no norm for that input; it is normalised here, as a sum of many tokens would drown the
    values.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        num_kv_heads: int,
        head_width: int,
        *,
        norm_eps: float,
        qk_norm: QueryKeyNorm = "head",
        bias: AttentionBias = None,
        joint: bool = False,
    ) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_width = num_heads, num_kv_heads, head_width
        query, key = num_heads * head_width, num_kv_heads * head_width
        self.q_proj = nn.Linear(width, query, bias=bias is not None)
        self.k_proj = nn.Linear(width, key, bias=bias is not None)
        self.v_proj = nn.Linear(width, key, bias=bias is not None)
        self.o_proj = nn.Linear(query, width, bias=bias == "qkvo")
        self.qk_norm = qk_norm
        if qk_norm is not None:
            self.q_norm = RMSNorm(head_width if qk_norm == "head" else query, norm_eps)
            self.k_norm = RMSNorm(head_width if qk_norm == "head" else key, norm_eps)
        self.joint = joint
        if joint:
            self.joint_norm = RMSNorm(width, norm_eps)
            self.joint_q_proj = nn.Linear(width, query, bias=False)
            self.joint_k_proj = nn.Linear(width, key, bias=False)
            self.joint_v_proj = nn.Linear(width, key, bias=False)

    def forward(
        self,
        x: Float[Tensor, "n d"],
        documents: Documents | Layout,
        rotary: tuple[Float[Tensor, "n 1 pairs"], Float[Tensor, "n 1 pairs"]],
        concept: Float[Tensor, "n d"] | None = None,
        kept: KeptLayer | None = None,
    ) -> Float[Tensor, "n d"]:
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        if self.joint:
            assert concept is not None
            concept = self.joint_norm(concept)
            q = q + self.joint_q_proj(concept)
            k = k + self.joint_k_proj(concept)
            v = v + self.joint_v_proj(concept)
        if self.qk_norm == "all":
            q, k = self.q_norm(q), self.k_norm(k)
        q = q.unflatten(-1, (self.num_heads, self.head_width))
        k = k.unflatten(-1, (self.num_kv_heads, self.head_width))
        v = v.unflatten(-1, (self.num_kv_heads, self.head_width))
        if self.qk_norm == "head":
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate(q, *rotary), rotate(k, *rotary)
        out = attend(q, k, v, documents) if kept is None else kept.attend(q, k, v)
        return self.o_proj(out.flatten(1))
