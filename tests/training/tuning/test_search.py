import json
import tomllib

import pytest
from rich.console import Console

from tests.training.recipes import TINY_TRIAL
from training.datasets.synthetic.dataset import write_synthetic
from training.evaluation.embed import FeatureError
from training.loop.trainer import DivergedError
from training.recipe import find_recipe, load_recipe
from training.tuning import search as tuning
from training.tuning.search import FIXED, SPACE, STATE, TuningError, overrides_of, tune, write_recipe

QUIET = Console(quiet=True)
PARAMETERS = {"sigma": 0.5, "alpha": 1.0, "l": 0.2, "margin": 0.1, "beta": 0.25, "gamma": 0.3, "weight_decay": 0.01}

pytestmark = pytest.mark.filterwarnings("ignore::Warning")  # of Ax and its dependencies


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("people")
    write_synthetic(folder, people=14, cameras=2, frames=2, seed=3, size=(32, 32))
    return folder


def search(data, out, **options):
    return tune(find_recipe("fantastic"), [data], out, overrides=TINY_TRIAL, console=QUIET, **options)


def test_search_space_is_the_published_one():
    bounds = {p.name: (p.low, p.high, p.scaling) for p in SPACE}
    assert bounds == {
        "sigma": (0.1, 1, "linear"),
        "alpha": (0.5, 3, "linear"),
        "l": (0.1, 1, "linear"),
        "margin": (1e-6, 1, "log"),
        "beta": (1e-6, 1, "linear"),
        "gamma": (1e-6, 1, "linear"),
        "weight_decay": (1e-6, 1, "linear"),
    }


def test_parameters_change_the_recipe():
    recipe = load_recipe(find_recipe("fantastic"), {**FIXED, **overrides_of(PARAMETERS)})
    assert (recipe.losses.osm_caa, recipe.losses.triplet) == (0.25, 0.75)
    assert (recipe.losses.osm_caa_sigma, recipe.losses.osm_caa_alpha, recipe.losses.osm_caa_balance) == (0.5, 1.0, 0.2)
    assert (recipe.losses.triplet_margin, recipe.schedule.decay, recipe.optimiser.weight_decay) == (0.1, 0.3, 0.01)
    assert (recipe.schedule.epochs, recipe.augmentation.erase, recipe.losses.erasing_attention) == (121, 0, 0)


def test_best_parameters_become_a_recipe_that_extends_its_base(tmp_path):
    write_recipe(PARAMETERS, find_recipe("fantastic"), tmp_path / "best.toml", "tuned", "a search")
    best, base = load_recipe(tmp_path / "best.toml"), load_recipe(find_recipe("fantastic"))
    assert (best.name, best.losses.osm_caa_sigma) == ("tuned", 0.5)
    assert (best.schedule.epochs, best.losses.erasing_attention) == (
        base.schedule.epochs,
        base.losses.erasing_attention,
    )
    assert tomllib.loads((tmp_path / "best.toml").read_text())["extends"] == "fantastic"


def test_interrupted_search_continues_and_repeats_nothing(data, tmp_path, monkeypatch):
    began = []
    real = tuning.train

    def interrupted(recipe, paths, folder, **options):
        began.append(folder.name)
        if len(began) == 3:
            raise KeyboardInterrupt
        return real(recipe, paths, folder, **options)

    monkeypatch.setattr(tuning, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        search(data, tmp_path, trials=4)
    state = json.loads((tmp_path / STATE).read_text())
    pending = [trial for trial in state["trials"] if trial["value"] is None]
    assert len(pending) == 1
    ranked = search(data, tmp_path, trials=4)
    assert began == ["trial-000", "trial-001", "trial-002", "trial-002", "trial-003"]
    assert next(t for t in ranked if t.index == 2).parameters == pending[0]["parameters"]
    values = [trial.value for trial in ranked]
    assert len(values) == 4
    assert values == sorted(values, reverse=True)
    assert all(0 < value <= 1 for value in values)
    assert search(data, tmp_path, trials=4) == ranked
    assert len(began) == 5
    # Only the best model is kept; the logs of all trials are kept.
    assert [path.parent.name for path in tmp_path.rglob("best.pt")] == [f"trial-{ranked[0].index:03}"]
    assert len(list(tmp_path.rglob("log.csv"))) == 4
    with pytest.raises(TuningError, match="another objective"):
        search(data, tmp_path, trials=5, objective="rank-1")


@pytest.mark.parametrize("failure", [DivergedError, FeatureError])
def test_trial_that_diverges_counts_as_zero(data, tmp_path, monkeypatch, failure):
    def diverging(*args, **options):
        raise failure("not finite")

    monkeypatch.setattr(tuning, "train", diverging)
    (trial,) = search(data, tmp_path, trials=1)
    assert (trial.value, trial.diverged) == (0.0, True)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"setting": {}, "trials": [{}], "ax": {}}'])
def test_damaged_state_of_a_search_is_an_error_that_names_it(data, tmp_path, content):
    (tmp_path / STATE).write_text(content)
    with pytest.raises(TuningError, match=f"{STATE} is damaged"):
        search(data, tmp_path, trials=1)


def test_missing_validation_people_are_an_error(data, tmp_path):
    with pytest.raises(TuningError, match="no validation people"):
        tune(
            find_recipe("fantastic"),
            [data],
            tmp_path,
            overrides={**TINY_TRIAL, "validation_share": "0.0"},
            console=QUIET,
        )
