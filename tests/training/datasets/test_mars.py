"""Reading MARS: a small one written here, the real small one and the official lists where they are present."""

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from training.datasets.catalog import kind_of, set_aside
from training.datasets.check import count
from training.datasets.mars import is_mars, read_mars
from training.datasets.matfile import read_mat
from training.datasets.official import OFFICIAL
from training.datasets.tracklet import DatasetError
from training.reproduction.training import ReproductionSettings

savemat = pytest.importorskip("scipy.io").savemat


@dataclass
class Mars:
    """A tiny MARS: rows of (person, camera, tracklet, frames) for both parts, and the 1-based query rows."""

    train: list[tuple[int, int, int, int]] = field(default_factory=lambda: [(3, 4, 1, 2), (5, 1, 1, 3)])
    test: list[tuple[int, int, int, int]] = field(
        default_factory=lambda: [(-1, 1, 1, 1), (0, 2, 1, 2), (22, 1, 1, 3), (22, 1, 2, 1), (22, 2, 3, 2)]
    )
    query: list[int] = field(default_factory=lambda: [3])

    def write(self, root: Path) -> Path:
        info = root / "info"
        info.mkdir()
        for part in ("train", "test"):
            names, rows = [], []
            for person, camera, tracklet, frames in getattr(self, part):
                owner = "00-1" if person == -1 else f"{person:04d}"
                files = [f"{owner}C{camera}T{tracklet:04d}F{number + 1:03d}.jpg" for number in range(frames)]
                rows.append([len(names) + 1, len(names) + frames, person, camera])
                names += files
                folder = root / f"bbox_{part}" / owner
                folder.mkdir(parents=True, exist_ok=True)
                for file in files:
                    (folder / file).touch()
            (info / f"{part}_name.txt").write_bytes("".join(f"{name}\r\n" for name in names).encode())
            savemat(info / f"tracks_{part}_info.mat", {f"track_{part}_info": np.array(rows, dtype=np.int32)})
        savemat(info / "query_IDX.mat", {"query_IDX": np.array([self.query], dtype=np.uint16)})
        return root


def test_parts_are_read_with_exact_frames(tmp_path: Path) -> None:
    dataset = read_mars(Mars().write(tmp_path))
    assert [(t.person, t.camera, t.name, len(t.frames)) for t in dataset.train] == [
        ("0003", "C4", "0003C4T0001", 2),
        ("0005", "C1", "0005C1T0001", 3),
    ]
    assert [t.name for t in dataset.query] == ["0022C1T0001"]
    # Rows are 1-based with the last included: the query's frames are its own, neither one more nor one less.
    assert [path.name for path in dataset.query[0].frames] == [f"0022C1T0001F00{n}.jpg" for n in (1, 2, 3)]
    assert all(path.is_file() for path in dataset.query[0].frames)


def test_junk_is_left_out_of_the_gallery_and_distractors_are_not(tmp_path: Path) -> None:
    dataset = read_mars(Mars().write(tmp_path))
    assert [t.name for t in dataset.gallery] == ["0000C2T0001", "0022C1T0002", "0022C2T0003"]
    assert dataset.gallery[0].person == "0000"
    assert [t.name for t in dataset.junk] == ["00-1C1T0001"]


def test_dataset_is_found_in_the_folder_around_it_unless_there_are_two(tmp_path: Path) -> None:
    (tmp_path / "all" / "mars").mkdir(parents=True)
    root = Mars().write(tmp_path / "all" / "mars")
    assert read_mars(root.parent) == read_mars(root)
    assert kind_of(root.parent) == "mars"
    shutil.copytree(root, root.parent / "copy")
    with pytest.raises(DatasetError, match="2 copies of the dataset, for example copy and mars"):
        read_mars(root.parent)


def test_official_lists_give_official_counts(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The official rows with file names that fit them, without the images."""
    reference, info = shared_data.parent / "reference", tmp_path / "info"
    info.mkdir()
    files_by_folder: dict[Path, dict[str, Path]] = {}
    for part in ("train", "test"):
        file = reference / f"tracks_{part}_info.mat"
        if not file.is_file():
            pytest.skip("the official MARS lists are not beside the shared data")
        shutil.copy(file, info)
        (tmp_path / f"bbox_{part}").mkdir()
        rows = read_mat(file)[f"track_{part}_info"].astype(int).tolist()
        names = [""] * rows[-1][1]
        for tracklet, (first, last, person, camera) in enumerate(rows, start=1):
            owner = "00-1" if person == -1 else f"{person:04d}"
            files = [f"{owner}C{camera}T{tracklet:04d}F{frame:03d}.jpg" for frame in range(1, last - first + 2)]
            names[first - 1 : last] = files
            folder = tmp_path / f"bbox_{part}" / owner
            files_by_folder.setdefault(folder, {}).update(dict.fromkeys(files, folder))
        assert "" not in names
        (info / f"{part}_name.txt").write_text("\r\n".join(names))
    shutil.copy(reference / "query_IDX.mat", info)
    monkeypatch.setattr("training.datasets.mars._files_in", files_by_folder.__getitem__)
    mars = read_mars(tmp_path)
    assert [len(part) for part in (mars.train, mars.query, mars.gallery, mars.junk)] == [8298, 1980, 9330, 870]
    # In the rows of the papers, all of them train.
    settings = ReproductionSettings({"mars": tmp_path}, tmp_path)
    for name in ("not3d", "fantastic", "fantastic/baseline", "aas-rfu"):
        recipe, _ = settings.recipe(name)
        training, validation = set_aside(mars.train, recipe.validation_share, recipe.seed)
        assert (len({t.person for t in training}), len(training), validation) == (625, 8298, [])
    recipe, _ = replace(settings, held_out=0.1).recipe("not3d")
    assert len({t.person for t in set_aside(mars.train, recipe.validation_share, recipe.seed)[1]}) == 55
    counts = count(mars)
    assert {name: counts[name] for name in OFFICIAL["mars"].counts} == OFFICIAL["mars"].counts


def test_excerpt_of_mars_is_read(shared_data: Path) -> None:
    dataset = read_mars(shared_data / "mini-mars")
    assert (len(dataset.train), len(dataset.query), len(dataset.gallery)) == (32, 12, 12)
    assert len({t.person for t in dataset.train}) == 16
    assert sum(len(t.frames) for t in dataset.train) == 1719
    with_match = [
        query
        for query in dataset.query
        if any(t.person == query.person and t.camera != query.camera for t in dataset.gallery)
    ]
    assert len(with_match) == 8


@pytest.mark.parametrize(
    "name", ["train_name.txt", "test_name.txt", "tracks_train_info.mat", "tracks_test_info.mat", "query_IDX.mat"]
)
def test_missing_list_is_named_with_its_folder(tmp_path: Path, name: str) -> None:
    root = Mars().write(tmp_path)
    (root / "info" / name).unlink()
    assert is_mars(root)
    with pytest.raises(DatasetError, match=f"info/{name} missing"):
        read_mars(root)


def test_missing_image_is_named(tmp_path: Path) -> None:
    root = Mars().write(tmp_path)
    (root / "bbox_test" / "0022" / "0022C2T0003F002.jpg").unlink()
    with pytest.raises(DatasetError, match=r"bbox_test/0022/0022C2T0003F002\.jpg is missing"):
        read_mars(root)


def test_lists_of_another_dataset_are_refused(tmp_path: Path) -> None:
    root = Mars().write(tmp_path)
    (root / "info" / "tracks_train_info.mat").write_bytes((root / "info" / "tracks_test_info.mat").read_bytes())
    with pytest.raises(DatasetError, match=r"tracks_train_info\.mat is not MARS's file: it contains track_test_info"):
        read_mars(root)


def test_names_that_do_not_fit_the_rows_are_refused(tmp_path: Path) -> None:
    root = Mars().write(tmp_path)
    names = root / "info" / "test_name.txt"
    names.write_bytes(names.read_bytes().partition(b"\r\n")[2] + b"0022C2T0003F003.jpg\r\n")
    with pytest.raises(DatasetError, match=r"does not belong to .*row 1 is person 00-1 at camera 1"):
        read_mars(root)


def test_rows_beyond_the_names_are_refused(tmp_path: Path) -> None:
    root = Mars().write(tmp_path)
    names = root / "info" / "test_name.txt"
    names.write_bytes(names.read_bytes().removesuffix(b"0022C2T0003F002.jpg\r\n"))
    with pytest.raises(DatasetError, match=r"row 5: files 8 to 9, but .*test_name\.txt lists 8 files"):
        read_mars(root)


@pytest.mark.parametrize("rows", [[0], [6]])
def test_query_rows_outside_the_table_are_refused(tmp_path: Path, rows: list[int]) -> None:
    with pytest.raises(DatasetError, match=r"query_IDX\.mat names rows outside the 5"):
        read_mars(Mars(query=rows).write(tmp_path))


def test_file_of_another_format_is_refused(tmp_path: Path) -> None:
    root = Mars().write(tmp_path)
    (root / "info" / "query_IDX.mat").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(200))
    with pytest.raises(DatasetError, match=r"query_IDX\.mat is not a MATLAB 5\.0"):
        read_mars(root)
