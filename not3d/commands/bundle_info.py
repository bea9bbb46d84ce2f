"""`not3d info BUNDLE`: what a bundle on disk is."""

import json
from pathlib import Path

from rich.table import Table
from rich.text import Text

from model.errors import extra
from not3d.commands import print_message, results
from not3d.commands.thresholds import threshold_table


def show_bundle(path: Path, *, as_json: bool) -> None:
    """Print name, frames, embedding space, accuracy and calibration of a bundle."""
    with extra("video"):
        from model.bundle import Bundle
    bundle = Bundle.load(path)
    spec, calibration = bundle.spec, bundle.calibration
    if as_json:
        facts = {
            "name": spec.name,
            "embedding_space": bundle.embedding_space,
            "dimension": spec.dimension,
            "clip_length": spec.clip_length,
            "frame_height": spec.frame_height,
            "frame_width": spec.frame_width,
            "accuracy": [row.model_dump(mode="json") for row in spec.accuracy],
            "calibration": calibration and {"id": calibration.id, **calibration.model_dump(mode="json")},
        }
        results.print_json(json.dumps(facts))
        return
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2))
    table.add_row("bundle", Text(str(path)))
    table.add_row("model", Text(f"{spec.name}, {spec.dimension} dimensions, clips of {spec.clip_length}"))
    table.add_row("frames", Text(f"{spec.frame_height}x{spec.frame_width} (height x width)"))
    for measured in spec.accuracy:
        table.add_row("", Text(f"{measured.dataset}: rank-1 {measured.rank1:.2f}, mAP {measured.map:.2f}"))
    table.add_row("embedding space", Text(bundle.embedding_space))
    if calibration is None:
        table.add_row("calibration", "none, so hits have no probability; `not3d calibrate` fits one")
        results.print(table)
        return
    who = f"{calibration.people} people, {calibration.cameras} cameras" if calibration.people else "unnamed people"
    table.add_row(
        "calibration",
        Text(f"{calibration.id}, fitted on {calibration.source} ({who}, {calibration.fitted_at[:10]})"),
    )
    results.print(table)
    results.print(threshold_table(calibration.thresholds))
    print_message("Measured on the people above; on other cameras these figures are wrong (docs/thresholds.md)")
