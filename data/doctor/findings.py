"""What an examination found: figures, duplicates, packing, faults and warnings, ready to be shown."""

import os
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from data.doctor.figures import Repeats, Spread, most_frequent, repeats, spread
from data.doctor.flaws import Flaws
from data.doctor.packing import Packing, measure_packing
from data.doctor.record import parse_record, turns_of
from data.doctor.tally import KINDS, Tally
from data.doctor.views import RecordView
from data.sample import BadRecord

if TYPE_CHECKING:
    from data.doctor.examine import Options, Survey

NAMED_GROUPS = 10_000  # of records that are the same, by key; all are counted
TOP = 5  # captions
FREQUENT_SHARE, FREQUENT = 0.01, 10  # of a caption that stands too often: its share, and how often at least
SHOWN_CHARACTERS = 200  # of a frequent caption


@dataclass(frozen=True)
class Frequent:
    """A caption that stands more than once."""

    text: str
    count: int
    share: float  # of all captions
    shard: str  # of its first record
    key: str


@dataclass(frozen=True)
class Duplicates:
    """What comes more than once."""

    ids: int  # records whose id another one has before them
    records: int  # records whose texts and pictures another one has before them
    pictures: int  # distinct pictures, by their bytes
    shared_pictures: int  # of those in more than one place


@dataclass(frozen=True)
class Findings:
    """Everything that was found; `as_dict` is for programs."""

    settings: dict[str, Any]
    shards: tuple[dict[str, Any], ...]
    num_shards: int  # that the paths name; with a limit not all are examined
    num_records: int
    num_bad: int
    kinds: dict[str, int]
    bytes_of: dict[str, int]
    spreads: dict[str, Spread]  # by the name of the figure
    formats: dict[str, int]  # of pictures
    num_decoded: int  # pictures
    answered_share: float | None  # of the tokens of what is trained on
    packing: Packing | None  # of what is trained on: all but questions
    duplicates: Duplicates
    captions: tuple[Frequent, ...]
    ignored: dict[str, int]  # members that nobody reads, by extension
    faults: Flaws
    warnings: Flaws
    samples: tuple[RecordView, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: all but the pictures of the samples."""
        found = {name: value for name, value in vars(self).items() if name not in ("faults", "warnings", "samples")}
        for name, value in found.items():
            if hasattr(value, "__dataclass_fields__"):
                found[name] = asdict(value)
        found["spreads"] = {name: asdict(one) for name, one in self.spreads.items()}
        found["captions"] = [asdict(one) for one in self.captions]
        for name in ("faults", "warnings"):
            flaws: Flaws = getattr(self, name)
            found[name] = {
                "total": flaws.total,
                "counts": dict(flaws.counts.most_common()),
                "named": [asdict(flaw) for reason in flaws.named.values() for flaw in reason],
            }
        return {"passed": not self.faults.total, **found}


def conclude(survey: "Survey", num_shards: int, tally: Tally, options: "Options") -> Findings:
    """The findings of a survey whose records were tallied."""
    duplicates = _duplicates(survey, tally)
    captions = _captions(survey, tally)
    tokens = tally.column("text_tokens").astype(np.int64) + tally.column("slots")
    trained = tokens[tally.column("kind") != KINDS.index("question")]
    answered = int(tally.column("answered").sum(dtype=np.int64))
    kinds = np.bincount(tally.column("kind"), minlength=len(KINDS)).tolist()
    settings = {
        "tokenizer": options.tokenizer.fingerprint(),
        "tokens": options.tokenizer.vocab_size,
        "layout": None if options.layout is None else repr(options.layout.spec),
        "slots": None if options.layout is None else options.layout.slots,
        "row_tokens": options.row_tokens,
        "limit": options.limit,
        "decoded": "all" if options.decodes_all else "sample",
        "seed": options.seed,
    }
    shards = tuple(
        {
            "path": str(check.place.path),
            "bytes": check.size,
            "records": check.num_records,
            "faults": tally.faults.by_shard[str(check.place.path)],
            "sha256": "same" if check.is_summed and "unlike the manifest" not in check.faults.counts else None,
        }
        for check in survey.checks
    )
    skipped: Counter[str] = Counter()
    for check in survey.checks:
        skipped.update(check.skipped)
    ignored = Counter({f".{extension}": count for extension, count in tally.ignored.items()}) + skipped
    return Findings(
        settings=settings,
        shards=shards,
        num_shards=num_shards,
        num_records=tally.num_read,
        num_bad=tally.num_bad,
        kinds={kind: count for kind, count in zip(KINDS, kinds, strict=True) if count},
        bytes_of=dict(tally.bytes_of.most_common()),
        spreads=_spreads(tally, tokens, has_layout=options.layout is not None),
        formats=dict(tally.formats.most_common()),
        num_decoded=tally.num_decoded,
        answered_share=answered / int(trained.sum()) if len(trained) else None,
        packing=measure_packing(trained, options.row_tokens, options.seed),
        duplicates=duplicates,
        captions=captions,
        ignored=dict(ignored.most_common()),
        faults=tally.faults,
        warnings=tally.warnings,
        samples=tuple(tally.samples),
    )


def _spreads(tally: Tally, tokens: Any, has_layout: bool) -> dict[str, Spread]:
    width, height = tally.column("picture.width"), tally.column("picture.height")
    in_conversation = tally.column("kind") == KINDS.index("conversation")
    columns = {
        "characters": tally.column("characters"),
        "text tokens": tally.column("text_tokens"),
        "tokens with slots": tokens if has_layout else tokens[:0],
        "answered tokens": tally.column("answered")[tally.column("kind") != KINDS.index("question")],
        "turns of a conversation": tally.column("turns")[in_conversation],
        "pictures of a record": tally.column("pictures"),
        "width": width,
        "height": height,
        "megapixels": width.astype(np.float64) * height / 1e6,
        "width / height": width / np.maximum(height, 1),
    }
    return {name: found for name, values in columns.items() if (found := spread(values)) is not None}


def _duplicates(survey: "Survey", tally: Tally) -> Duplicates:
    same_id = repeats(tally.column("id"), NAMED_GROUPS)
    same_content = repeats(tally.column("content"), NAMED_GROUPS)
    questions = tally.column("kind") == KINDS.index("question")
    # Answers to questions are kept by id, so an evaluation refuses two of one; training only reads them.
    asked = repeats(tally.column("id")[questions], NAMED_GROUPS)
    where = np.flatnonzero(questions)
    asked = Repeats(asked.groups, asked.copies, tuple(tuple(where[list(one)].tolist()) for one in asked.places))
    _name(survey, tally, tally.faults, asked, "same id", "the id of")
    if not asked.groups:
        _name(survey, tally, tally.warnings, same_id, "same id", "the id of")
    _name(survey, tally, tally.warnings, same_content, "duplicate record", "the texts and pictures of")
    pictures = tally.column("picture.key")
    shared = repeats(pictures, 0)
    return Duplicates(same_id.copies, same_content.copies, len(pictures) - shared.copies, shared.groups)


def _name(survey: "Survey", tally: Tally, flaws: Flaws, found: Repeats, reason: str, what: str) -> None:
    """Name the records of the first groups; all are counted."""
    numbers, named = tally.column("number"), 0
    groups = [[int(numbers[place]) for place in group] for group in found.places]
    where = survey.locate(number for group in groups for number in group)
    for first, *others in groups:
        shard, span = where[first]
        for path, again in map(where.__getitem__, others):
            there = "" if path == shard else f" of {shard}"
            flaws.add(path, again.key, reason, f"record {again.key!r} has {what} record {span.key!r}{there}")
            named += 1
    flaws.counts[reason] += found.copies - named
    if not flaws.counts[reason]:
        del flaws.counts[reason]


def _captions(survey: "Survey", tally: Tally) -> tuple[Frequent, ...]:
    """The captions that stand most often, and a warning of those that stand too often."""
    caption = tally.column("caption")
    places = np.flatnonzero(caption)
    found = []
    for place, count in most_frequent(caption[places], TOP):
        if count == 1:
            break
        number = int(tally.column("number")[places[place]])
        shard, span = survey.locate([number])[number]
        frequent = Frequent(_text(survey, shard, span), count, count / len(places), str(shard), span.key)
        found.append(frequent)
        if count >= FREQUENT and frequent.share > FREQUENT_SHARE:
            message = f"stands {count:,} times, {frequent.share:.1%} of all captions: {frequent.text!r}"
            tally.warnings.add(shard, span.key, "frequent caption", message)
    return tuple(found)


def _text(survey: "Survey", shard: Any, span: Any) -> str:
    with open(shard, "rb", buffering=0) as file:
        members = {name: os.pread(file.fileno(), size, offset) for name, offset, size in span.members}
    try:
        record = parse_record(span.key, members)
    except BadRecord:
        return ""
    texts = [part.text for _, parts in turns_of(record) for part in parts if part.text is not None]
    return " ".join(texts).strip()[:SHOWN_CHARACTERS]
