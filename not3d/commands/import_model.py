"""`not3d import`: models and weights of other programs."""

from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer

from model.errors import extra
from not3d.commands import Failure, messages, print_message, print_result
from not3d.commands.training import show_export

Triple = tuple[float, float, float]


def import_model(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL", exists=True, dir_okay=False, help=".onnx, OpenVINO's .xml, or a PyTorch checkpoint."
        ),
    ],
    *,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="PATH", help="Folder of the new bundle, or file of the new checkpoint."),
    ],
    height: Annotated[
        int | None, typer.Option(min=8, help="Height of the frames in pixels. [dim]Default: as in the file.[/]")
    ] = None,
    width: Annotated[
        int | None, typer.Option(min=8, help="Width of the frames in pixels. [dim]Default: as in the file.[/]")
    ] = None,
    colour: Annotated[str, typer.Option(metavar="ORDER", help="rgb or bgr, as the model was trained.")] = "rgb",
    mean: Annotated[
        str, typer.Option(metavar="R,G,B", help="Subtracted from each channel; in the order R,G,B for bgr too.")
    ] = "0.485,0.456,0.406",
    std: Annotated[
        str, typer.Option(metavar="R,G,B", help="Each channel is then divided by this.")
    ] = "0.229,0.224,0.225",
    scale: Annotated[
        int, typer.Option(metavar="N", help="Bytes are first divided by this: 255, or 1 if the model takes 0 to 255.")
    ] = 255,
    output: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the output that is the embedding, if there are several.")
    ] = None,
    clip_length: Annotated[int, typer.Option(min=1, max=256, help="Number of frames in a clip.")] = 4,
    name: Annotated[str | None, typer.Option(help="The bundle's name. [dim]Default: the file's.[/]")] = None,
    training_data: Annotated[
        str | None, typer.Option(help="What the model was trained on, for the model card.")
    ] = None,
    data_terms: Annotated[
        str | None, typer.Option(help="Terms of use of the training data, for the model card.")
    ] = None,
    crops: Annotated[
        Path | None, typer.Option(metavar="PATH", exists=True, help="Crops of people for the comparison.")
    ] = None,
) -> None:
    """Convert a frame-level Re-ID model to a bundle, or published weights to a checkpoint.

    An ONNX file or an OpenVINO IR of a model that embeds one frame (OSNet, FastReID, ReIdentificationNet ...) becomes
    a bundle that averages the frames of a clip; the defaults are ImageNet's normalisation. It is compared with the
    original model, and nothing is written if they differ.

    A PyTorch checkpoint with the names of Not 3D Re-ID or Fantastic Techniques becomes a checkpoint for
    [bold]evaluate[/] and [bold]export[/].

    Example: [bold]not3d import osnet_x0_25_msmt17.onnx --out models/osnet[/]
    """
    if model.suffix == ".bin" and model.with_suffix(".xml").is_file():
        raise Failure(f"{model} holds only the weights of an IR; give {model.with_suffix('.xml')}")
    if _is_pickled(model):
        _import_checkpoint(model, out)
        return
    if colour not in {"rgb", "bgr"}:
        raise Failure(f"--colour must be rgb or bgr (got {colour})")
    if scale not in {1, 255}:
        raise Failure(f"--scale must be 1 or 255 (got {scale})")
    with extra("train"):
        from training.importing.frame_model import ImportOptions
        from training.importing.to_bundle import import_frame_model
    card: dict[str, Any] = {"name": name, "training_data": training_data, "data_terms": data_terms}
    options = ImportOptions(
        height=height,
        width=width,
        colour=cast(Literal["rgb", "bgr"], colour),
        mean=_parse_triple("--mean", mean),
        std=_parse_triple("--std", std),
        scale=cast(Literal[1, 255], scale),
        output=output,
        clip_length=clip_length,
        **{key: value for key, value in card.items() if value},
    )
    with messages.status("Importing and comparing"):
        report = import_frame_model(model, out, options, crops=crops)
    show_export(report)


def _is_pickled(model: Path) -> bool:
    """Return whether PyTorch wrote the file: a zip archive, or a pickle of an older release."""
    with model.open("rb") as file:
        begin = file.read(4)
    return begin == b"PK\x03\x04" or begin[:1] == b"\x80"


def _import_checkpoint(model: Path, out: Path) -> None:
    if out.exists():
        raise Failure(f"{out} exists; --out must be a new file")
    with extra("train"):
        from training.importing.third_party_weights import import_checkpoint
        from training.loop.checkpoint import save_checkpoint
    checkpoint = import_checkpoint(model, console=messages)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(checkpoint, out)
    spec = checkpoint.network_spec
    print_message(
        f"{spec.backbone}, attention {spec.attention}, {spec.frame_height}x{spec.frame_width}, neck {spec.neck}, "
        f"{spec.classes} people, {len(checkpoint.state_dict)} entries"
    )
    print_result(str(out))


def _parse_triple(option: str, text: str) -> Triple:
    try:
        red, green, blue = (float(part) for part in text.split(","))
    except ValueError:
        raise Failure(f"{option} must be three numbers with commas between them (got {text})") from None
    return red, green, blue
