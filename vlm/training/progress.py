"""Progress on standard error: a bar in a terminal; a line at each quarter of the work otherwise. And the bar of a training run."""

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
    # Output that goes to a file stays there; in the terminal it goes above the bar.
    shown = Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=sys.stdout.isatty())
    with shown as bar:
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


class TrainingBar:
    """Steps done and the time left; below them the latest figures, on a line of their own: they need 90 columns.

    Args:
        done: steps at the start.
        total: steps of the run.
    """

    def __init__(self, done: int, total: int) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        # The speed of the last ten minutes: a validation must not look like the end of progress, nor a step of a minute like none.
        self._steps = Progress(
            TextColumn("step"), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn(), speed_estimate_period=600
        )
        self._task = self._steps.add_task("", total=total, completed=done)
        # Output that goes to a file stays there; in the terminal it goes above the bar.
        self._live = Live(self._steps, console=Console(stderr=True), redirect_stdout=sys.stdout.isatty())
        self._live.start()

    def show_step(self, done: int) -> None:
        self._steps.update(self._task, completed=done)

    def show_figures(self, line: str) -> None:
        from rich.console import Group

        self._live.update(Group(self._steps, line))

    def stop(self) -> None:
        self._live.stop()
