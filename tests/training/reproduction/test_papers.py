"""The figures of the papers, copied here again, compared with the tables, their recipes and numbers of queries."""

import pytest
import torch

from model.network import build_network
from training.loop.optimiser import learning_rate
from training.recipe import RECIPES, RecipeError, find_recipe, load_recipe, published_differences
from training.reproduction.memory import count_memory
from training.reproduction.papers import ReproductionError, load_differences, load_papers, select_rows

MARS, PRID, ILIDS = 1840, 89, 150

# not3d: rank-1, queries found, number of queries, mAP.
NOT3D = {
    ("backbone", "resnet50-mars"): (88.21, 1623, MARS, None),
    ("backbone", "resnet50-prid"): (94.38, 84, PRID, None),
    ("backbone", "resnet50-ilids"): (87.33, 131, ILIDS, None),
    ("backbone", "ibn-a-mars"): (89.02, 1638, MARS, 83.9),
    ("backbone", "ibn-a-prid"): (96.6, 86, PRID, None),
    ("backbone", "ibn-a-ilids"): (89.33, 134, ILIDS, None),
    ("clip-length", "t4-mars"): (89.02, 1638, MARS, 83.9),
    ("clip-length", "t4-prid"): (96.6, 86, PRID, None),
    ("clip-length", "t4-ilids"): (89.33, 134, ILIDS, None),
    ("clip-length", "t8-mars"): (88.70, 1632, MARS, 82.71),
    ("clip-length", "t8-prid"): (95.51, 85, PRID, None),
    ("clip-length", "t8-ilids"): (88.00, 132, ILIDS, None),
    ("batch", "32-mars"): (89.02, 1638, MARS, 83.9),
    ("batch", "32-prid"): (96.6, 86, PRID, None),
    ("batch", "32-ilids"): (89.33, 134, ILIDS, None),
    ("batch", "36-mars"): (89.62, 1649, MARS, 84.61),
    ("batch", "36-prid"): (93.26, 83, PRID, None),
    ("batch", "36-ilids"): (90.00, 135, ILIDS, None),
    ("batch", "48-mars"): (89.35, 1644, MARS, 84.71),
    ("batch", "48-prid"): (95.51, 85, PRID, None),
    ("batch", "48-ilids"): (89.33, 134, ILIDS, None),
    ("transfer", "imagenet-mars"): (89.02, 1638, MARS, 83.9),
    ("transfer", "imagenet-prid"): (96.6, 86, PRID, None),
    ("transfer", "imagenet-ilids"): (89.33, 134, ILIDS, None),
    ("transfer", "mars-prid"): (96.63, 86, PRID, None),
    ("transfer", "mars-ilids"): (97.33, 146, ILIDS, None),
    ("transfer", "mars+ilids-mars"): (88.21, 1623, MARS, 83.10),
    ("transfer", "mars+ilids-prid"): (97.75, 87, PRID, None),
    ("transfer", "mars+ilids-ilids"): (95.33, 143, ILIDS, None),
}
MEMORY = {"input": 9.19, "forward-backward": 171.92, "parameters": 290.58, "total": 471.69}
# fantastic: mAP, rank-1, rank-5, rank-20.
FANTASTIC = {
    ("mars", "baseline"): (76.7, 83.3, 93.8, 97.4),
    ("mars", "bag-of-tricks"): (81.3, 87.1, 95.9, 98.2),
    ("mars", "osm"): (82.4, 87.9, 96.0, 98.0),
    ("mars", "osm-cl"): (81.2, 86.3, 95.6, 98.2),
    ("mars", "attn-cl"): (82.9, 88.6, 96.2, 98.0),
    ("rerank", "baseline-rerank"): (84.5, 85.0, 94.7, 97.7),
    ("rerank", "bag-of-tricks-rerank"): (88.4, 87.6, 96.0, 98.4),
    ("rerank", "osm-rerank"): (88.1, 87.6, 95.7, 98.5),
    ("rerank", "osm-cl-rerank"): (88.5, 88.0, 96.1, 98.5),
    ("rerank", "attn-cl-rerank"): (87.8, 88.0, 95.4, 98.3),
    ("prid", "attn-cl-prid"): (None, 93.3, 98.9, 100.0),
    ("prid", "attn-cl-prid-from-mars"): (None, 96.6, 100.0, 100.0),
}
# aas_rfu: rank-1, rank-5, rank-20, mAP.
AAS_RFU = {
    ("clips", "1-euclidean"): (83.5, 93.8, 96.8, 77.5),
    ("clips", "4-euclidean"): (85.3, 94.8, 97.1, 79.6),
    ("clips", "all-euclidean"): (85.7, 94.8, 97.2, 80.0),
    ("clips", "4-cosine"): (85.9, 94.6, 96.9, 80.3),
    ("clips", "all-cosine"): (86.5, 94.7, 96.9, 80.9),
    ("rfu", "baseline"): (86.5, 94.7, 98.2, 80.9),
    ("rfu", "rfu-inference"): (87.2, 95.8, 97.1, 82.3),
    ("rfu", "rfu-training"): (87.7, 96.4, 98.3, 82.3),
    ("rerank", "rfu-rerank"): (88.6, 96.3, 98.8, 87.4),
}


def rows_of(paper):
    return {(table.name, row.name): row for _, table, row in select_rows(paper)}


def named(names, values):
    return {name: value for name, value in zip(names, values, strict=True) if value is not None}


def test_not3d_figures_are_whole_numbers_of_queries_and_have_rows():
    rows, paper = rows_of("not3d"), load_papers()["not3d"]
    assert rows.pop(("memory", "ours")).figures == MEMORY
    assert rows.keys() == NOT3D.keys()
    for key, (rank1, found, queries, mean_ap) in NOT3D.items():
        row = rows[key]
        assert abs(100 * found / queries - rank1) < (0.05 if rank1 == 96.6 else 0.01), key
        assert paper.conditions[row.data].queries == queries, key
        assert row.figures == named(("rank-1", "mAP"), (rank1, mean_ap)), key


def test_fantastic_and_aas_rfu_figures_have_rows():
    rows = rows_of("fantastic")
    assert {k: r.figures for k, r in rows.items()} == {
        key: named(("mAP", "rank-1", "rank-5", "rank-20"), values) for key, values in FANTASTIC.items()
    }
    for key, row in rows.items():
        if row.data == "prid2011":
            assert all(abs(v - 100 * round(v * PRID / 100) / PRID) < 0.05 for v in row.figures.values()), key
    assert {k: r.figures for k, r in rows_of("aas-rfu").items()} == {
        key: named(("rank-1", "rank-5", "rank-20", "mAP"), values) for key, values in AAS_RFU.items()
    }


def test_each_recipe_loads_and_is_named_by_its_path():
    paths = sorted(RECIPES.rglob("*.toml"))
    assert len(paths) > 30
    for path in paths:
        assert load_recipe(path).name == "-".join(path.relative_to(RECIPES).with_suffix("").parts)


def recipe(name):
    return load_recipe(find_recipe(name))


def test_recipes_of_rows_differ_in_the_subject_of_their_table():
    base = recipe("not3d").model_dump()
    assert base["start"]["weights"] == "imagenet"
    expected = {
        "not3d/resnet50": {"network.backbone": "resnet50"},
        "not3d/t8": {"network.clip_length": 8},
        "not3d/batch-6x6": {"batch.people": 6, "batch.tracklets": 6},
        "not3d/batch-6x8": {"batch.people": 6, "batch.tracklets": 8},
        "not3d/prid": {"losses.ranked_list_margin": 0.04},
        "not3d/t8-prid": {"network.clip_length": 8, "losses.ranked_list_margin": 0.04},
    }
    for name, differences in expected.items():
        other = recipe(name).model_dump()
        found = {
            f"{part}.{key}": value
            for part, values in other.items()
            if isinstance(values, dict)
            for key, value in values.items()
            if base[part][key] != value
        }
        assert found == differences, name


def test_parts_of_fantastic_and_aas_rfu():
    final, bag, osm = recipe("fantastic").losses, recipe("fantastic/bag-of-tricks").losses, recipe("fantastic/osm")
    assert (final.osm_caa, final.triplet, final.center, final.erasing_attention) == (1, 0, 5e-4, 1)
    assert final.osm_caa_vectors == "centers"
    assert osm.losses.osm_caa_vectors == "classifier"
    assert (bag.osm_caa, bag.triplet, bag.erasing_attention) == (0, 1, 0)
    prid = recipe("fantastic/prid").losses
    assert prid.triplet + prid.osm_caa == pytest.approx(1, abs=1e-12)  # 1 - beta and beta
    baseline = recipe("fantastic/baseline").network
    assert (baseline.last_stride, baseline.neck, baseline.classifier_bias, baseline.map_size) == (
        2,
        "none",
        True,
        (7, 4),
    )
    rfu, baseline_of_rfu = recipe("aas-rfu"), recipe("aas-rfu/baseline")
    assert (rfu.losses.triplet_feature, rfu.evaluation.feature, rfu.evaluation.metric) == ("raw", "raw", "cosine")
    assert (baseline_of_rfu.losses.triplet_feature, baseline_of_rfu.evaluation.feature) == (
        "batch_normed",
        "batch_normed",
    )
    assert [recipe(f"aas-rfu/clips-{n}").evaluation.max_clips for n in ("1", "4", "all")] == [1, 4, None]


def test_tables_are_selected_by_the_printed_number_or_by_name():
    assert select_rows("not3d", "4") == select_rows("not3d", "IV") == select_rows("not3d", "iv")
    assert select_rows("not3d", "4") == select_rows("not3d", "batch") == select_rows("not3d", " Batch ")
    assert select_rows("not3d", " iv ") == select_rows("not3d", "Iv") == select_rows("not3d", "4")
    assert [row.name for _, _, row in select_rows("not3d", "4", "*-mars")] == ["32-mars", "36-mars", "48-mars"]
    assert len(select_rows()) == 1 + len(NOT3D) + len(FANTASTIC) + len(AAS_RFU)
    numbers = {paper: [[table.name for table in load_papers()[paper].select(str(n))] for n in range(1, last + 1)]
               for paper, last in (("not3d", 5), ("fantastic", 2), ("aas-rfu", 3))}  # fmt: skip
    assert numbers == {
        "not3d": [["backbone"], ["memory"], ["clip-length"], ["batch"], ["transfer"]],
        "fantastic": [["mars", "rerank"], ["prid"]],  # the first table has the re-ranked figures in parentheses
        "aas-rfu": [["clips"], ["rfu"], ["rerank"]],
    }
    assert load_papers()["fantastic"].select("II") == load_papers()["fantastic"].select("2")


def test_rows_after_mars_and_ilids_are_a_sequence_of_trainings():
    rows = [row for _, _, row in select_rows("not3d", "V", "mars+ilids-*")]
    assert len(rows) == 3
    for row in rows:
        second = row.source
        assert (second.recipe, second.data) == ("not3d/transfer", "ilids-vid")
        assert (second.source.recipe, second.source.data, second.source.source) == ("not3d", "mars", None)
        assert row.kinds_before == ["ilids-vid", "mars"]


def test_memory_is_counted_as_the_tool_of_the_paper_counts():
    spec = recipe("not3d").network
    counted = count_memory(spec)
    assert {name: round(value, 2) for name, value in counted.items()} == MEMORY
    network = build_network(spec).eval()
    assert sum(p.numel() for p in network.parameters()) == 76_173_377
    # Hooks on our modules alone miss the ReLUs, which are modules in the author's class.
    numbers = []
    for module in network.modules():
        if module is not network and not isinstance(module, (torch.nn.Sequential, torch.nn.Identity)):
            module.register_forward_hook(lambda _module, _inputs, output: numbers.append(output.numel()))
    with torch.no_grad():
        network.train_forward(torch.zeros(1, 1, 3, 224, 112))
    assert 2 * 4 * sum(numbers) / 2**20 == pytest.approx(130.38, abs=0.02)


def test_recipes_name_where_the_programs_differ_and_as_published_follows_them():
    expected = {
        "not3d": {
            "network.resampling": ("opencv", "pil-bicubic"),
            "augmentation.erase_attempts": (100, 1),
            "augmentation.erase_fill": ("mean", "code"),
            "schedule.form": ("paper", "code"),
            "evaluation.max_clips": (None, 41),
            "evaluation.clip_choice": ("even", "first"),
        },
        "fantastic": {
            "network.resampling": ("opencv", "pil-bicubic"),
            "batch.sampling": ("consecutive", "consecutive_code"),
            "augmentation.erase_fill": ("mean", "code"),
            "augmentation.erase_twice": (False, True),
            "losses.detach_centers": (True, False),
            "losses.num_centers": (None, 751),
            "evaluation.max_clips": (None, 41),
            "evaluation.clip_choice": ("even", "first"),
        },
        "fantastic/bag-of-tricks": {
            "network.resampling": ("opencv", "pil-bicubic"),
            "batch.sampling": ("consecutive", "consecutive_code"),
            "augmentation.erase_fill": ("mean", "code"),
            "losses.triplet_margin": (0.3, 4.4132437486402204e-05),
            "losses.num_centers": (None, 751),
            "evaluation.max_clips": (None, 41),
            "evaluation.clip_choice": ("even", "first"),
        },
        "temporal-attention": {"batch.sampling": ("consecutive", "consecutive_code")},
        "fantastic/baseline": {"batch.sampling": ("consecutive", "consecutive_code")},
    }
    for name, differences in expected.items():
        assert published_differences(find_recipe(name)) == differences, name
        published = load_recipe(find_recipe(name), as_published=True).model_dump()
        for key, (_, value) in differences.items():
            part, field = key.split(".")
            assert published[part][field] == value, (name, key)
    # Without the attention loss nothing is erased twice; without "CL centers" the centers are not used by OSM.
    assert "augmentation.erase_twice" not in published_differences(find_recipe("fantastic/osm-cl"))
    assert "losses.detach_centers" in published_differences(find_recipe("fantastic/osm-cl"))
    assert "losses.detach_centers" not in published_differences(find_recipe("fantastic/osm"))
    # A change on the command line wins.
    assert load_recipe(find_recipe("not3d"), {"schedule.form": "paper"}, as_published=True).schedule.form == "paper"
    with pytest.raises(RecipeError, match="no published program"):
        load_recipe(find_recipe("aas-rfu"), as_published=True)
    named = {key for path in RECIPES.rglob("*.toml") for key in published_differences(path)}
    assert named - {"evaluation.clip_choice"} == load_differences().keys()


def test_recipes_name_where_the_papers_print_something_else():
    expected = {
        "not3d": {
            "batch.sampling": ("restricted", "random"),
            "losses.ranked_list_form": ("code", "paper"),
            "losses.center": (5e-4, 5e-5),
            "losses.center_form": ("code", "paper"),
            "losses.erasing_attention_form": ("logits", "scores"),
        },
        "fantastic": {
            "batch.sampling": ("consecutive", "random"),
            "losses.erasing_attention_form": ("logits", "scores"),
        },
        "fantastic/osm-cl": {"batch.sampling": ("consecutive", "random")},
        "aas-rfu": {},
    }
    for name, differences in expected.items():
        assert published_differences(find_recipe(name), table="as_printed") == differences, name
    changed = published_differences(find_recipe("not3d"), {"losses.center": "5e-5"}, table="as_printed")
    assert "losses.center" not in changed
    paths = RECIPES.rglob("*.toml")
    named = {key for path in paths for key in published_differences(path, table="as_printed")}
    assert named == load_differences("as_printed").keys()


def test_baseline_has_the_values_of_its_public_program():
    baseline = recipe("fantastic/baseline")
    assert (baseline.losses.epsilon, baseline.losses.triplet_margin, baseline.losses.triplet_metric) == (
        0.1, 0.3, "euclidean",
    )  # fmt: skip
    assert (baseline.optimiser.learning_rate, baseline.optimiser.weight_decay) == (3e-4, 5e-4)
    assert (baseline.schedule.epochs, baseline.schedule.milestones) == (800, (200, 400, 600))
    rates = [
        learning_rate(epoch, "paper", base=3e-4, warm_up=1, milestones=baseline.schedule.milestones)
        for epoch in (1, 200, 201, 401, 800)
    ]
    assert rates == pytest.approx([3e-4, 3e-4, 3e-5, 3e-6, 3e-7])
    # The layers keep PyTorch's initial weights: uniform, within 1 / sqrt(fan in).
    torch.manual_seed(0)
    network = build_network(baseline.network)
    for layer, fan_in in (
        (network.attention_conv, 2048 * 7 * 4), (network.attention_tconv, 256 * 3), (network.classifier, 2048),
    ):  # fmt: skip
        bound = fan_in**-0.5
        assert layer.weight.abs().max().item() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
        assert layer.bias.abs().max().item() <= bound
        assert layer.bias.abs().max().item() > 0


def test_aas_draws_random_clips_and_the_rerank_rows_use_features_as_they_are():
    for name in ("clips-1", "clips-4", "clips-4-cosine"):
        evaluation = recipe(f"aas-rfu/{name}").evaluation
        assert (evaluation.clip_choice, evaluation.clip_seed) == ("random", 1)
    for name in ("baseline", "bag-of-tricks", "osm", "osm-cl", "attn-cl"):
        evaluation = recipe(f"fantastic/{name}-rerank").evaluation
        assert (evaluation.rerank, evaluation.rerank_form) == (True, "published")


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (("not4d",), "not3d, fantastic, aas-rfu"),
        (("not3d", "9"), r"I \(backbone\), II \(memory\), III \(clip-length\), IV \(batch\), V \(transfer\)"),
        (("fantastic", "3"), r"1 \(mars\), 1 \(rerank\), 2 \(prid\)"),
        (("not3d", "4", "64-mars"), "32-mars"),
        ((None, "4"), "--paper"),
    ],
)
def test_unknown_selections_list_what_exists(selection, message):
    with pytest.raises(ReproductionError, match=message):
        select_rows(*selection)
