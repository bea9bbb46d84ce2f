"""`not3d quantize`: a bundle in int8."""

from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from model.errors import extra
from not3d.commands import messages, print_message, print_result


def quantize(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", exists=True, file_okay=False, help="The float bundle.")],
    calibrate: Annotated[
        list[Path],
        typer.Option(
            "--calibrate",
            metavar="PATH",
            exists=True,
            help="Crops that set the int8 ranges: a dataset, or a folder of tracklets; may be repeated.",
        ),
    ],
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="DIR", file_okay=False, help="The new bundle. [dim]Default: BUNDLE-int8[/]"
        ),
    ] = None,
    validate: Annotated[
        list[Path] | None,
        typer.Option(
            "--validate",
            metavar="PATH",
            exists=True,
            help="A dataset to measure the new bundle on; may be repeated. [dim]Default: the people of PATH who were "
            "validation people when BUNDLE was trained[/]",
        ),
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(metavar="NAME", help="Protocol of the measurement, as in [bold]not3d evaluate[/].")
    ] = None,
    clips: Annotated[int, typer.Option(min=1, metavar="N", help="Number of clips for the calibration.")] = 300,
) -> None:
    """Write a bundle that computes in int8: 1.6 to 1.8 times the speed of bf16 on a CPU, a quarter of the size of fp32.

    It is measured on people that were used neither for training nor for calibration. Nothing is written if mAP falls by
    more than 0.3 points or the mean cosine to the features of the float network is below 0.99. If its vectors and those
    of the float bundle rank alike in one gallery, it keeps that embedding space; otherwise it gets a new one.

    Example: [bold]not3d quantize models/mine --calibrate footage[/]
    """
    target = out or bundle.with_name(f"{bundle.name}-int8")
    with extra("quantize"):
        from model.bundle import Bundle
        from training.export.quantise import choose_calibration, quantise, select_people
    loaded = Bundle.load(bundle)
    with messages.status("Reading the people"):
        people = select_people(loaded, calibrate, validate or [], protocol)
        calibration = choose_calibration(loaded, calibrate, people, clips)
    with messages.status("Calibrating and measuring"):
        report = quantise(loaded, target, calibration, people)
    facts = report.quantisation
    table = Table("queries", "gallery", "rank-1", "mAP", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_row("float", "float", f"{report.rank1['float']:.2f}", f"{facts.float_map:.2f}")
    table.add_row("int8", "int8", f"{report.rank1['int8']:.2f}", f"{facts.map:.2f}")
    table.add_row("int8", "float", "", f"{facts.map_in_float_gallery:.2f}")
    table.add_row("float", "int8", "", f"{facts.map_of_float_queries:.2f}")
    print_message(
        f"Calibrated on {facts.clips} clips of {facts.calibration}; {facts.people} people, {facts.queries} queries, "
        f"{facts.validation}:"
    )
    messages.print(table)
    space = (
        "the float bundle's, so its galleries stay valid"
        if facts.ranks_alike
        else "a new one, which needs a gallery of its own"
    )
    print_message(
        f"cosine to the float network's features: mean {facts.mean_cosine:.5f}, smallest {facts.min_cosine:.5f}\n"
        f"network: {report.bytes_before / 1e6:.1f} MB before, {report.bytes_after / 1e6:.1f} MB now\n"
        f"embedding space {report.bundle.embedding_space}: {space}"
    )
    print_result(str(report.bundle.path))
