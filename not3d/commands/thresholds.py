"""The table of a calibration's thresholds."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

if TYPE_CHECKING:
    from model.calibration import Threshold


def threshold_table(thresholds: "Sequence[Threshold]") -> Table:
    """Return the thresholds as a table for an operator."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="Thresholds", title_justify="left")
    table.add_column("score at least", justify="right")
    table.add_column("strangers that match", justify="right")
    table.add_column("same person that is missed", justify="right")
    table.add_column("95% interval")
    for row in thresholds:
        interval = f"{100 * row.fnmr_low:.1f} to {100 * row.fnmr_high:.1f}%"
        table.add_row(f"{row.score:.3f}", f"1 in {round(1 / row.fmr):,}", f"{100 * row.fnmr:.1f}%", interval)
    return table
