import pytest

from training.recipe import RECIPES, ModelCardTexts, Recipe, RecipeError, find_recipe, load_recipe


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_each_recipe_of_the_project_is_valid(path):
    assert load_recipe(path).name == path.stem


def test_overrides_reach_into_tables():
    recipe = load_recipe(find_recipe("light"), {"schedule.epochs": "63", "network.backbone": "resnet18", "seed": "9"})
    assert (recipe.schedule.epochs, recipe.network.backbone, recipe.seed) == (63, "resnet18", 9)


@pytest.mark.parametrize(
    ("override", "message"),
    [({"schedule.epoch": "3"}, "schedule.epoch"), ({"optimiser.learning_rate": "-1"}, "optimiser.learning_rate")],
)
def test_errors_name_the_key(override, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(find_recipe("light"), override)


def test_broken_and_missing_files_are_errors(tmp_path):
    (tmp_path / "bad.toml").write_text("name = ")
    with pytest.raises(RecipeError, match=r"bad\.toml"):
        load_recipe(tmp_path / "bad.toml")
    with pytest.raises(RecipeError, match="light"):
        find_recipe("nothing")


def test_frame_size_follows_the_resolutions():
    recipe = load_recipe(find_recipe("light"))
    last = recipe.resolutions[-1]
    assert recipe.frame_size(1) == (recipe.resolutions[0].height, recipe.resolutions[0].width)
    assert recipe.frame_size(last.from_epoch) == (last.height, last.width)
    # The model is used at the size it was last trained at.
    assert (last.height, last.width) == (recipe.network.frame_height, recipe.network.frame_width)


BASE = """
name = "base"
[network]
backbone = "resnet18"
attention = "pooled"
[schedule]
epochs = 9
milestones = [3, 6]
[[resolutions]]
from_epoch = 1
height = 64
width = 32
"""


def test_recipe_extends_another_and_replaces_values(tmp_path):
    (tmp_path / "base.toml").write_text(BASE)
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "row.toml").write_text(
        'extends = "../base.toml"\nname = "row"\n[schedule]\nmilestones = [5]\n[evaluation]\nmetric = "euclidean"\n'
    )
    (tmp_path / "rows" / "further.toml").write_text('extends = "row.toml"\nname = "further"\nresolutions = []\n')
    recipe = load_recipe(tmp_path / "rows" / "further.toml", {"schedule.epochs": "7"})
    assert recipe.name == "further"
    assert recipe.network.backbone == "resnet18"
    assert (recipe.schedule.epochs, recipe.schedule.milestones) == (7, (5,))
    assert recipe.evaluation.metric == "euclidean"
    assert recipe.resolutions == ()


def test_recipe_extends_a_recipe_of_the_project(tmp_path):
    (tmp_path / "mine.toml").write_text('extends = "light"\nname = "mine"\n')
    bundled = load_recipe(find_recipe("light"))
    assert load_recipe(tmp_path / "mine.toml") == bundled.model_copy(update={"name": "mine", "card": ModelCardTexts()})


@pytest.mark.parametrize(
    ("extends", "message"),
    [
        ('"loop"', "extends itself"),
        ('"nothing"', "mine.*extends.*no recipe nothing"),
        ("3", "the name of a recipe"),
    ],
)
def test_wrong_extends_is_an_error(tmp_path, extends, message):
    (tmp_path / "loop").write_text('extends = "mine.toml"\n')
    (tmp_path / "mine.toml").write_text(f"extends = {extends}\n")
    with pytest.raises(RecipeError, match=message):
        load_recipe(tmp_path / "mine.toml")


def test_loss_without_the_output_it_needs_is_named():
    with pytest.raises(RecipeError, match="erasing_attention needs attention logits"):
        load_recipe(find_recipe("light"), {"network.attention": "mean"})


def test_recipes_in_older_checkpoints_can_be_read():
    """The recipe in the checkpoint of the bundled model is older than several of the settings."""
    content = load_recipe(find_recipe("light")).model_dump() | {"winograd": False}
    for later in ("start", "evaluation"):
        del content[later]
    for table, kept in (
        ("batch", ("people", "tracklets", "sampling")),
        ("augmentation", ("flip", "pad", "erase", "erase_area", "erase_aspect", "colour")),
        ("schedule", ("epochs", "form", "warm_up", "milestones", "evaluate_every")),
    ):
        content[table] = {key: content[table][key] for key in kept}
    assert Recipe.model_validate(content) == load_recipe(find_recipe("light"))


def test_removed_winograd_key_is_an_error():
    with pytest.raises(RecipeError, match=r"winograd was removed.*: delete the key"):
        load_recipe(find_recipe("light"), {"winograd": "true"})
    assert load_recipe(find_recipe("light"), {"winograd": "false"}) == load_recipe(find_recipe("light"))


def test_card_is_not_inherited(tmp_path):
    (tmp_path / "lobby.toml").write_text(
        'extends = "light"\nname = "lobby"\n[card]\ntraining_data = "our lobby"\n', encoding="utf-8"
    )
    recipe = load_recipe(tmp_path / "lobby.toml")
    assert (recipe.name, recipe.card.training_data, recipe.card.datasets) == ("lobby", "our lobby", ())
    assert recipe.card.data_terms == ModelCardTexts().data_terms
    assert load_recipe(find_recipe("light")).card.datasets


def test_last_resolution_must_be_the_size_of_the_network():
    with pytest.raises(RecipeError, match=r"last of 40 epochs has frames of 128x64, but the network has 160x80"):
        load_recipe(find_recipe("light"), {"schedule.epochs": "40"})
    assert load_recipe(find_recipe("light"), {"schedule.epochs": "40", "resolutions": "[]"})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", '""'),
        ("seed", "18446744073709551616"),
        ("network.clip_length", "257"),
        ("network.frame_height", "5000"),
        ("network.mean", "[123.7, 116.3, 103.5]"),
        ("network.std", "[0.0, 0.2, 0.2]"),
        ("network.attention_bias", "1e308"),
        ("augmentation.erase_area", "[0.4, 0.02]"),
        ("augmentation.erase_area", "[-0.5, 0.4]"),
        ("augmentation.camera.blur_sigma", "[0.0, 1.0]"),
        ("augmentation.camera.blur_sigma", "[1.5, 0.5]"),
        ("augmentation.camera.low_resolution_scale", "[0.5, 2.0]"),
        ("augmentation.camera.jpeg_quality", "[-5, 300]"),
        ("augmentation.camera.jpeg_quality", "[70, 20]"),
        ("augmentation.camera.noise_sigma", "[-2.0, 1.0]"),
        ("optimiser.learning_rate", "inf"),
        ("optimiser.weight_decay", "inf"),
        ("schedule.milestones", "[-1]"),
        ("losses.ranked_list_alpha", "nan"),
        ("losses.triplet_margin", "nan"),
        ("losses.center_learning_rate", "-1"),
        ("losses.osm_caa_alpha", "0"),
        ("evaluation.protocol", "unknown"),
        ("card.data_terms", '""'),
    ],
)
def test_values_that_training_or_export_could_not_use_are_refused_at_the_start(key, value):
    with pytest.raises(RecipeError, match=key.rsplit(".", 1)[0]) as failure:
        load_recipe(find_recipe("light"), {key: value})
    assert "Value error" not in str(failure.value)


def test_padding_must_leave_a_part_of_the_smallest_frame():
    load_recipe(find_recipe("light"), {"augmentation.pad": "47"})  # the first epochs have frames of 96x48
    with pytest.raises(RecipeError, match=r"augmentation\.pad must be below .* 48 pixels \(got 48\)"):
        load_recipe(find_recipe("light"), {"augmentation.pad": "48"})


def test_attention_over_the_full_map_needs_one_map_size():
    full_map = {"network.attention": "full_map"}
    with pytest.raises(RecipeError, match=r"96x48 have another map than those of 160x80"):
        load_recipe(find_recipe("light"), full_map)
    load_recipe(
        find_recipe("light"),
        full_map
        | {"resolutions": "[{from_epoch = 1, height = 150, width = 70}, {from_epoch = 2, height = 160, width = 80}]"},
    )
