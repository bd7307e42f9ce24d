"""The scores as torchmetrics: added batch by batch, on any number of ranks, the same to the last digit as on one.

In: for each sample its uid, its score, and the group and category it belongs to. Out of `compute`: figures. States are
tensors, gathered whole; only then each sample is counted once, by its uid, because samplers repeat samples so that
ranks get equally many. Samples are put in the order of their uids, so that sums do not depend on who saw which.
Texts travel as bytes: torchmetrics can keep a list of strings, but fails when ranks exchange it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from eval.caption_scores import Captions, caption_scores
from eval.group_scores import category_scores, circular_scores, mme_scores, pope_scores

_ANSWERS = ("no", "yes", "other")


def sample_uid(sample_id: str) -> int:
    """A sample's id as a whole number of 63 bits, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(sample_id.encode(), digest_size=8).digest(), "big") >> 1


class SampleScores(Metric):
    """Mean score, and with categories the mean of each and the mean of those means.

    Args:
        categories: their names; a sample names one by its place here.
        kwargs: of `torchmetrics.Metric`.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    uids: list[Tensor] | Tensor
    groups: list[Tensor] | Tensor
    kinds: list[Tensor] | Tensor
    scores: list[Tensor] | Tensor

    def __init__(self, categories: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.categories = tuple(categories)
        self.dtypes: dict[str, torch.dtype] = {}
        for name in ("uids", "groups", "kinds"):
            self._add(name, torch.int64)
        self._add("scores", torch.float64)

    def _add(self, name: str, dtype: torch.dtype) -> None:
        self.add_state(name, [], dist_reduce_fx="cat")
        self.dtypes[name] = dtype
        self._begin(name)

    def _begin(self, name: str) -> None:
        # For a rank without samples torchmetrics would send floats where the others send whole numbers.
        setattr(self, name, [torch.empty(0, dtype=self.dtypes[name], device=self.device)])

    def reset(self) -> None:
        super().reset()
        for name in self.dtypes:
            self._begin(name)

    def _keep(self, name: str, values: Tensor) -> None:
        getattr(self, name).append(values.to(dtype=self.dtypes[name], device=self.device).flatten())

    def update(
        self,
        uids: Tensor | Sequence[int],
        scores: Tensor | Sequence[float | int],
        groups: Tensor | Sequence[int] | None = None,
        categories: Tensor | Sequence[int] | None = None,
    ) -> None:
        """Add samples.

        Args:
            uids: (samples) one whole number for each sample, `sample_uid` of its id; the same sample has the same.
            scores: (samples) in [0, 1].
            groups: (samples) what pairs or groups the samples; none where it is not needed.
            categories: (samples) places in the metric's categories.

        Raises:
            ValueError: lengths that differ, or a category that is not there.
        """
        count = len(uids)
        kinds = self._whole(categories, count, "categories")
        if len(kinds) and (int(kinds.max()) >= max(1, len(self.categories)) or int(kinds.min()) < 0):
            raise ValueError(f"a category is a place among {len(self.categories)}, got {kinds.unique().tolist()}")
        values = torch.as_tensor(scores, dtype=torch.float64)
        if len(values) != count:
            raise ValueError(f"{count} uids but {len(values)} scores; each sample needs one of both")
        self._keep("uids", self._whole(uids, count, "uids"))
        self._keep("groups", self._whole(groups, count, "groups"))
        self._keep("kinds", kinds)
        self._keep("scores", values)

    def compute(self) -> dict[str, Tensor]:
        samples = self._samples()
        figures = {"score": fmean(samples.scores), "n": float(len(samples.scores))}
        if self.categories:
            found = category_scores(samples.scores, samples.kinds)
            figures |= {f"score/{self.categories[kind]}": mean for kind, mean in found["by_category"].items()}
            figures["macro"] = found["macro"]
        return self._tensors(figures)

    def _samples(self) -> "_Samples":
        """The samples, each uid once (the first time it came), in the order of the uids."""
        uids, groups, kinds, scores = (_joined(getattr(self, name)) for name in ("uids", "groups", "kinds", "scores"))
        if not len(uids):
            raise ValueError(f"{type(self).__name__} has seen no samples; update it before compute")
        uids, place = torch.sort(uids, stable=True)
        first = torch.ones(len(uids), dtype=torch.bool)
        first[1:] = uids[1:] != uids[:-1]
        kept = place[first]
        return _Samples(
            uids[first].tolist(), groups[kept].tolist(), kinds[kept].tolist(), scores[kept].tolist(), kept.tolist()
        )

    def _whole(self, values: Tensor | Sequence[int] | None, count: int, name: str) -> Tensor:
        given = torch.zeros(count, dtype=torch.int64) if values is None else torch.as_tensor(values, dtype=torch.int64)
        if len(given) != count:
            raise ValueError(f"{count} uids but {len(given)} {name}; each sample needs one of both")
        return given

    def _tensors(self, figures: Mapping[str, float | int]) -> dict[str, Tensor]:
        return {name: torch.tensor(value, dtype=torch.float64, device=self.device) for name, value in figures.items()}


@dataclass(frozen=True)
class _Samples:
    uids: list[int]
    groups: list[int]
    kinds: list[int]
    scores: list[float]
    places: list[int]  # in the states


def _joined(state: list[Tensor] | Tensor) -> Tensor:
    """A state on the CPU: a list of batches on one rank, a tensor once ranks have exchanged it."""
    return (state if isinstance(state, Tensor) else torch.cat(state)).cpu()


class AllRightScores(SampleScores):
    """Share of groups with every sample right, beside the share of samples: acc+, circular evaluation, qAcc, fAcc."""

    def compute(self) -> dict[str, Tensor]:
        samples = self._samples()
        right: dict[int, bool] = {}
        for group, score in zip(samples.groups, samples.scores, strict=True):
            right[group] = right.get(group, True) and bool(score)
        return self._tensors({"score": fmean(right.values()), "each": fmean(samples.scores), "n": len(right)})


class CircularScores(SampleScores):
    """MMBench: uids are the rows' indices; see `eval.group_scores.circular_scores`."""

    def compute(self) -> dict[str, Tensor]:
        samples = self._samples()
        names = [self.categories[kind] for kind in samples.kinds] if self.categories else []
        figures = circular_scores(samples.uids, samples.scores, {"category": names} if names else None)
        by_category = {f"circular/{name}": value for name, value in figures.pop("category", {}).items()}
        return self._tensors(figures | by_category)


class MMEScores(SampleScores):
    """MME: categories are the tasks, groups the pictures; see `eval.group_scores.mme_scores`."""

    def compute(self) -> dict[str, Tensor]:
        samples = self._samples()
        found = mme_scores(samples.scores, [self.categories[kind] for kind in samples.kinds], samples.groups)
        figures = {name: float(found[name]) for name in ("perception", "cognition")}
        for task, values in found["by_task"].items():
            figures |= {f"{name}/{task}": value for name, value in values.items()}
        return self._tensors(figures)


class YesNoScores(SampleScores):
    """POPE: accuracy, precision, recall, F1 and yes-rate, by category too; see `eval.group_scores.pope_scores`.

    The score of a sample is what was said: `said` turns "yes", "no" and all else into it; its group is 1 where "yes" is
    true and 0 where "no" is.
    """

    @staticmethod
    def said(answers: Sequence[str | None]) -> list[float]:
        return [float(_ANSWERS.index(answer)) if answer in _ANSWERS else 2.0 for answer in answers]

    def compute(self) -> dict[str, Tensor]:
        samples = self._samples()
        names = [self.categories[kind] for kind in samples.kinds] if self.categories else None
        answers = [_ANSWERS[int(score)] for score in samples.scores]
        figures = pope_scores(answers, [_ANSWERS[group] for group in samples.groups], names)
        for category, values in figures.pop("by_category", {}).items():
            figures |= {f"{name}/{category}": value for name, value in values.items()}
        return self._tensors(figures)


class CaptionScores(SampleScores):
    """CIDEr and its kin over all captions of all ranks: the texts are gathered, then scored together.

    Args:
        references: picture's id -> captions by people, for all pictures, on every rank.
        kwargs: `metrics`, `tokenizer` of `eval.caption_scores.caption_scores`; the rest goes to `torchmetrics.Metric`.
    """

    text: list[Tensor] | Tensor
    lengths: list[Tensor] | Tensor

    def __init__(self, references: Captions, **kwargs: Any) -> None:
        self.how = {name: kwargs.pop(name) for name in ("metrics", "tokenizer") if name in kwargs}
        super().__init__(**kwargs)
        self.references = {sample_uid(name): list(captions) for name, captions in references.items()}
        self._add("text", torch.uint8)
        self._add("lengths", torch.int64)

    def update(self, ids: Sequence[str], captions: Sequence[str]) -> None:  # type: ignore[override]
        """Add captions by the ids of their pictures."""
        unknown = next((name for name in ids if sample_uid(name) not in self.references), None)
        if unknown is not None:
            raise ValueError(f"no reference captions for picture {unknown!r}")
        super().update([sample_uid(name) for name in ids], [0.0] * len(captions))
        written = [caption.encode("utf-8", errors="surrogatepass") for caption in captions]
        self._keep("text", torch.tensor(list(b"".join(written)), dtype=torch.uint8))
        self._keep("lengths", torch.tensor([len(one) for one in written], dtype=torch.int64))

    def compute(self) -> dict[str, Tensor]:
        samples = self._samples()
        ends = _joined(self.lengths).cumsum(0).tolist()
        starts = [0, *ends]
        written = bytes(_joined(self.text).numpy().tobytes())
        texts = {
            str(uid): written[starts[place] : ends[place]].decode("utf-8", errors="surrogatepass")
            for uid, place in zip(samples.uids, samples.places, strict=True)
        }
        found = caption_scores(texts, {name: self.references[int(name)] for name in texts}, **self.how)
        return self._tensors({name: value for name, value in found.items() if isinstance(value, int | float)})
