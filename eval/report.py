"""Scores for people (a text table, an HTML fragment) and for programs (scores.json).

A score is never shown without n, its interval, chance, the best constant answer, the blind score and the unread share.
"""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from eval.predictions import write_atomically
from eval.score import Result

COLUMNS = ("task", "score", "±", "n", "95 % interval", "chance", "majority", "blind", "unparsed")
_NAMED = 5  # skipped records that are named below the table; result.json names all

_STYLE = """
.scores{border-collapse:collapse;width:100%;font:14px/1.45 system-ui,sans-serif;font-variant-numeric:tabular-nums;
--good:#2f7d55;--poor:#a8503f;--plain:#66707c;--line:#8883}
.scores th{font-weight:600;text-align:right;padding:6px 8px;border-bottom:1px solid var(--line);white-space:nowrap}
.scores td{text-align:right;padding:7px 8px;border-bottom:1px solid var(--line);white-space:nowrap}
.scores th:first-child,.scores td:first-child{text-align:left;padding-left:0}
.scores th:nth-child(5){text-align:center}
.scores b{font-weight:650}.scores .soft{color:var(--plain)}
.scores .good{color:var(--good)}.scores .poor{color:var(--poor)}.scores .plain{color:var(--plain)}
.scores svg{display:block;min-width:150px;width:100%;height:20px}
.scores-notes{font:13px/1.5 system-ui,sans-serif;color:#66707c;margin:.6em 0 0}
.scores-notes span{white-space:nowrap;margin-right:1.2em}
@media (prefers-color-scheme:dark){.scores{--good:#6fc197;--poor:#dd8d7c;--plain:#9aa4b0}.scores-notes{color:#9aa4b0}}
"""


def scores_table(results: Mapping[str, Result]) -> str:
    """The scores as aligned plain text, one task a line, with notes on skipped records below."""
    rows = [COLUMNS, *(_cells(name, result) for name, result in results.items())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = [_line(row, widths) for row in rows]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join([*lines, *_notes(results)])


def scores_html(results: Mapping[str, Result]) -> str:
    """The scores as one HTML fragment with its own style: no outside file, no script, light and dark."""
    head = "".join(
        f"<th>{escape(title)}</th>" for title in ("task", "score", "n", COLUMNS[4], "from 0 to 1", *COLUMNS[5:])
    )
    rows = "".join(_html_row(name, result) for name, result in results.items())
    notes = "".join(f'<p class="scores-notes">{escape(note)}</p>' for note in _notes(results))
    return (
        f'<style>{_STYLE}</style><table class="scores"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
        '<p class="scores-notes"><span>● score</span><span>▬ 95 % interval</span><span>┆ chance</span>'
        "<span>│ best constant answer</span><span>○ blind: the same questions without their pictures</span></p>"
        f"{notes}"
    )


def write_scores(path: str | Path, results: Mapping[str, Result]) -> None:
    """scores.json: for each task exactly score, n, low, high, chance, majority, blind (null: none) and unparsed."""
    scores = {
        name: {
            "score": result.score,
            "n": result.n,
            "low": result.low,
            "high": result.high,
            "chance": result.chance,
            "majority": result.majority,
            "blind": result.blind,
            "unparsed": result.unparsed,
        }
        for name, result in results.items()
    }
    write_atomically(Path(path), json.dumps(scores, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def verdict(result: Result) -> str:
    """ "good" if the interval lies above all that needs no picture, "poor" if below, "plain" if it cannot be told."""
    bar = max(result.chance, result.majority, result.blind if result.blind is not None else 0.0)
    if result.low > bar:
        return "good"
    return "poor" if result.high < bar else "plain"


def _cells(name: str, result: Result) -> tuple[str, ...]:
    return (
        name,
        f"{result.score:.3f}",
        f"±{_half(result):.3f}",
        str(result.n),
        f"[{result.low:.3f}, {result.high:.3f}]",
        f"{result.chance:.3f}",
        f"{result.majority:.3f}",
        "-" if result.blind is None else f"{result.blind:.3f}",
        f"{result.unparsed:.1%}",
    )


def _half(result: Result) -> float:
    return (result.high - result.low) / 2


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
    return "  ".join([first.strip().ljust(widths[0]), *others])


def means(results: Mapping[str, Result]) -> dict[str, tuple[float, tuple[str, ...]]]:
    """Benchmarks whose one score is the mean of several tasks that are all here: the mean, and of which."""
    from eval.tasks import MEANS

    found = {name: parts for name, parts in MEANS.items() if all(part in results for part in parts)}
    return {name: (sum(results[part].score for part in parts) / len(parts), parts) for name, parts in found.items()}


def _notes(results: Mapping[str, Result]) -> list[str]:
    notes = [
        f"{name}: {value:.3f}, the mean of {' and '.join(parts)}" for name, (value, parts) in means(results).items()
    ]
    for name, result in results.items():
        skipped = result.details.get("skipped", ())
        if skipped:
            named = "; ".join(skipped[:_NAMED])
            more = f"; and {len(skipped) - _NAMED} more" if len(skipped) > _NAMED else ""
            records = "record" if len(skipped) == 1 else "records"
            notes.append(f"{name}: {len(skipped)} bad {records} skipped: {named}{more}")
        if result.truncated:
            count = f"{result.truncated} answer{'s were' if result.truncated > 1 else ' was'}"
            notes.append(f"{name}: {count} cut off at the length limit, and scored as they are")
        if headline := result.details.get("headline"):
            own = "" if headline["scale"] == 1 else f" ({headline['value']:.1f} of {headline['scale']:g})"
            notes.append(
                f"{name}: the score is {headline['name']}{own}; mean over questions {result.details['mean_over_questions']:.3f}"
            )
    return notes


def _html_row(name: str, result: Result) -> str:
    _, score, half, n, interval, chance, majority, blind, unparsed = _cells(name, result)
    kind = verdict(result)
    softer = "".join(f'<td class="soft">{value}</td>' for value in (chance, majority, blind, unparsed))
    return (
        f'<tr><td>{escape(name)}</td><td><b class="{kind}">{score}</b> <span class="soft">{half}</span></td>'
        f'<td>{n}</td><td class="soft">{interval}</td><td>{_bar(result, kind)}</td>{softer}</tr>'
    )


def _bar(result: Result, kind: str) -> str:
    """Score, interval and what they stand against, drawn on a line from 0 to 1."""
    blind = ""
    if result.blind is not None:
        blind = (
            f'<circle cx="{_x(result.blind)}" cy="10" r="3.2" fill="none" stroke="var(--plain)" stroke-width="1.2"/>'
        )
    return (
        '<svg viewBox="0 0 210 20" role="img" aria-hidden="true">'
        '<line x1="5" x2="205" y1="10" y2="10" stroke="var(--line)" stroke-width="2"/>'
        f'<line x1="{_x(result.chance)}" x2="{_x(result.chance)}" y1="3" y2="17" stroke="var(--plain)" '
        'stroke-width="1.2" stroke-dasharray="2 2"/>'
        f'<line x1="{_x(result.majority)}" x2="{_x(result.majority)}" y1="3" y2="17" stroke="var(--plain)"/>'
        f'<g class="{kind}"><line x1="{_x(result.low)}" x2="{_x(result.high)}" y1="10" y2="10" stroke="currentColor" '
        f'stroke-width="6" stroke-opacity=".3"/><circle cx="{_x(result.score)}" cy="10" r="4" fill="currentColor"/></g>'
        f"{blind}</svg>"
    )


def _x(value: float) -> str:
    return f"{5 + 200 * value:.1f}"
