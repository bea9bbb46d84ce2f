"""The model card: a bundle's `model.json` and the comparison at its export, as Markdown for people."""

import json
from collections.abc import Sequence

from model.bundle import Bundle
from model.calibration import Calibration
from model.spec import BundleSpec
from training.export.reference import Difference


def describe_bundle(bundle: Bundle, reference: str, compared_on: str, differences: Sequence[Difference]) -> str:
    """Return the card in Markdown.

    Args:
        bundle: to describe
        reference: name of the network that it was compared with
        compared_on: the clips of the comparison, in words
        differences: one for each engine and precision
    """
    spec = bundle.spec
    resized = (
        ", resized with the pixels of Pillow's bicubic filter" if spec.preprocessing.resampling != "opencv" else ""
    )
    return f"""\
# {spec.name}

{spec.architecture}.

The model turns a tracklet (crops of one person from one camera) into one vector of {spec.dimension} components. Similar
vectors mean that the people look alike.

| | |
|---|---|
| backbone | {spec.backbone} |
| attention | {spec.attention} |
| frames | {spec.frame_height}x{spec.frame_width} (height x width), RGB{resized}; {spec.clip_length} frames in a clip |
| embedding | {spec.dimension} components, {spec.feature.replace("_", "-")} feature |
| embedding space | `{bundle.embedding_space}` |

## Use

{spec.intended_use}

**Not for:** {spec.not_for}

## Training data and its terms

{spec.training_data}

{spec.data_terms}

## Measured accuracy

{_accuracy_table(spec)}

{"" if bundle.calibration is None else describe_calibration(bundle.calibration)}{_quantisation(spec)}## Export

Differences of the embeddings, scaled to unit length, from {reference}, on {compared_on}:

| engine | precision | largest difference of a component | smallest cosine |
|---|---|---|---|
{_difference_rows(differences)}

## Recipe

```json
{json.dumps(spec.recipe, indent=2)}
```
"""


def describe_calibration(calibration: Calibration) -> str:
    """Return the section of the card about probabilities and thresholds."""
    rows = "\n".join(
        f"| {row.fmr:g} | {row.score:.3f} | {100 * row.fnmr:.1f} % | {100 * row.fnmr_low:.1f} to "
        f"{100 * row.fnmr_high:.1f} % |"
        for row in calibration.thresholds
    )
    on_whom = f"{calibration.people} people and {calibration.cameras} cameras, " if calibration.people else ""
    return f"""\
## Calibration

Fitted on {calibration.source}: {on_whom}{calibration.mated_pairs:,} pairs of one person and
{calibration.non_mated_pairs:,} of two, each from two cameras of one site ({calibration.fitted_at[:10]}, id
`{calibration.id}`). The log-likelihood ratio of a score is {calibration.slope:.3f} x score
{calibration.intercept:+.3f}, at least {calibration.llr_low:.2f} and at most {calibration.llr_high:.2f}.

These figures hold for the cameras of the people above. On other cameras they are wrong, most of all the thresholds:
calibrate on people of your own site (`not3d calibrate`).

| false match rate (FMR) | score at least | false non-match rate (FNMR) | 95 % interval over people |
|---|---|---|---|
{rows}

"""


def _accuracy_table(spec: BundleSpec) -> str:
    if not spec.accuracy:
        return "Not measured."
    rows = (
        f"| {row.dataset} | {row.protocol} | {row.people} | {row.queries} | {row.gallery} "
        f"| {row.rank1:.2f} | {row.map:.2f} |"
        for row in spec.accuracy
    )
    heading = "| data | protocol | people | queries | gallery | rank-1 | mAP |\n|---|---|---|---|---|---|---|\n"
    return heading + "\n".join(rows)


def _quantisation(spec: BundleSpec) -> str:
    facts = spec.quantisation
    if facts is None:
        return ""
    text = f"""\
## Quantisation

int8, made from the float bundle with embedding space `{facts.of}`, calibrated on {facts.clips} clips of
{facts.calibration}.
"""
    if facts.validation is None:
        return text + "Its accuracy was not measured.\n\n"
    use = (
        "It ranks like the float bundle, also in one gallery with it, and uses the same embedding space"
        if facts.ranks_alike
        else "It ranks differently from the float bundle and has its own embedding space"
    )
    return (
        text
        + f"""\
{use}. Measured on {facts.people} people ({facts.queries} queries, protocol {facts.validation}):

| queries | gallery | mAP |
|---|---|---|
| float | float | {facts.float_map:.2f} |
| int8 | int8 | {facts.map:.2f} |
| int8 | float | {facts.map_in_float_gallery:.2f} |
| float | int8 | {facts.map_of_float_queries:.2f} |

Cosine to the float network's video features: mean {facts.mean_cosine:.5f}, smallest {facts.min_cosine:.5f}.

"""
    )


def _difference_rows(differences: Sequence[Difference]) -> str:
    return "\n".join(
        f"| {row.engine} | {row.precision} | {row.max_difference:.1e} | {row.min_cosine:.6f} |" for row in differences
    )
