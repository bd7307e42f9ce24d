"""The findings of the doctor as one page of text."""

from collections.abc import Sequence
from itertools import groupby

from data.doctor.findings import Findings
from data.doctor.flaws import Flaws
from vlm.data_report.words import counted, plain, short, size_of

NAMED = {"faults": 20, "warnings": 5}  # of one reason on the page; --json names all
LINE = 118
MESSAGE = 300  # characters of a fault's message


def as_text(found: Findings) -> str:
    """All sections that have something to say, the summary last."""
    sections = [
        _contents(found),
        _figures(found),
        _tokens(found),
        _pictures(found),
        _repeats(found),
        _flaws("warnings", found.warnings),
        _flaws("faults", found.faults),
        [summary(found)],
    ]
    return "\n\n".join("\n".join(section) for section in sections if section)


def summary(found: Findings) -> str:
    """The last line."""
    records, shards = counted(found.num_records, "record"), counted(len(found.shards), "shard")
    limited = "" if len(found.shards) == found.num_shards else f" of {found.num_shards:,}"
    parts = [f"{records} in {shards}{limited}"]
    for name, flaws in (("fault", found.faults), ("warning", found.warnings)):
        reasons = ", ".join(f"{count:,} x {reason}" for reason, count in flaws.counts.most_common())
        parts.append(
            f"{counted(flaws.total, name)}{f' ({reasons})' if reasons else ''}" if flaws.total else f"no {name}s"
        )
    return ("passed: " if not found.faults.total else "failed: ") + "; ".join(parts)


def notes(found: Findings) -> list[str]:
    """How the examination was done, where that bounds what it can say."""
    said = []
    if found.settings["limit"] is not None:
        said.append(f"--limit: only the first {counted(found.num_records, 'record')} were read")
    pictures = found.spreads.get("width")
    if pictures is not None and found.num_decoded < pictures.n:
        said.append(
            f"every picture's header was read, and {found.num_decoded:,} of {pictures.n:,} pictures were decoded "
            f"(drawn with seed {found.settings['seed']}); --decode decodes all"
        )
    elif pictures is not None:
        said.append(f"all {found.num_decoded:,} pictures were decoded")
    if found.settings["slots"] is None and pictures is not None:
        said.append("the slots of pictures are not counted: name an encoder with --config or --encoder")
    return said


def _contents(found: Findings) -> list[str]:
    size = sum(shard["bytes"] for shard in found.shards)
    lines = [f"{counted(found.num_records, 'record')} in {counted(len(found.shards), 'shard')}, {size_of(size)}"]
    summed = sum(shard["sha256"] == "same" for shard in found.shards)
    if summed:
        lines[0] += f"; {counted(summed, 'shard')} as the manifest's SHA-256 says"
    rows = [(kind, f"{count:,}", f"{count / found.num_records:.1%}") for kind, count in found.kinds.items()]
    if found.num_bad:
        rows.append(("bad", f"{found.num_bad:,}", f"{found.num_bad / found.num_records:.1%}"))
    lines += ["", *table(("kind", "records", "share"), rows)] if rows else []
    rows = [(kind, size_of(count), "") for kind, count in found.bytes_of.items()]
    lines += ["", *table(("members", "bytes"), [row[:2] for row in rows])] if rows else []
    if found.ignored:
        most = ", ".join(f"{count:,} x {plain(name, 30)}" for name, count in list(found.ignored.items())[:12])
        lines.append(f"ignored, as no reader looks at them: {most}")
    return lines


def _figures(found: Findings) -> list[str]:
    rows = []
    for name, one in found.spreads.items():
        rows.append((name, *(short(value) for value in (one.mean, one.least, one.p5, one.p50, one.p95, one.most))))
    return table(("", "mean", "least", "5 %", "median", "95 %", "most"), rows) if rows else []


def _tokens(found: Findings) -> list[str]:
    lines = []
    counts = found.spreads.get("tokens with slots") or found.spreads.get("text tokens")
    if counts is not None:
        what = "slots of pictures among them" if "tokens with slots" in found.spreads else "of texts alone"
        share = "" if found.answered_share is None else f"; {found.answered_share:.1%} of what is trained on carry loss"
        lines.append(f"{counts.total:,} tokens, {what}{share}")
    if (packing := found.packing) is not None:
        lines.append(
            f"rows of {packing.row_tokens:,}: {packing.rows_per_epoch:,} an epoch, {packing.waste:.1%} of them empty "
            f"(windows of {packing.window:,} records); {packing.too_long:,} records are longer than a row"
        )
    elif found.answered_share is not None:
        lines.append(f"rows of {found.settings['row_tokens']:,}: every record is longer than one")
    return lines


def _pictures(found: Findings) -> list[str]:
    lines = []
    if found.formats:
        formats = ", ".join(f"{count:,} {name}" for name, count in found.formats.items())
        total, same = sum(found.formats.values()), found.duplicates
        lines.append(
            f"pictures: {formats}; {same.pictures:,} distinct of {total:,}"
            + (f", {same.shared_pictures:,} stand more than once" if same.shared_pictures else "")
        )
    return lines + notes(found)


def _repeats(found: Findings) -> list[str]:
    rows = [(f"{one.count:,}", f"{one.share:.1%}", plain(one.text, LINE - 20)) for one in found.captions]
    return table(("times", "share", "most frequent captions"), rows, left=2) if rows else []


def _flaws(title: str, flaws: Flaws) -> list[str]:
    lines = []
    for reason, count in flaws.counts.most_common():
        lines.append(f"{title}: {count:,} x {reason}")
        named = flaws.named[reason]
        for shard, of_shard in groupby(named[: NAMED[title]], lambda flaw: flaw.shard):
            lines.append(f"  {plain(shard)}")
            for flaw in of_shard:
                key = "" if flaw.key is None or repr(flaw.key) in flaw.message else f"key {flaw.key!r}: "
                lines.append(f"      {plain(key + flaw.message, MESSAGE)}")
        if count > NAMED[title]:
            rest = "--json names all" if len(named) == count else f"--json names {len(named):,}"
            lines.append(f"  and {count - min(NAMED[title], len(named)):,} more; {rest}")
    return lines


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 0) -> list[str]:
    """Aligned columns, numbers to the right.

    Args:
        left: the column of texts.
    """
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        return "  ".join(
            cell.ljust(width) if place == left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()

    return [line(head), *map(line, rows)]
