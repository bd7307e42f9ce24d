"""Attention of new tokens over what a cache holds of their sequences, without a copy of the past and without a mask.

Two cases. Decoding, one token for each sequence: it sees everything stored, itself included; the query heads that share a
key head stand together as rows of one product, so that each key is read once. Several tokens at once (a prompt in pieces,
candidates after a shared prompt): what they see of the past and what they see of each other are attended apart and put
together by their softmax denominators. Measured on one core, one token over 16,384 of 2 key heads of 64: 2.2 ms instead
of 3.6 by scaled_dot_product_attention with grouped heads.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vlm.backbone.attend import attend, attend_with_denominator, has_flash
from vlm.backbone.key_values import KeyValues, Run, Seats


@dataclass(frozen=True)
class KeptLayer:
    """One layer's part of the stored keys and values, for the rows of one call."""

    keys_and_values: KeyValues
    seats: Seats
    layer: int

    def attend(
        self, q: Float[Tensor, "n h k"], k: Float[Tensor, "n g k"], v: Float[Tensor, "n g k"]
    ) -> Float[Tensor, "n h k"]:
        """Causal attention of each document over its sequence's past and itself; keys and values are stored on the way."""
        seats = self.seats
        if seats.stored:
            self.keys_and_values.store(self.layer, k, v, seats)
        if seats.documents.longest > 1 and not seats.is_continued:
            return attend(q, k, v, seats.documents)
        if not has_flash(q.device.type, q.dtype):
            return self._attend_masked(q, k, v)
        if seats.stored and seats.documents.longest == 1:
            parts = [self._over_past(q, run, run.before + 1)[0] for run in seats.runs]
            return parts[0] if len(parts) == 1 else torch.cat(parts)
        out, denominator = attend_with_denominator(q, k, v, seats.documents)
        for run in seats.runs:
            if run.before:
                past, past_denominator = self._over_past(q, run, run.before)
                mine = denominator[run.tokens].sub(past_denominator).sigmoid().unsqueeze(-1)
                out[run.tokens] = past.lerp_(out[run.tokens], mine.to(out.dtype))
        return out

    def _over_past(
        self, q: Float[Tensor, "n h k"], run: Run, length: int
    ) -> tuple[Float[Tensor, "m h k"], Float[Tensor, "m h"]]:
        """Attention of a run's tokens over the first `length` of what is stored, and the log of its denominator."""
        key, value = self.keys_and_values.read(self.layer, run.rows, length)
        heads = key.shape[1]
        # (documents, key heads, query heads of each x tokens, width)
        query = (
            q[run.tokens].unflatten(0, (run.num_documents, run.new)).unflatten(2, (heads, -1)).permute(0, 2, 3, 1, 4)
        )
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out, denominator = flash(query.flatten(2, 3), key, value, 0.0, False)
        shape = (q.shape[1] // heads, run.new)
        out = out.unflatten(2, shape).permute(0, 3, 1, 2, 4).reshape(-1, *q.shape[1:])
        return out, denominator.unflatten(2, shape).permute(0, 3, 1, 2).reshape(-1, q.shape[1])

    def _attend_masked(
        self, q: Float[Tensor, "n h k"], k: Float[Tensor, "n g k"], v: Float[Tensor, "n g k"]
    ) -> Float[Tensor, "n h k"]:
        """For devices whose kernels do not give the denominator: decoding in one call, anything else run by run."""
        seats, fewer = self.seats, k.shape[1] != q.shape[1]
        if seats.stored and seats.documents.longest == 1:
            rows = torch.tensor([row for run in seats.runs for row in range(run.row, run.row + run.num_documents)])
            lengths = torch.tensor([run.before + 1 for run in seats.runs for _ in range(run.num_documents)])
            whole = seats.runs[0].rows if len(seats.runs) == 1 else rows.to(q.device)
            key, value = self.keys_and_values.read(self.layer, whole, int(lengths.max()))
            sees = None
            if len(seats.runs) > 1:
                sees = (torch.arange(key.shape[2]) < lengths[:, None])[:, None, None].to(q.device)
            return F.scaled_dot_product_attention(q[:, :, None], key, value, attn_mask=sees, enable_gqa=fewer).squeeze(
                2
            )
        parts = []
        for run in seats.runs:
            past = self.keys_and_values.read(self.layer, run.rows, run.before) if run.before else None
            query, *new = (
                part[run.tokens].unflatten(0, (run.num_documents, run.new)).transpose(1, 2) for part in (q, k, v)
            )
            key, value = new if past is None else (torch.cat(both, 2) for both in zip(past, new, strict=True))
            sees = torch.ones(run.new, run.before + run.new, dtype=torch.bool, device=q.device).tril(run.before)
            out = F.scaled_dot_product_attention(query, key, value, attn_mask=sees, enable_gqa=fewer)
            parts.append(out.transpose(1, 2).flatten(0, 1))
        return torch.cat(parts)
