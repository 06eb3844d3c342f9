"""A progress bar for scans: on stderr, on a terminal, and nowhere else."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from drivers.discovery import ScanProgress


@contextmanager
def scan_progress(*, hidden: bool = False) -> Iterator[Callable[[ScanProgress], None]]:
    """Give the callback that a scan reports to."""
    progress = Progress(
        TextColumn("scanning"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        console=Console(file=sys.stderr),
        disable=hidden or not sys.stderr.isatty(),
        transient=True,
    )
    with progress:
        task = progress.add_task("", total=None)

        def show(now: ScanProgress) -> None:
            progress.update(
                task,
                total=now.total,
                completed=now.probed,
                description=f"{now.found} machines, {now.failed} failed",
            )

        yield show
