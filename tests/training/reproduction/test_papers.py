"""The figures of the papers, copied here again, compared with the tables, their recipes and numbers of queries."""

import pytest

from training.recipe import RECIPES, find_recipe, load_recipe
from training.reproduction.papers import ReproductionError, load_papers, select_rows

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
# fantastic: mAP, rank-1, rank-5, rank-20.
FANTASTIC = {
    ("mars", "baseline"): (76.7, 83.3, 93.8, 97.4),
    ("mars", "bag-of-tricks"): (81.3, 87.1, 95.9, 98.2),
    ("mars", "osm"): (82.4, 87.9, 96.0, 98.0),
    ("mars", "osm-cl"): (81.2, 86.3, 95.6, 98.2),
    ("mars", "attn-cl"): (82.9, 88.6, 96.2, 98.0),
    ("rerank", "baseline-rerank"): (84.5, None, None, None),
    ("rerank", "bag-of-tricks-rerank"): (88.4, None, None, None),
    ("rerank", "osm-rerank"): (88.1, None, None, None),
    ("rerank", "osm-cl-rerank"): (88.5, None, None, None),
    ("rerank", "attn-cl-rerank"): (87.8, None, None, None),
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


def test_tables_are_selected_by_number_or_name():
    assert select_rows("not3d", "4") == select_rows("not3d", "batch")
    assert [row.name for _, _, row in select_rows("not3d", "4", "*-mars")] == ["32-mars", "36-mars", "48-mars"]
    assert len(select_rows()) == len(NOT3D) + len(FANTASTIC) + len(AAS_RFU)


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (("not4d",), "not3d, fantastic, aas-rfu"),
        (("not3d", "9"), r"backbone, clip-length, 4 \(batch\), transfer"),
        (("not3d", "4", "64-mars"), "32-mars"),
        ((None, "4"), "--paper"),
    ],
)
def test_unknown_selections_list_what_exists(selection, message):
    with pytest.raises(ReproductionError, match=message):
        select_rows(*selection)
