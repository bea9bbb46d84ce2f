"""Compare f32, bf16 and int8, also in one gallery: `python -m benchmarks.precision BUNDLE ... --data PATH`.

The reference is OpenVINO's f32. An int8 bundle is compared with its float bundle, which is named before it.
"""

import argparse
from pathlib import Path

from model.bundle import Bundle
from model.cgroups import available_cpus
from model.engines import Engine, EngineError
from model.engines.openvino_engine import OpenVinoEngine
from training.evaluation.protocols import select_tracklets
from training.export.precision import compare_precisions

HEAD = (
    "| model | precision | rank-1, mAP | queries against f32 gallery | f32 queries against its "
    "gallery "
    "| cosine to f32: mean, least |\n|---|---|---|---|---|---|"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE")
    parser.add_argument("--data", type=Path, action="append", required=True, help="may be repeated")
    parser.add_argument("--protocol", default="validation", help="as in `not3d evaluate`")
    parser.add_argument(
        "--recipe-of", type=Path, metavar="BUNDLE", help="use this bundle's people set aside (default: its own)"
    )
    options = parser.parse_args()
    print(HEAD, flush=True)
    exact: tuple[Bundle, Engine] | None = None
    for path in options.bundles:
        bundle = Bundle.load(path)
        people = select_tracklets(
            options.data,
            options.protocol,
            (Bundle.load(options.recipe_of) if options.recipe_of else bundle).spec.recipe,
        )
        if bundle.spec.quantisation is None:
            exact = bundle, OpenVinoEngine(bundle, threads=available_cpus(), precision="f32")
        if exact is None:
            raise SystemExit(f"{path} is an int8 bundle: name its float bundle before it")
        for engine in _others(bundle):
            found = compare_precisions(exact[1], engine, bundle.spec, people)
            if engine.precision != "int8":
                print(f"| {bundle.spec.name} | f32 | {found.exact.rank1:.2f}, {found.exact.mean_ap:.2f} | | | |")
            print(
                f"| {exact[0].spec.name} | {engine.precision} | {found.other.rank1:.2f}, {found.other.mean_ap:.2f} | "
                f"{found.other_in_exact.mean_ap:.2f} | {found.exact_in_other.mean_ap:.2f} | "
                f"{found.mean_cosine:.5f}, {found.min_cosine:.5f} |",
                flush=True,
            )


def _others(bundle: Bundle) -> list[Engine]:
    if bundle.spec.quantisation is not None:
        return [OpenVinoEngine(bundle, threads=available_cpus())]
    try:
        return [OpenVinoEngine(bundle, threads=available_cpus(), precision="bf16")]
    except EngineError as error:
        raise SystemExit(f"{error}") from error


if __name__ == "__main__":
    main()
