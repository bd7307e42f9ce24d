"""The data module: sources from the config, wired to the loaders. No logic of its own.

In: paths with weights, a tokenizer, an image layout. Out: loaders of packed batches, and the pictures to encode.
"""

import hashlib
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass

from lightning.pytorch import LightningDataModule
from torch import distributed

from data.image import ImageLayout, picture_key
from data.loader import FaultLog, TrainLoader, ValLoader
from data.order import Draw, Order
from data.pack import PackedOnce, PackedStream, RowReader, Source
from data.sample import BadRecord, parse_sample, pictures_of
from data.shards import open_shards
from data.text import Picture
from data.tokenizer import Chat, Tokenizer

# Packed rows of a window: the more, the fuller the rows; but each lane plans a window at the start and after a restart, so
# above 1,024 records there are fewer.
MIN_WINDOW_ROWS, MAX_WINDOW_ROWS, MAX_WINDOW = 4, 16, 1024
PROBES = 64  # records of a source that are read to estimate its mean length


@dataclass
class SourceConfig:
    """One data set of a mixture.

    Args:
        path: a tar, a folder of tars, a dataset.json, a brace pattern, or `demo:train/emoji` for a part of the demo.
        weight: share of the records drawn, relative to the other sources.
        name: for messages; the path if not given.
        augmentations: altered copies of each training picture of this source; those of the whole mixture if not given.
    """

    path: str
    weight: float = 1.0
    name: str | None = None
    augmentations: int | None = None


class DataModule(LightningDataModule):
    """Records in, packed batches out.

    Args:
        tokenizer: a tokenizer.json, its folder, or `demo`.
        layout: how many slots a picture takes; None for text alone.
        train: sources to learn from; a plain path has weight 1.
        val: sources to validate on, each record once; their weights are those of the mixture's figures.
        row_tokens: tokens of one packed row, which is one batch of one rank; longer records are left out and counted.
        seed: of the order.
        num_workers: processes that read and decode beside the training process.
        augmentations: altered copies of each training picture, beside the picture itself.
        steps_per_epoch: what an epoch of the endless training stream is for Lightning, in batches of one rank.
        lanes: parts of the training stream; a multiple of the number of processes, and fixed for the life of a run.
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
        self.tokenizer, self.layout = Tokenizer(tokenizer, chat), layout
        self.row_tokens, self.seed, self.num_workers = row_tokens, seed, num_workers
        self.augmentations, self.steps_per_epoch, self.lanes = augmentations, steps_per_epoch, lanes
        self.cached: Container[str] = frozenset()  # feature keys of pictures that need no pixels
        configs = {"train": train, "val": val or []}
        self._configs = {split: [_source_config(source) for source in sources] for split, sources in configs.items()}
        self._opened: dict[str, list[Source]] = {}
        self._logs: dict[str, FaultLog] = {}
        self._train_loader: TrainLoader | None = None

    def setup(self, stage: str | None = None) -> None:
        """Open and check the shards, so that a bad one is an error before training starts."""
        for split in ("train", "val") if stage in (None, "fit") else ("val",):
            self.sources(split)

    def teardown(self, stage: str | None = None) -> None:
        """Let the training workers go."""
        if self._train_loader is not None:
            self._train_loader.close()

    def sources(self, split: str) -> list[Source]:
        """The opened sources of `train` or `val`."""
        if split not in self._opened:
            configs = self._configs[split]
            opened = [Source(config.name or config.path, open_shards(_place(config.path))) for config in configs]
            for source in opened:
                if not len(source.shards):
                    raise ValueError(f"source {source.name} of data.{split} has no records; leave it out")
            names = [source.name for source in opened]
            if twice := [name for name in names if names.count(name) > 1]:
                raise ValueError(
                    f"data.{split} has two sources called {twice[0]!r}; give them a name each, or a weight"
                )
            self._opened[split] = opened
            self._logs[split] = FaultLog({source.name: len(source.shards) for source in opened})
        return self._opened[split]

    @property
    def faults(self) -> dict[tuple[str, str], int]:
        """Records left out so far, by (source, reason)."""
        return {kind: len(keys) for kind, keys in self.fault_keys.items()}

    @property
    def fault_keys(self) -> dict[tuple[str, str], list[str]]:
        """Shard and key of each record left out, by (source, reason)."""
        kinds = {kind for faults in self._logs.values() for kind in faults.keys}
        return {kind: [key for faults in self._logs.values() for key in faults.keys.get(kind, [])] for kind in kinds}

    def train_dataloader(self) -> TrainLoader:
        sources, reader = self.sources("train"), self._reader(self.sources("train"))
        if not sources:
            raise ValueError("data.train is empty; give at least one source to learn from")
        counts = [len(source.shards) for source in sources]
        weights = [config.weight for config in self._configs["train"]]
        window = self._window(counts, weights)
        copies = self._copies("train")
        order = Order(counts, weights, self.seed, self.lanes, window, copies)
        fingerprint = {f"source {i}": f"{weights[i]} x {s.shards.fingerprint()}" for i, s in enumerate(sources)} | {
            "seed": str(self.seed),
            "lanes": str(self.lanes),
            "window": str(window),
            "row_tokens": str(self.row_tokens),
            "augmentations": str(copies),
            "tokenizer": self.tokenizer.fingerprint(),
            "image layout": self.layout.fingerprint() if self.layout else "none",
        }
        rank, world = self._place_among_ranks()
        self._train_loader = TrainLoader(
            lambda lanes, cursors: PackedStream(reader, order, self.seed, lanes, cursors),
            fingerprint,
            self._logs["train"],
            self.lanes,
            rank,
            world,
            self.steps_per_epoch,
            self.num_workers,
        )
        return self._train_loader

    def val_dataloader(self) -> list[ValLoader]:
        """One loader for each source, so that each has figures of its own."""
        place = self._place_among_ranks()
        readers = [self._reader([source]) for source in self.sources("val")]
        return [
            ValLoader(PackedOnce(reader, *place), self._logs["val"], min(self.num_workers, 1)) for reader in readers
        ]

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
        return RowReader(sources, self.tokenizer, self.layout, self.row_tokens, self.cached)

    def _window(self, counts: Sequence[int], weights: Sequence[float]) -> int:
        """Draws of a window, from the mean length of some records; the same on every rank."""
        probe = self._reader(self.sources("train"))
        tokens = total = 0.0
        for source, (count, weight) in enumerate(zip(counts, weights, strict=True)):
            places = range(0, count, max(1, count // PROBES))
            lengths = [len(row) for index in places if (row := probe.row(Draw(source, index, 0))) is not None]
            if lengths:
                tokens += weight * sum(lengths) / len(lengths)
                total += weight
        draws_per_row = self.row_tokens * total / tokens if total else 1.0
        num_rows = min(MAX_WINDOW_ROWS, max(MIN_WINDOW_ROWS, MAX_WINDOW / draws_per_row))
        return round(num_rows * draws_per_row)

    def _place_among_ranks(self) -> tuple[int, int]:
        """(rank, world) among the processes that read data of their own."""
        place = getattr(getattr(self.trainer, "strategy", None), "distributed_sampler_kwargs", None)
        if place:  # ranks of one tensor-parallel group read the same data, and only the strategy knows the groups
            return place["rank"], place["num_replicas"]
        if distributed.is_available() and distributed.is_initialized():
            return distributed.get_rank(), distributed.get_world_size()
        return 0, 1


def _source_config(source: SourceConfig | str) -> SourceConfig:
    config = SourceConfig(source) if isinstance(source, str) else source
    if config.weight <= 0:
        raise ValueError(f"source {config.path} has weight {config.weight}; give one above 0, or leave the source out")
    if config.augmentations is not None and config.augmentations < 0:
        raise ValueError(f"source {config.path} has augmentations {config.augmentations}; give 0 or more copies")
    return config


def _place(path: str) -> str:
    """Where a source lies: `demo:` is the folder of the demo's data, made on first use."""
    if not path.startswith("demo:"):
        return path
    from data.assets.expand import demo_folder

    return str(demo_folder() / path.removeprefix("demo:"))
