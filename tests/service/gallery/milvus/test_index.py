"""The index that changes with the size of the collection, and searches before and after the change."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("pymilvus")

from service.gallery import Filter
from service.gallery.milvus import index
from tests.service.gallery.engines import MILVUS, milvus_database
from tests.service.gallery.samples import record, vector


@pytest.mark.parametrize("name", MILVUS)
def test_a_large_collection_gets_an_approximate_index(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "EXACT_ROWS", 1000)
    monkeypatch.setattr(index, "_LISTS", 32)
    monkeypatch.setattr(index, "_PROBES", 16)
    with milvus_database(name) as database:
        gallery: Any = database.open()
        other: Any = database.open()
        gallery.enrol([record(f"r{number}", camera_id=f"c{number % 100}") for number in range(3000)], "replace")
        gallery._index.check()
        assert (gallery._index.kind, gallery._index.exact) == ("IVF_SQ8", False)
        other._index.check()
        assert "IVF_SQ8" in other.engine
        gallery._index.check()  # changes nothing more
        for one in (gallery, other):
            assert found(one, Filter()) >= 0.9
            result = one.search(vector("query"), 10, Filter(camera_ids=("c7",)))
            assert (result.searched, len(result.hits), result.exact) == (30, 10, False)
            assert found(one, Filter(camera_ids=("c7",))) == 1
        np.testing.assert_array_equal(other.get("r17").embedding, vector("r17"))
        gallery.close()
        other.close()


def found(gallery: Any, wanted: Filter) -> float:
    """Return the share of the true ten best that a search finds."""
    names = [f"r{number}" for number in range(3000) if wanted.is_empty or number % 100 == 7]
    best = sorted(names, key=lambda name: -float(vector(name) @ vector("query")))[:10]
    hits = gallery.search(vector("query"), 10, wanted).hits
    return len({hit.record.id for hit in hits} & set(best)) / 10


def test_a_search_reads_more_lists_if_fewer_rows_pass() -> None:
    manager = index.IndexManager(None, "", None, gpu=True)  # type: ignore[arg-type]
    assert manager.parameters(42, 1.0) == {}
    manager.kind = "GPU_IVF_FLAT"
    probes = [manager.parameters(42, share)["nprobe"] for share in (1.0, 0.5, 0.1, 0.001, 0.0)]
    assert probes == sorted(probes)
    assert (probes[0], probes[-1]) == (128, 1024)
