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


def dense_published(query, gallery, k1=20, k2=6, lambda_value=0.3):
    """The published program on dense matrices in half precision, for features of any length."""
    half = np.float16
    rows = np.concatenate([query, gallery]).astype(half).astype(np.float64)
    count = len(rows)
    distance = np.sqrt(np.maximum(np.square(rows[:, None] - rows[None]).sum(axis=2), 0)).astype(half)
    distance = np.power(distance, 2).astype(half)
    distance = np.transpose(distance / distance.max(axis=0)) + half(1e-6)
    ranks = np.argsort(distance, axis=1, kind="stable")

    def reciprocal(i, k):
        forward = ranks[i, : k + 1]
        return forward[np.where(ranks[forward, : k + 1] == i)[0]]

    encoded = np.zeros((count, count), half)
    for i in range(count):
        near = reciprocal(i, k1)
        members = near
        for candidate in near:
            other = reciprocal(candidate, round(k1 / 2))
            if len(np.intersect1d(other, near)) > 2 / 3 * len(other):
                members = np.append(members, other)
        members = np.unique(members)
        weight = np.exp(-distance[i, members])
        encoded[i, members] = weight / weight.sum()
    if k2 > 1:
        encoded = np.stack([encoded[ranks[i, :k2]].mean(axis=0) for i in range(count)]).astype(half)
    jaccard = np.zeros((len(query), count), half)
    for i in range(len(query)):
        least = np.zeros(count, half)
        for j in np.flatnonzero(encoded[i]):
            least += np.minimum(encoded[i, j], encoded[:, j])
        jaccard[i] = 1 - least / (2 - least)
    mixed = jaccard * half(1 - lambda_value) + distance[: len(query)] * half(lambda_value)
    return mixed[:, len(query) :].astype(np.float32)


def test_published_form_equals_the_published_program_in_half_precision(rng):
    people = rng.normal(size=(12, 64))
    query = 3 * people + 1.5 * rng.normal(size=(12, 64))
    gallery = np.repeat(people, 6, axis=0) * rng.uniform(1, 5, (72, 1)) + rng.normal(size=(72, 64))
    got, expected = k_reciprocal_rerank(query, gallery, form="published"), dense_published(query, gallery)
    np.testing.assert_allclose(got, expected, atol=2e-3)  # two units of half precision at 1
    assert np.abs(got - expected).mean() < 2e-4
    for k1, k2, weight in ((5, 1, 0.4), (7, 3, 0.1), (30, 8, 1.0)):
        got_so = k_reciprocal_rerank(query, gallery, k1, k2, weight, form="published")
        np.testing.assert_allclose(got_so, dense_published(query, gallery, k1, k2, weight), atol=2e-3)
    # The lengths of the features count, which unit vectors hide.
    assert np.abs(k_reciprocal_rerank(query, gallery) - got).max() > 0.05
    stretched = gallery * rng.uniform(0.5, 2, (72, 1))
    np.testing.assert_allclose(k_reciprocal_rerank(query, stretched), k_reciprocal_rerank(query, gallery), atol=1e-5)


def test_published_form_of_queries_that_are_in_the_gallery_is_that_of_the_program(rng):
    """Each row then has a twin at distance zero, and half precision makes many other distances equal."""
    people = np.repeat(rng.normal(size=(30, 64)), 3, axis=0)
    rows = people * rng.uniform(1, 3, (90, 1)) + rng.normal(size=(90, 64))
    for query, gallery in ((rows, rows), (rows[:1], rows), (rows[:20], rows[:5]), (rows[:1], rows[1:2])):
        got, expected = k_reciprocal_rerank(query, gallery, form="published"), dense_published(query, gallery)
        assert got.shape == (len(query), len(gallery))
        assert (got == expected).mean() > 0.99
        np.testing.assert_allclose(got, expected, atol=2e-3)


@pytest.mark.parametrize("form", ["unit", "published"])
def test_features_of_length_zero_are_ranked(form, rng):
    rows = rng.normal(size=(8, 16)).astype(np.float32)
    rows[3] = 0
    assert np.isfinite(k_reciprocal_rerank(rows, rows, form=form)).all()
    assert np.isfinite(k_reciprocal_rerank(np.zeros((1, 16)), np.zeros((2, 16)), form=form)).all()


def test_published_form_refuses_what_half_precision_cannot_hold():
    with pytest.raises(ValueError, match="too long for the half precision"):
        k_reciprocal_rerank(np.full((1, 4), 300.0), np.zeros((2, 4)), form="published")
    with pytest.raises(ValueError, match="form='raw' must be one of unit, published"):
        k_reciprocal_rerank(np.ones((1, 4)), np.ones((2, 4)), form="raw")


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
