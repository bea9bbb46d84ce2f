"""`not3d calibrate`: from scores to probabilities, and which threshold to use."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer
from rich import box
from rich.table import Table

from model.errors import extra
from not3d.client import Client
from not3d.commands import Failure, messages, print_message, print_result, show_progress
from not3d.commands.search import DEFAULT_URL, ApiKey, CaFile, Timeout
from not3d.commands.thresholds import threshold_table

if TYPE_CHECKING:
    from model.bundle import Bundle
    from model.calibration import Calibration, Mode
    from training.evaluation.calibration_data import JudgedPairs
    from training.evaluation.pairs import Pairs

_PRIORS = (0.1, 0.01, 0.001)
_PROBABILITIES = (0.5, 0.9)


def calibrate(
    bundle: Annotated[
        Path | None,
        typer.Argument(
            metavar="BUNDLE",
            exists=True,
            file_okay=False,
            help="The model whose scores are calibrated. [dim]Default: the one that comes with the package.[/]",
        ),
    ] = None,
    *,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            "--data",
            "-d",
            metavar="PATH",
            exists=True,
            help="Labelled tracklets: a folder person/camera/tracklet/*.jpg of your own site, or a dataset that "
            "`not3d datasets list` names; may be repeated.",
        ),
    ] = None,
    aside: Annotated[
        bool,
        typer.Option(
            "--set-aside",
            help="PATH is the data that BUNDLE was trained on: take only the people whom its training set aside.",
        ),
    ] = False,
    pairs: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV",
            exists=True,
            dir_okay=False,
            help="Judged pairs instead of tracklets. Header [bold]score,same[/], or [bold]id_a,id_b,same[/] for "
            "tracklets of a running service; same is 1 or 0. Optional: person_a,person_b,camera_a,camera_b.",
        ),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            envvar="NOT3D_URL", metavar="URL", help=f"For --pairs: the service. [dim]Default for ids: {DEFAULT_URL}.[/]"
        ),
    ] = None,
    api_key: ApiKey = None,
    ca_file: CaFile = None,
    timeout: Timeout = 30.0,
    mode: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Which scores CSV holds: [bold]cosine[/], [bold]centred[/] (after each camera's mean was subtracted), "
            "[bold]reranked[/], or [bold]mean[/] or [bold]max[/] of several examples.",
        ),
    ] = "cosine",
    source: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Whose tracklets these are, for people who read the calibration.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="FILE", dir_okay=False, help="The new file. [dim]Default: calibration.json.[/]"
        ),
    ] = None,
    into_bundle: Annotated[
        bool,
        typer.Option(
            "--into-bundle", help="Put the calibration into BUNDLE and its model card, in place of an older one."
        ),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the intervals.")] = 1,
) -> None:
    """Fit a calibration: what a score says about the probability of the same person, and which threshold to use.

    It needs at least 20 people whom two cameras saw (50 to 100 are better) and whom the model was not trained on.
    Scores of pairs from two cameras are fitted to log-likelihood ratios, to which the service adds the operator's
    prior. Thresholds come with a 95% interval over people; one that the data cannot support is left out. The service
    uses the file with [bold]NOT3D_CALIBRATION=site.json[/].

    Example: [bold]not3d calibrate --data footage --out site.json[/]

    Example: [bold]not3d calibrate --pairs judged.csv --url http://127.0.0.1:8000 --out site.json[/]

    Example: [bold]not3d calibrate models/mine --data market1501 --data mars --set-aside --into-bundle[/]
    """
    target = _check_options(bundle, data, pairs, out, aside=aside, into_bundle=into_bundle)
    with extra("train"):
        from model.bundle import BUNDLED, Bundle
        from model.calibration import Mode
        from model.files import replace_text
        from training.evaluation.calibration import fit
    if mode not in get_args(Mode):
        raise Failure(f"--mode must be one of {', '.join(get_args(Mode))} (got {mode})")
    chosen = cast(Mode, mode)
    if data and chosen != "cosine":
        raise Failure(f"--data gives cosine scores (got --mode {mode}); give scores of another mode with --pairs")
    loaded = Bundle.load(bundle or BUNDLED)
    if pairs is None:
        found, space, described = _embed(loaded, data or [], aside=aside, seed=seed)
    else:
        found, space, described = _judge(
            loaded,
            pairs,
            chosen,
            lambda: Client(url or DEFAULT_URL, api_key, timeout, ca_file=ca_file),
            has_url=bool(url),
        )
    with messages.status("Fitting"):
        calibration = fit(found, embedding_space=space, source=source or described, mode=chosen, seed=seed)
    _show(calibration, found)
    if into_bundle:
        from training.export.calibrated_bundle import add_calibration

        print_result(str(add_calibration(loaded, calibration)))
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    replace_text(target, calibration.to_json())
    print_result(str(target))


def _check_options(
    bundle: Path | None, data: Sequence[Path] | None, pairs: Path | None, out: Path | None, *,
    aside: bool, into_bundle: bool,
) -> Path:  # fmt: skip
    """Return the file to write, after the options were found to fit together."""
    if bool(data) == (pairs is not None):
        raise Failure("give labelled tracklets with --data, or judged pairs with --pairs")
    if aside and not data:
        raise Failure("--set-aside needs the training data (--data)")
    if into_bundle and out is not None:
        raise Failure("choose --out or --into-bundle")
    if into_bundle and bundle is None:
        raise Failure("--into-bundle needs the bundle's folder (BUNDLE)")
    target = out or Path("calibration.json")
    if not into_bundle and target.exists():
        raise Failure(f"{target} exists; choose another file with --out, or delete it")
    return target


def _embed(bundle: "Bundle", data: Sequence[Path], *, aside: bool, seed: int) -> tuple["Pairs", str, str]:
    from training.evaluation.calibration_data import embed_pairs, select_tracklets

    tracklets, described = select_tracklets(bundle, data, aside=aside)
    with show_progress() as progress:
        task = progress.add_task("embedding", total=len(tracklets))
        found = embed_pairs(bundle, tracklets, progress=lambda: progress.advance(task), seed=seed)
    return found, bundle.embedding_space, described


def _judge(
    bundle: "Bundle", path: Path, mode: "Mode", connect: Callable[[], Client], *, has_url: bool
) -> tuple["Pairs", str, str]:
    from training.evaluation.calibration_data import pairs_of_judged, read_judged_pairs

    judged = read_judged_pairs(path, mode)
    described = f"{len(judged.same)} judged pairs of {path.name}"
    if judged.scores is not None:
        found, left_out = pairs_of_judged(judged)
        space = bundle.embedding_space
        if has_url:
            with connect() as client:
                space = client.info().embedding_space
    else:
        if mode != "cosine":
            raise Failure(f"ids give cosine scores (got --mode {mode}); give scores of another mode in the CSV")
        with connect() as client:
            judged, space = _ask_service(client, judged)
        found, left_out = pairs_of_judged(judged)
    if left_out:
        print_message(f"{left_out} pairs from one camera are left out, because the background makes them similar")
    return found, space, described


def _ask_service(client: Client, judged: "JudgedPairs") -> tuple["JudgedPairs", str]:
    """Return the pairs with scores and cameras of the service's records, and their embedding space."""
    import numpy as np

    score_mode = client.info().gallery.get("score_mode", "cosine")
    if score_mode != "cosine":
        raise Failure(
            f"the service compares {score_mode} scores, but ids give cosine scores: add a column score with the scores "
            f"of its answers to the CSV, and use --mode {score_mode}"
        )
    ids = judged.ids or ()
    names = sorted({name for pair in ids for name in pair})
    vectors, cameras, spaces = {}, {}, set()
    with show_progress() as progress:
        for name in progress.track(names, description="reading records"):
            record = client.get(name, include_embedding=True)
            if record.embedding is None:
                raise Failure(f"the service does not give the vector of {name}; use a key that may read vectors")
            vectors[name] = np.asarray(record.embedding, np.float64)
            cameras[name] = record.camera_id or ""
            spaces.add(record.embedding_space)
    if len(spaces) != 1:
        raise Failure(f"the records have {len(spaces)} embedding spaces ({', '.join(sorted(spaces))}); use one of them")
    scores = tuple(
        float(vectors[a] @ vectors[b] / np.linalg.norm(vectors[a]) / np.linalg.norm(vectors[b])) for a, b in ids
    )
    known = judged.cameras or tuple((cameras[a], cameras[b]) for a, b in ids)
    return replace(judged, scores=scores, cameras=known), spaces.pop()


def _show(calibration: "Calibration", found: "Pairs") -> None:
    from model.calibration import CalibrationError
    from training.evaluation.calibration import FALSE_MATCH_RATES, cross_fit, measure

    who = f"{calibration.people} people, {calibration.cameras} cameras, " if calibration.people else ""
    print_message(
        f"Calibration {calibration.id} of {calibration.mode} scores in the embedding space "
        f"{calibration.embedding_space}\n"
        f"fitted on {calibration.source}: {who}{calibration.mated_pairs:,} pairs of one person, "
        f"{calibration.non_mated_pairs:,} of two"
    )
    messages.print(threshold_table(calibration.thresholds))
    for rate in FALSE_MATCH_RATES:
        if rate not in {threshold.fmr for threshold in calibration.thresholds}:
            print_message(
                f"No threshold for 1 in {round(1 / rate):,}: it needs {round(3 / rate):,} pairs of two people, and "
                f"there are {calibration.non_mated_pairs:,}"
            )
    messages.print(_probability_table(calibration))
    try:
        quality = measure(*cross_fit(found))
    except CalibrationError as error:
        print_message(f"Not checked on other people: {error}")
        return
    print_message(
        "Checked on the half of the people that was left out of the fit: "
        f"Cllr {quality.cllr:.3f} bits (0 is perfect, 1 is no information; the best calibration of these scores has "
        f"{quality.min_cllr:.3f}), probabilities are off by {100 * quality.ece:.1f} points on average (ECE)"
    )


def _probability_table(calibration: "Calibration") -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="Score for a probability", title_justify="left")
    table.add_column("of those compared, the person is", justify="right")
    for probability in _PROBABILITIES:
        table.add_column(f"{100 * probability:g}% from score", justify="right")
    for prior in _PRIORS:
        scores = [calibration.score_at(probability, prior) for probability in _PROBABILITIES]
        most = float(calibration.probability(calibration.score_at(1, prior), prior))
        cells = (f"{score:.3f}" if score < math.inf else f"never (at most {100 * most:.0f}%)" for score in scores)
        table.add_row(f"1 in {round(1 / prior):,}", *cells)
    return table
