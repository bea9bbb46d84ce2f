import pytest

from training.recipe import RECIPES, RecipeError, find_recipe, load_recipe


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_that_comes_with_the_project_is_valid(path):
    assert load_recipe(path).name == path.stem


def test_overrides_reach_into_tables():
    recipe = load_recipe(find_recipe("bundled"), {"schedule.epochs": "3", "network.backbone": "resnet18", "seed": "9"})
    assert (recipe.schedule.epochs, recipe.network.backbone, recipe.seed) == (3, "resnet18", 9)


@pytest.mark.parametrize(
    ("override", "message"),
    [({"schedule.epoch": "3"}, "schedule.epoch"), ({"optimiser.learning_rate": "-1"}, "optimiser.learning_rate")],
)
def test_errors_name_the_key(override, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(find_recipe("bundled"), override)


def test_broken_and_missing_files_are_errors(tmp_path):
    (tmp_path / "bad.toml").write_text("name = ")
    with pytest.raises(RecipeError, match=r"bad\.toml"):
        load_recipe(tmp_path / "bad.toml")
    with pytest.raises(RecipeError, match="bundled"):
        find_recipe("nothing")


def test_frame_size_follows_the_resolutions():
    recipe = load_recipe(find_recipe("bundled"))
    last = recipe.resolutions[-1]
    assert recipe.frame_size(1) == (recipe.resolutions[0].height, recipe.resolutions[0].width)
    assert recipe.frame_size(last.from_epoch) == (last.height, last.width)
    # The model is used at the size it was last trained at.
    assert (last.height, last.width) == (recipe.network.frame_height, recipe.network.frame_width)
