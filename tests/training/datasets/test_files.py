from training.datasets.files import folders_in, images_in, natural_key


def test_natural_key_sorts_numbers_by_value_and_before_letters() -> None:
    assert sorted(["b", "a10", "a2", "10", "9", "a", "a2b"], key=natural_key) == [
        "9",
        "10",
        "a",
        "a2",
        "a2b",
        "a10",
        "b",
    ]


def test_images_are_in_natural_order_without_hidden_and_other_files(tmp_path):
    for name in ("f10.jpg", "f9.JPG", "._f9.jpg", "Thumbs.db", ".DS_Store", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "b").mkdir()
    (tmp_path / "a.jpg").mkdir()
    assert [path.name for path in images_in(tmp_path)] == ["f9.JPG", "f10.jpg"]
    assert [path.name for path in folders_in(tmp_path)] == ["a.jpg", "b"]
