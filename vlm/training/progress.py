"""A progress bar on standard error in a terminal; a line at each quarter of the work otherwise."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Show = Callable[[int, int], None]  # (done, total)


@contextmanager
def progress(what: str, total: int) -> Iterator[Show]:
    """Yields a function to be called with (done, total)."""
    if not sys.stderr.isatty():
        yield _quarters(what)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done, all_of_them: bar.update(task, completed=done, total=all_of_them)


def _quarters(what: str) -> Show:
    told = [0]

    def show(done: int, total: int) -> None:
        quarter = 4 * done // max(1, total)
        if quarter > told[0]:
            told[0] = quarter
            print(f"{what}: {done:,} of {total:,}", file=sys.stderr, flush=True)

    return show
