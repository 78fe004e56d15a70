"""What a person sees: progress on stderr, results on stdout."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tasks.training.workers import Progress as ReportProgress


@cache
def stderr() -> Console:
    """Made when first asked for: what it leads to is looked at then."""
    return Console(stderr=True, highlight=False)


@cache
def stdout() -> Console:
    """As `stderr`."""
    return Console(highlight=False, soft_wrap=True)


@contextmanager
def progress_bars(totals: Mapping[str, int | None]) -> Iterator[ReportProgress]:
    """One bar for each thing that advances; yields the callback that advances it. A total of None is not known.

    In a pipe or a file there are none: there stderr is for what went wrong.
    """
    columns = (TextColumn("{task.description:<20}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=stderr(), transient=False, disable=not stderr().is_terminal) as progress:
        bars = {name: progress.add_task(name, total=total) for name, total in totals.items()}

        def advance(name: str, amount: int) -> None:
            if name in bars:
                progress.advance(bars[name], amount)

        yield advance


def say(text: str) -> None:
    """One line on stderr, as it is: neither markup nor folded."""
    stderr().print(text, markup=False, soft_wrap=True)


def tell(text: str) -> None:
    """A line on stdout."""
    stdout().print(text, markup=False)


def print_document(document: Mapping[str, object], indent: int = 0) -> None:
    """A result as indented lines; of a list of mappings each entry is a line of its scalars (`--json` has the rest)."""
    for name, value in document.items():
        label = " " * indent + f"{name}:"
        if isinstance(value, Mapping):
            stdout().print(label, markup=False)
            print_document(value, indent + 2)
        elif isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
            stdout().print(label, markup=False)
            for entry in value:
                cells = [f"{key}={_short(item)}" for key, item in entry.items() if not isinstance(item, Mapping | list | tuple)]
                stdout().print(" " * (indent + 2) + "  ".join(cells), markup=False)
        elif isinstance(value, list | tuple):
            stdout().print(f"{label} {', '.join(_short(item) for item in value)}", markup=False)
        else:
            stdout().print(f"{label} {_short(value)}", markup=False)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
