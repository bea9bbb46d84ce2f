"""Small datasets in the layouts of the real ones."""

import json

import cv2
import h5py
import numpy as np
from scipy.io import savemat


def write_image(path, value=128):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((32, 16, 3), value, np.uint8))


def write_prid2011(root, people=4, frames=3):
    """Write people with ids that are not consecutive, as in the dataset; in each split other halves are test people."""
    names = [f"person_{3 * n + 1:04}" for n in range(people)]
    for camera in ("cam_a", "cam_b"):
        for name in names:
            for frame in range(frames):
                write_image(root / "prid_2011" / "multi_shot" / camera / name / f"{frame + 1:04}.png")
    rng = np.random.default_rng(1)
    orders = [rng.permutation(names).tolist() for _ in range(10)]
    splits = [{"train": sorted(o[: people // 2]), "test": sorted(o[people // 2 :])} for o in orders]
    (root / "prid_2011" / "splits_prid2011.json").write_text(json.dumps(splits))
    return root / "prid_2011"


def write_ilids_vid(root, people=6, frames=2):
    for camera in ("cam1", "cam2"):
        for number in reversed(range(people)):  # not in alphabetical order
            folder = root / "i-LIDS-VID" / "sequences" / camera / f"person{2 * number + 1:03}"
            for frame in (10, 2)[:frames]:
                write_image(folder / f"{camera}_person{2 * number + 1:03}_{frame}.png")
    rng = np.random.default_rng(2)
    rows = np.stack([rng.permutation(people) + 1 for _ in range(10)])
    lists = root / "train-test people splits"
    lists.mkdir()
    savemat(lists / "train_test_splits_ilidsvid.mat", {"ls_set": rows.astype(np.uint16)})
    return rows


def write_duke(root):
    for part, tracklets in {
        "train": ("0001/0001C1", "0001/0005C2", "0002/0003C1"),
        "query": ("0007/0011C3",),
        "gallery": ("0007/0012C5", "0007/0011C3", "0009/0013C8"),
    }.items():
        for folder in tracklets:
            person, tracklet = folder.split("/")
            separator = "_" if part == "query" else ""
            for frame in (2, 3):
                name = f"{person}{separator}C{tracklet[-1]}{separator}F{frame:04}X30{frame}.jpg"
                write_image(root / part / person / tracklet[:4] / name)


def write_ls_vid(root):
    lists = {"train": [(0, 3), (0, 12), (1, 3)], "test": [(5, 1), (5, 2), (6, 1), (6, 15)]}
    (root / "list_sequence").mkdir(parents=True)
    for part, rows in lists.items():
        lines = []
        for person, camera in rows:
            prefix = f"tracklet_{part}/{person:04}/{person:04}_c_{camera:02}_0001"
            for frame in (1, 2):
                write_image(root / f"{prefix}_{frame:04}.jpg")
            lines.append(f"{prefix} {person}")
        (root / "list_sequence" / f"list_seq_{part}.txt").write_text("\r\n".join(lines))
    (root / "test" / "data").mkdir(parents=True)
    with h5py.File(root / "test" / "data" / "info_test.mat", "w") as file:
        file["query"] = np.array([[1.0, 3.0]])
