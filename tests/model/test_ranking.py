import numpy as np
import pytest

from model.ranking import cosine_scores, k_reciprocal_rerank


def dense_rerank(query, gallery, k1, k2, lambda_value):
    """The formula of Zhong et al. on dense matrices, without blocks."""
    rows = np.concatenate([query, gallery]).astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    count = len(rows)
    distance = np.maximum(0, 2 - 2 * rows @ rows.T)
    np.fill_diagonal(distance, 0)
    distance /= distance.max(axis=1, keepdims=True)
    ranks = np.argsort(distance - np.eye(count), axis=1, kind="stable")

    def reciprocal(i, k):
        return [j for j in ranks[i, : k + 1] if i in ranks[j, : k + 1]]

    encoded = np.zeros((count, count))
    for i in range(count):
        base = set(reciprocal(i, k1))
        members = set(base)
        for j in base:
            other = set(reciprocal(j, round(k1 / 2)))
            if len(other & base) > 2 / 3 * len(other):
                members |= other
        chosen = sorted(members)
        weight = np.exp(-distance[i, chosen])
        encoded[i, chosen] = weight / weight.sum()
    if k2 > 1:
        encoded = np.stack([encoded[ranks[i, :k2]].mean(axis=0) for i in range(count)])
    jaccard = np.zeros((len(query), len(gallery)))
    for i in range(len(query)):
        for j in range(len(gallery)):
            least = np.minimum(encoded[i], encoded[len(query) + j]).sum()
            jaccard[i, j] = 1 - least / np.maximum(encoded[i], encoded[len(query) + j]).sum()
    return lambda_value * distance[: len(query), len(query) :] + (1 - lambda_value) * jaccard


@pytest.mark.parametrize(("k1", "k2", "weight"), [(20, 6, 0.3), (5, 1, 0.0), (7, 3, 0.5), (3, 2, 1.0)])
def test_reranking_equals_the_dense_formula(rng, k1, k2, weight):
    people = rng.normal(size=(12, 24))
    query = people[:6] + 0.5 * rng.normal(size=(6, 24))
    gallery = np.repeat(people, 5, axis=0) + 0.5 * rng.normal(size=(60, 24))
    got = k_reciprocal_rerank(query, gallery, k1, k2, weight)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, dense_rerank(query, gallery, k1, k2, weight), atol=2e-5)


def test_reranking_finds_more_of_a_dense_group(rng):
    people = rng.normal(size=(20, 16))
    labels = np.repeat(np.arange(20), 6)
    gallery = people[labels] + 0.75 * rng.normal(size=(120, 16))
    query = people + 0.75 * rng.normal(size=people.shape)

    def mean_precision(distances):
        order = np.argsort(distances, axis=1)
        return np.mean([(labels[row[:6]] == person).mean() for person, row in enumerate(order)])

    plain = mean_precision(-cosine_scores(query, gallery))
    assert mean_precision(k_reciprocal_rerank(query, gallery)) > plain + 0.02


def test_small_galleries_and_duplicates_are_reranked():
    vectors = np.ones((1, 4), np.float32)
    assert k_reciprocal_rerank(vectors, vectors).shape == (1, 1)
    assert np.isfinite(k_reciprocal_rerank(vectors, np.ones((5, 4)))).all()


def test_wrong_arguments_are_errors():
    with pytest.raises(ValueError, match="not"):
        k_reciprocal_rerank(np.ones((1, 4)), np.ones((2, 5)))
    with pytest.raises(ValueError, match="at least one row"):
        k_reciprocal_rerank(np.ones((1, 4)), np.ones((0, 4)))
    with pytest.raises(ValueError, match="lambda_value"):
        k_reciprocal_rerank(np.ones((1, 4)), np.ones((2, 4)), lambda_value=1.5)


def test_cosine_scores_ignore_length():
    np.testing.assert_allclose(cosine_scores([[2.0, 0.0]], [[5.0, 0.0], [0.0, 3.0], [-1.0, 0.0]]), [[1, 0, -1]])
