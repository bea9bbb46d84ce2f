"""The supported datasets as published: layout of the files, and official counts."""

from dataclasses import dataclass, field

from training.datasets.catalog import DatasetKind


@dataclass(frozen=True)
class Official:
    """A published dataset."""

    title: str
    layout: tuple[str, ...]
    """files and folders below the dataset's folder"""
    counts: dict[str, int] = field(default_factory=dict)
    """by the names that `training.datasets.check.count` uses"""
    remark: str = ""


OFFICIAL: dict[DatasetKind, Official] = {
    "mars": Official(
        "MARS (Zheng et al., ECCV 2016)",
        (
            "bbox_train/<person>/0001C1T0001F001.jpg",
            "bbox_test/<person>/0002C1T0001F001.jpg (00-1 junk, 0000 distractors)",
            "info/train_name.txt, test_name.txt",
            "info/tracks_train_info.mat, tracks_test_info.mat, query_IDX.mat",
        ),
        {
            "train people": 625,
            "train tracklets": 8_298,
            "train frames": 509_914,
            "query people": 626,
            "query tracklets": 1_980,
            "gallery tracklets": 9_330,
            "test tracklets": 12_180,
            "queries with a match": 1_840,
            "queries with a match, queries in the gallery": 1_980,
        },
        "870 of the test tracklets are junk and 3,248 are distractors.",
    ),
    "prid2011": Official(
        "PRID2011, multi-shot (Hirzer et al., SCIA 2011)",
        ("prid_2011/multi_shot/cam_a/person_0001/0001.png, the same in cam_b", "prid_2011/splits_prid2011.json"),
        {"train people": 89, "train tracklets": 178, "query tracklets": 89, "gallery tracklets": 89},
        "178 of the 200 people that both cameras saw; ten splits.",
    ),
    "ilids-vid": Official(
        "iLIDS-VID (Wang et al., ECCV 2014)",
        (
            "i-LIDS-VID/sequences/cam1/person001/*.png, the same in cam2",
            "train-test people splits/train_test_splits_ilidsvid.mat",
        ),
        {"train people": 150, "train tracklets": 300, "query tracklets": 150, "gallery tracklets": 150},
        "Ten splits of the sorted list of people.",
    ),
    "ls-vid": Official(
        "LS-VID (Li et al., ICCV 2019)",
        (
            "list_sequence/list_seq_train.txt, list_seq_test.txt",
            "test/data/info_test.mat (HDF5)",
            "the images, at the path prefixes in the lists",
        ),
        {"train tracklets": 2_831, "query tracklets": 3_504, "gallery tracklets": 7_829},
    ),
    "duke": Official(
        "DukeMTMC-VideoReID (Wu et al., CVPR 2018)",
        ("train/<person>/<tracklet>/0001C6F0001X30823.jpg", "the same in query/ and gallery/"),
        {
            "train people": 702,
            "train tracklets": 2_196,
            "query people": 702,
            "query tracklets": 702,
            "test tracklets": 2_636,
        },
        "Withdrawn by its authors: only a copy that you already have can be read.",
    ),
    "market1501": Official(
        "Market-1501 as tracklets, training part (Zheng et al., ICCV 2015)",
        ("bounding_box_train/0002_c1s1_000451_03.jpg, in a folder or a .tar",),
        {"train people": 751, "train frames": 12_936},
        "All crops of one person by one camera are one tracklet.",
    ),
    "cuhk03": Official(
        "CUHK03, detected crops as tracklets (Li et al., CVPR 2014)",
        ("cuhk03/0000/p1a/1/00.jpg: person, view, tracklet; in a folder or a .tar",),
        {"train people": 1_467, "train tracklets": 2_933, "train frames": 14_097},
        "The two views of one camera pair see a person.",
    ),
    "folder": Official(
        "Your own footage",
        ("<person>/<camera>/<tracklet>/*.jpg (or .png, .webp)",),
    ),
}
"""By kind. Sources: the datasets' lists and papers; for LS-VID and Duke, the counts of public readers."""
