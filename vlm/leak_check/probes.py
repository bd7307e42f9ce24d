"""The probes: each tries one way in which a record of a packed row could see another, or what comes after it."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from data.batch import Batch, collate
from data.image import prepare_crops
from vlm.leak_check.changes import other_pixels, other_words, target_of
from vlm.leak_check.differences import Difference, compare, crossing, outside_of, relative, rows_of, scale_of
from vlm.leak_check.ledger import PROBES, Finding, Ledger
from vlm.leak_check.records import Record
from vlm.leak_check.trace import Trace, trace
from vlm.leak_check.words import batch_norms, part_of
from vlm.model import VisionLanguageModel


class Prober:
    """Probes one model in one mode.

    Args:
        mode: for the ledger: `evaluation` or `training`.
        chance: which record is changed, and how.
    """

    def __init__(self, model: VisionLanguageModel, mode: str, ledger: Ledger, chance: np.random.Generator) -> None:
        self._model, self._mode, self._ledger, self._chance = model, mode, ledger, chance
        self._alone: dict[int, Trace] = {}
        self._vectors: dict[int, Tensor] = {}

    def probe(self, records: Sequence[Record]) -> None:
        """Pack the records, in this order, and try everything."""
        spec = None if self._model.layout is None else self._model.layout.spec
        batch = collate([record.row for record in records], spec).to(self._model.embed.weight.device)
        whole = self._trace(records, batch)
        run = partial(self._trace, records, has_graph=False)
        own = [(place, place) for place in range(len(records))]
        self._positions(batch, records)
        self._compare("same row twice", records, whole, run(batch), own)
        for place, record in enumerate(records):
            self._as_alone(place, record, records, whole)
        if whole.error is not None:
            return
        self._gradients(records, whole)
        self._concepts(records, whole)
        self._slots(records, whole)
        self._beside(records, whole, run)
        self._later(records, whole, run)

    def _trace(self, records: Sequence[Record], batch: Batch, has_graph: bool = True) -> Trace:
        crops = [sum(len(picture.crops) for picture in record.row.pictures) for record in records]
        return trace(self._model, batch, crops, [record.seed for record in records], has_graph)

    def _compare(
        self,
        probe: str,
        records: Sequence[Record],
        one: Trace,
        other: Trace,
        pairs: Sequence[tuple[int, int]],
        before: Sequence[int] | None = None,
    ) -> None:
        finding = self._ledger.of(probe, self._mode)
        found = compare(one, other, pairs, finding.allowed, before)
        finding.note(found.largest)
        if found.station is not None:
            self._tell(finding, found, records)
        if (one.error is None) != (other.error is None):
            refused = one.error or other.error
            begins = "" if found.station is None else f"; first seen at {part_of(found.station)}"
            finding.note(float("inf"))
            finding.leak("refused", f"{PROBES[probe]}: the model refuses one of the rows, {refused}{begins}")

    def _tell(self, finding: Finding, found: Difference, records: Sequence[Record]) -> None:
        assert found.station is not None
        part = part_of(found.station)
        why = batch_norms(self._model.encoder) if found.station in ("encoder", "connector") else ""
        amount = found.words or f"{found.amount:.1e}"
        self._leak(finding, part, f"record {records[found.record].name!r}, first at {part}: {amount}{why}")

    def _leak(self, finding: Finding, part: str, words: str) -> None:
        finding.leak(part, f"{PROBES[finding.probe]}, in {self._mode} mode: {words}")

    def _as_alone(self, place: int, record: Record, records: Sequence[Record], whole: Trace) -> None:
        if record.seed not in self._alone:
            self._alone[record.seed] = self._run_alone(record, has_graph=False)
        self._compare("packed as alone", records, whole, self._alone[record.seed], [(place, 0)])

    def _run_alone(self, record: Record, has_graph: bool) -> Trace:
        spec = None if self._model.layout is None else self._model.layout.spec
        batch = collate([record.row], spec).to(self._model.embed.weight.device)
        found = self._trace([record], batch, has_graph)
        if found.error is not None:
            raise ValueError(f"the model refuses record {record.name!r} in a row of its own: {found.error}")
        return found

    def _grads(self, found: Trace, place: int, record: Record) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        """Gradients of a record's target with respect to all tokens' embeddings, and to all crops' pixels."""
        assert found.embeddings is not None
        target = target_of(self._model, found, place, record)
        leaves = [found.embeddings, *found.pixels]
        grads = torch.autograd.grad(target, leaves, retain_graph=True, allow_unused=True)
        token_grad = torch.zeros_like(found.embeddings) if grads[0] is None else grads[0]
        return token_grad, grads[1:]

    def _gradients(self, records: Sequence[Record], whole: Trace) -> None:
        """Each record's target: nothing to other records' tokens and vectors of pictures, to its own what it is alone.

        Down to the pixels for one record alone: going through an encoder costs more than all else.
        """
        of_tokens, of_pictures = (
            self._ledger.of(probe, self._mode)
            for probe in ("gradient to others' tokens", "gradient to others' pictures")
        )
        with_pictures = [place for place, crops in enumerate(whole.crops) if crops] or list(range(len(records)))
        down = with_pictures[int(self._chance.integers(len(with_pictures)))]
        crop_record = [place for place, crops in enumerate(whole.crops) for _ in range(crops)]
        for place, record in enumerate(records):
            mine = rows_of(whole, [place])
            to_pictures = 0.0
            if place == down:
                token_grad, pixel_grads = self._grads(whole, place, record)
                others = [grad for grad, of in zip(pixel_grads, crop_record, strict=True) if of != place]
                to_pictures = max((float(grad.abs().max()) for grad in others if grad is not None), default=0.0)
                own = [grad for grad, of in zip(pixel_grads, crop_record, strict=True) if of == place]
                self._gradients_alone(record, token_grad[whole.tokens_of(place)], own)
                to_tokens = outside_of(token_grad, mine["embed"])
            else:
                names = [name for name in ("embed", "encoder") if name in whole.stations]
                leaves = [whole.stations[name].tensor for name in names]
                target = target_of(self._model, whole, place, record)
                grads = torch.autograd.grad(target, leaves, retain_graph=True, allow_unused=True)
                outside = [
                    0.0 if g is None else outside_of(g, mine[name]) for g, name in zip(grads, names, strict=True)
                ]
                to_tokens, to_pictures = outside[0], max(outside[1:], default=0.0)
            of_tokens.note(to_tokens)
            if whole.pixels:
                of_pictures.note(to_pictures)
            if to_tokens or to_pictures:
                _, behind = crossing(whole, target_of(self._model, whole, place, record), mine)
                part = part_of(behind or "encoder")
                for finding, amount in ((of_tokens, to_tokens), (of_pictures, to_pictures)):
                    if amount:
                        self._leak(finding, part, f"record {record.name!r}, through {part}: {amount:.1e}")

    def _gradients_alone(self, record: Record, token_grad: Tensor, pixel_grads: Sequence[Tensor | None]) -> None:
        finding = self._ledger.of("packed as alone, gradients", self._mode)
        alone_token_grad, alone_pixel_grads = self._grads(self._run_alone(record, has_graph=True), 0, record)
        here, there = [token_grad, *pixel_grads], [alone_token_grad, *alone_pixel_grads]
        for number, (one, other) in enumerate(zip(here, there, strict=True)):
            if one is not None and other is not None:
                apart = relative(one, other, scale_of(other))
                finding.note(apart)
                if apart > finding.allowed:
                    what = "pixels" if number else "tokens"
                    self._leak(finding, what, f"record {record.name!r}, with respect to its {what}: {apart:.1e}")

    def _concepts(self, records: Sequence[Record], whole: Trace) -> None:
        """What a concept is made of, and who sees it."""
        if whole.concept_of_token is None or whole.boundary is None:
            return
        finding = self._ledger.of("concepts of one record", self._mode)
        record_of_token = torch.arange(len(records)).repeat_interleave(torch.tensor(whole.batch.lengths))
        closed_by = whole.boundary.cpu()[whole.concept_of_token.cpu()]
        strange = record_of_token[closed_by] != record_of_token
        finding.note(float(strange.sum()))
        if strange.any():
            token = int(strange.nonzero()[0])
            words = f"{int(strange.sum())} tokens see a concept of another record, such as token {token} of the row"
            part = part_of("backbone.chunker: boundaries")
            self._leak(finding, part, f"{words}, by {part}")
        merged, unmerged = (whole.stations[f"backbone.chunker: {name}"] for name in ("merged", "unmerged"))
        for place, record in enumerate(records):
            (grad,) = torch.autograd.grad(merged.rows(place).sum(), unmerged.tensor, retain_graph=True)
            outside = outside_of(grad, rows_of(whole, [place])["backbone.chunker: unmerged"])
            finding.note(outside)
            if outside:
                part = part_of("backbone.chunker: merged")
                self._leak(finding, part, f"concepts of record {record.name!r} hold tokens of others, by {part}")

    def _slots(self, records: Sequence[Record], whole: Trace) -> None:
        """Each picture's slots against the vectors of that picture, encoded from the stored bytes, crop by crop."""
        finding = self._ledger.of("pictures in their slots", self._mode)
        row = whole.stations["row"]
        is_image = whole.batch.is_image
        for place, record in enumerate(records):
            if not record.row.pictures:
                continue
            expected = self._expected(record)
            found = row.rows(place)[is_image[whole.tokens_of(place)]]
            if len(found) != len(expected):
                finding.note(float("inf"))
                words = f"record {record.name!r} has {len(found)} slots, its pictures {len(expected)} vectors"
                self._leak(finding, "number", words)
                continue
            sizes = [sum(picture.slots_per_crop) for picture in record.row.pictures]
            scale = scale_of(expected)
            parts = zip(found.split(sizes), expected.split(sizes), strict=True)
            apart = [relative(one, other, scale) for one, other in parts]
            finding.note(max(apart))
            if max(apart) > finding.allowed:
                wrong = [str(number + 1) for number, amount in enumerate(apart) if amount > finding.allowed]
                why = batch_norms(self._model.encoder)
                words = f"record {record.name!r}, picture {', '.join(wrong)} of {len(sizes)}: {max(apart):.1e}{why}"
                self._leak(finding, "slots", words)

    def _expected(self, record: Record) -> Tensor:
        if record.seed not in self._vectors:
            model = self._model
            assert model.layout is not None
            assert model.connector is not None
            assert model.encoder is not None
            spec, like = model.layout.spec, model.embed.weight
            with torch.no_grad():
                crops = [
                    crop
                    for picture in record.row.pictures
                    for crop in prepare_crops(picture.data, spec, picture.augmentation)
                ]
                features = [model.encoder.encode([spec.normalise(crop.to(like.device)).to(like)]) for crop in crops]
                self._vectors[record.seed] = torch.cat([model.connector(one) for one in features])
        return self._vectors[record.seed]

    def _beside(self, records: Sequence[Record], whole: Trace, run: "partial[Trace]") -> None:
        """Change one record's words, then one record's pixels: the others must not."""
        batch = whole.batch
        changed = int(self._chance.integers(len(records)))
        others = [(place, place) for place in range(len(records)) if place != changed]
        if not others:
            return
        ids = other_words(batch, self._model.tokenizer.vocab_size, self._chance, [(changed, 0)])
        self._compare("other text beside it", records, whole, run(replace(batch, ids=ids)), others)
        with_pictures = [place for place, crops in enumerate(whole.crops) if crops]
        if with_pictures:
            changed = with_pictures[int(self._chance.integers(len(with_pictures)))]
            others = [(place, place) for place in range(len(records)) if place != changed]
            first = sum(whole.crops[:changed])
            crops = range(first, first + whole.crops[changed])
            other = run(replace(batch, images=other_pixels(batch, self._chance, crops)))
            self._compare("other pictures beside it", records, whole, other, others)

    def _later(self, records: Sequence[Record], whole: Trace, run: "partial[Trace]") -> None:
        """Cut every record at a word and change all that follows: what comes before must not change."""
        batch = whole.batch
        cuts, crops = [], []
        first_crop = 0
        for place, record in enumerate(records):
            words = np.flatnonzero(~record.row.is_image)
            cuts.append(int(words[self._chance.integers(1, len(words))]) if len(words) > 1 else len(record.row))
            slots = np.flatnonzero(record.row.is_image)
            sizes = [size for picture in record.row.pictures for size in picture.slots_per_crop]
            starts = slots[np.cumsum([0, *sizes[:-1]])] if sizes else []
            crops += [first_crop + number for number, start in enumerate(starts) if start >= cuts[place]]
            first_crop += len(sizes)
        ids = other_words(batch, self._model.tokenizer.vocab_size, self._chance, list(enumerate(cuts)))
        other = run(replace(batch, ids=ids, images=other_pixels(batch, self._chance, crops)))
        own = [(place, place) for place in range(len(records))]
        self._compare("later tokens and pictures", records, whole, other, own, cuts)

        finding = self._ledger.of("gradient to what is later", self._mode)
        terms = [target_of(self._model, whole, place, record, cuts[place]) for place, record in enumerate(records)]
        target = torch.stack(terms).sum()
        earlier = {}
        for name, station in whole.stations.items():
            if station.lengths == batch.lengths:
                parts = [torch.arange(length) < cut for length, cut in zip(batch.lengths, cuts, strict=True)]
                earlier[name] = torch.cat(parts)
        leaves = [whole.stations["embed"].tensor]
        if crops:
            leaves.append(whole.stations["encoder"].tensor)
            is_earlier = torch.tensor([crop not in crops for crop in range(len(whole.vectors))])
            earlier["encoder"] = is_earlier.repeat_interleave(torch.tensor(whole.vectors))
        grads = torch.autograd.grad(target, leaves, retain_graph=True, allow_unused=True)
        outside = [
            0.0 if grad is None else outside_of(grad, earlier[name])
            for grad, name in zip(grads, ("embed", "encoder"), strict=False)
        ]
        finding.note(max(outside))
        if max(outside):
            _, behind = crossing(whole, target, earlier)
            part = part_of(behind or "encoder")
            self._leak(finding, part, f"through {part}: {max(outside):.1e}")

    def _positions(self, batch: Batch, records: Sequence[Record]) -> None:
        finding = self._ledger.of("positions from 0", self._mode)
        for record, positions in zip(records, batch.positions.cpu().split(list(batch.lengths)), strict=True):
            expected = torch.from_numpy(record.row.positions)
            apart = float((positions - expected).abs().max() + expected[0].abs().max())
            finding.note(apart)
            if apart:
                self._leak(finding, "batch", f"record {record.name!r}, in the batch: {apart:.0f} off")
