"""The model card: what a bundle's ``model.json`` and its export say, for people."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from model.bundle import Bundle
from model.spec import BundleSpec


@dataclass(frozen=True)
class Difference:
    """How far one engine is from what the bundle was made from: the worst figures over unit-length embeddings."""

    engine: str
    precision: str
    max_difference: float
    min_cosine: float


def describe_bundle(bundle: Bundle, reference: str, compared_on: str, differences: Sequence[Difference]) -> str:
    """Write the card in Markdown; ``compared_on`` says in words which clips ``differences`` were measured on."""
    spec = bundle.spec
    return f"""\
# {spec.name}

{spec.architecture}. A tracklet's crops of one person become one vector of {spec.dimension} components; nearby vectors
mean people who look alike.

| | |
|---|---|
| backbone | {spec.backbone} |
| attention | {spec.attention} |
| frames | {spec.frame_height}x{spec.frame_width} (height x width), RGB, {spec.clip_length} to a clip |
| embedding | {spec.dimension} components, {spec.feature.replace("_", "-")} feature |
| embedding space | `{bundle.embedding_space}` |

## Use

{spec.intended_use}

**Not for:** {spec.not_for}

## Data and its terms

{spec.training_data}

{spec.data_terms}

## Measured accuracy

{_accuracy_table(spec)}

{_quantisation(spec)}## Export

Compared with {reference} on {compared_on}; unit-length embeddings:

| engine | arithmetic | largest difference of a component | smallest cosine |
|---|---|---|---|
{_difference_rows(differences)}

## Recipe

```json
{json.dumps(spec.recipe, indent=2)}
```
"""


def _accuracy_table(spec: BundleSpec) -> str:
    if not spec.accuracy:
        return "None was measured."
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

int8, from the float bundle of embedding space `{facts.of}`, calibrated on {facts.clips} clips of {facts.calibration}.
"""
    if facts.validation is None:
        return text + "It was not judged: its accuracy is unknown.\n\n"
    alike = "the two rank alike in one gallery, and share" if facts.ranks_alike else "it does not share"
    return (
        text
        + f"""\
On {facts.people} people ({facts.queries} queries, {facts.validation}) {alike} the float bundle's embedding space.

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
