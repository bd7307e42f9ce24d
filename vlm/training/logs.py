"""Logs of a run that begin with its first figure: a run that is refused leaves none.

Lightning opens every log before it loads the checkpoint, fills the feature cache or reads a record.
"""

from typing import Any

from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger


class _BegunLate:
    """A log that cannot be opened before the fit starts, and is opened by what is first written."""

    may_open = False
    _experiment: Any

    @property
    def experiment(self) -> Any:
        if not self.may_open:  # Lightning asks with hasattr()
            raise AttributeError("logs open when the fit starts")
        return super().experiment  # type: ignore[misc]  # of Lightning's class, which comes next

    def save(self) -> None:
        if self._experiment is not None:
            super().save()  # type: ignore[misc]


class CSVLog(_BegunLate, CSVLogger):
    """Figures as lines of a table."""


class TensorBoardLog(_BegunLate, TensorBoardLogger):
    """Figures as TensorBoard reads them."""


def let_logs_open(loggers: list[Any]) -> None:
    """From here on these logs may be opened."""
    for logger in loggers:
        if isinstance(logger, _BegunLate):
            logger.may_open = True
