"""The data module: sources from the config, wired to the loaders. No logic of its own.

In: paths with weights, a tokenizer, an image layout. Out: loaders of packed batches, and the pictures to encode.
"""

import hashlib
import logging
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule

from data.faults import MAX_FAULTY, FaultLog
from data.image import ImageLayout, picture_key
from data.loader import TrainLoader, ValLoader
from data.order import ORDER_VERSION, Order
from data.overlong import OVERLONG_RULES, OverlongRule
from data.packed_once import PackedOnce
from data.quarantine import QUARANTINE, Quarantine
from data.ranks import exchange_of, place_among_ranks
from data.row_reader import RowReader
from data.sample import BadRecord, parse_sample, pictures_of
from data.source import Source, SourceConfig, open_sources, source_config
from data.stream import PackedStream
from data.text import Picture
from data.tokenizer import Chat, Tokenizer
from data.window import draws_of_window

log = logging.getLogger(__name__)


class DataModule(LightningDataModule):
    """Records in, packed batches out.

    Args:
        tokenizer: a tokenizer.json, its folder, or `demo`.
        layout: how many slots a picture takes; None for text alone.
        train: sources to learn from; a plain path has weight 1.
        val: sources to validate on, each record once; their weights are those of the mixture's figures.
        row_tokens: tokens of one packed row, which is one batch of one rank.
        seed: of the order.
        num_workers: processes that read and decode beside the training process.
        augmentations: altered copies of each training picture, beside the picture itself.
        steps_per_epoch: what an epoch of the endless training stream is for Lightning, in batches of one rank.
        lanes: parts of the training stream; a multiple of the number of processes, and fixed for the life of a run.
        overlong: what becomes of a record longer than a row: `drop` it, `cut` it or `split` it; counted in each case.
        max_faulty: the largest share of records that may be bad, of at least 1,000 read; 0 stops at the first. They are left
            out and listed in `quarantine.jsonl` in the run's folder.
        chat: how conversations are written, see `Tokenizer`.
    """

    def __init__(
        self,
        tokenizer: str,
        layout: ImageLayout | None,
        train: list[SourceConfig | str],
        val: list[SourceConfig | str] | None = None,
        row_tokens: int = 4096,
        seed: int = 0,
        num_workers: int = 1,
        augmentations: int = 0,
        steps_per_epoch: int = 1000,
        lanes: int = 24,
        overlong: OverlongRule = "drop",
        max_faulty: float = MAX_FAULTY,
        chat: Chat = "own",
    ) -> None:
        super().__init__()
        for name, number, least in (
            ("row_tokens", row_tokens, 2),
            ("num_workers", num_workers, 0),
            ("augmentations", augmentations, 0),
            ("steps_per_epoch", steps_per_epoch, 1),
            ("lanes", lanes, 1),
        ):
            if number < least:
                raise ValueError(f"data.{name} must be at least {least}, got {number}")
        if overlong not in OVERLONG_RULES:
            raise ValueError(f"data.overlong must be one of {', '.join(OVERLONG_RULES)}, got {overlong!r}")
        if not 0 <= max_faulty <= 1:
            raise ValueError(f"data.max_faulty is a share, from 0 to 1, got {max_faulty}")
        self.overlong, self.max_faulty = overlong, max_faulty
        self.tokenizer, self.layout = Tokenizer(tokenizer, chat), layout
        self.row_tokens, self.seed, self.num_workers = row_tokens, seed, num_workers
        self.augmentations, self.steps_per_epoch, self.lanes = augmentations, steps_per_epoch, lanes
        self.cached: Container[str] = frozenset()  # feature keys of pictures that need no pixels
        configs = {"train": train, "val": val or []}
        self._configs = {split: [source_config(source) for source in sources] for split, sources in configs.items()}
        self._opened: dict[str, list[Source]] = {}
        self._logs: dict[str, FaultLog] = {}
        self._train_loader: TrainLoader | None = None
        self._restored: Mapping[str, Any] | None = None  # a checkpoint's place, until there is a loader to take it

    def setup(self, stage: str | None = None) -> None:
        """Open and check the shards, so that a bad one is an error before training starts."""
        for split in ("train", "val") if stage in (None, "fit") else ("val",):
            self.sources(split)

    def teardown(self, stage: str | None = None) -> None:
        """Let the training workers go, and say what was left out."""
        if self._train_loader is not None:
            self._train_loader.close()
        for split, faults in self._logs.items():
            if faults.counts:
                log.warning("records of data.%s left out or changed: %s", split, faults.words())

    def sources(self, split: str) -> list[Source]:
        """The opened sources of `train` or `val`."""
        if split not in self._opened:
            configs = self._configs[split]
            opened = open_sources(configs, split)
            self._opened[split] = opened
            self._logs[split] = FaultLog({source.name: len(source.shards) for source in opened}, self.max_faulty)
        return self._opened[split]

    @property
    def faults(self) -> dict[tuple[str, str], int]:
        """Records left out so far, by (source, reason)."""
        kinds = {kind for faults in self._logs.values() for kind in faults.counts}
        return {kind: sum(faults.counts[kind] for faults in self._logs.values()) for kind in sorted(kinds)}

    @property
    def fault_keys(self) -> dict[tuple[str, str], list[str]]:
        """Shard and key of the first of them."""
        kinds = {kind for faults in self._logs.values() for kind in faults.keys}
        return {
            kind: [k for faults in self._logs.values() for k in faults.keys.get(kind, [])] for kind in sorted(kinds)
        }

    def train_dataloader(self) -> TrainLoader:
        sources = self.sources("train")
        if not sources:
            raise ValueError("data.train is empty; give at least one source to learn from")
        reader = self._reader(sources)
        shards = [[len(shard) for shard in source.shards.shards] for source in sources]
        weights = [config.weight for config in self._configs["train"]]
        window, copies = draws_of_window(self._reader(sources), weights), self._copies("train")
        order = Order(shards, weights, self.seed, self.lanes, window, copies)
        fingerprint = {f"source {i}": source.identity() for i, source in enumerate(sources)} | {
            "weights": ", ".join(map(str, weights)),
            "seed": str(self.seed),
            "lanes": str(self.lanes),
            "window": str(window),
            "row_tokens": str(self.row_tokens),
            "overlong": self.overlong,
            "augmentations": str(copies),
            "tokenizer": self.tokenizer.fingerprint(),
            "image layout": self.layout.fingerprint() if self.layout else "none",
            "order": str(ORDER_VERSION),
        }
        rank, world = place_among_ranks(self.trainer)
        loader = TrainLoader(
            lambda lanes, cursors: PackedStream(reader, order, self.seed, lanes, cursors),
            fingerprint,
            self._fault_log("train"),
            self.lanes,
            rank,
            world,
            self.steps_per_epoch,
            self.num_workers,
            lambda: self._check_place(loader, place),
        )
        place = self._restored
        if place is None and self._train_loader is not None and self._steps_done():
            place = self._train_loader.state_dict()  # the same run goes on with a new loader
        if place is not None:
            loader.load_state_dict(place)
        self._train_loader, self._restored = loader, None
        return loader

    def val_dataloader(self) -> list[ValLoader]:
        """One loader for each source, so that each has figures of its own."""
        rank, world = place_among_ranks(self.trainer)
        sources, exchange = self.sources("val"), exchange_of(rank, world)
        faults, loaders = self._fault_log("val"), []
        for source in sources:
            rows = PackedOnce(self._reader([source]), rank, world, exchange, self.num_workers)
            loaders.append(ValLoader(rows, faults, min(self.num_workers, 1)))
        return loaders

    def state_dict(self) -> dict[str, Any]:
        """The place in the training data, of all ranks.

        Lightning keeps that of the loader too, but drops it where anything asks for `trainer.estimated_stepping_batches`.
        """
        return {} if self._train_loader is None else {"train": self._train_loader.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take up a place as soon as there is a loader."""
        self._restored = state_dict.get("train")

    def _check_place(self, loader: TrainLoader, place: Mapping[str, Any] | None) -> None:
        """Rather no training than training on data of another place."""
        if place is not None and loader.rows_given < place["rows_given"]:
            raise ValueError(
                f"the checkpoint has seen {place['rows_given']} rows, the loader stands at row {loader.rows_given}; "
                f"leave the loader to the data module, which restores its place"
            )
        if not loader.rows_given and (steps := self._steps_done()):
            raise ValueError(
                f"the run goes on at step {steps}, and the checkpoint does not say where in the data; start a new run from "
                f"the model's weights, or go on from a checkpoint that was saved with this data module"
            )

    def _steps_done(self) -> int:
        return 0 if self.trainer is None else self.trainer.global_step

    @property
    def val_mixture(self) -> list[tuple[str, float]]:
        """Name and weight of each validation source, in the order of the loaders."""
        return [(config.name or config.path, config.weight) for config in self._configs["val"]]

    def pictures(self, split: str) -> Iterator[Picture]:
        """Every picture that the loaders of a split can ask for, each copy of it once. Bad records are left out."""
        assert self.layout is not None, "only a model with an encoder asks for pictures"
        seen: set[tuple[str, int]] = set()
        for source, copies in zip(self.sources(split), self._copies(split), strict=True):
            for index in range(len(source.shards)):
                key, members = source.shards.read(index)
                # Many records share a picture: those that bring no new one need no parsing, which is most of the work.
                names = {member: picture_key(data) for member, data in pictures_of(members).items()}
                if all((name, copies) in seen for name in names.values()):
                    continue
                try:
                    images = parse_sample(key, members).images
                    plans = {member: self.layout.plan_stored(data) for member, data in images.items()}
                except BadRecord:  # the loaders will come upon it, count it and name it
                    continue
                for member, data in images.items():
                    name = names[member]
                    for copy in range(copies + 1):
                        if (name, copy) not in seen:
                            seen.add((name, copy))
                            yield Picture(data, name, copy, plans[member].slots_per_crop)

    def pictures_identity(self, split: str) -> str:
        """Changes when `pictures` may: with the places, sizes and times of change of the shards, and the numbers of copies."""
        sources = zip(self.sources(split), self._copies(split), strict=True)
        shards = [(*shard.identity, copies) for source, copies in sources for shard in source.shards.shards]
        return hashlib.blake2b(repr(shards).encode(), digest_size=16).hexdigest()

    def _copies(self, split: str) -> list[int]:
        """Altered copies of a picture, by source; validation sees pictures as they are."""
        if split != "train":
            return [0] * len(self._configs[split])
        own = [config.augmentations for config in self._configs[split]]
        return [self.augmentations if copies is None else copies for copies in own]

    def _reader(self, sources: list[Source]) -> RowReader:
        return RowReader(sources, self.tokenizer, self.layout, self.row_tokens, self.cached, self.overlong)

    def _fault_log(self, split: str) -> FaultLog:
        faults = self._logs[split]
        if self.trainer is not None:
            faults.quarantine = Quarantine(Path(self.trainer.default_root_dir, QUARANTINE))
        return faults
