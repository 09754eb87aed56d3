"""The mean of several trainings with its interval, and the chance to be on the front: cases worked out by hand."""

from statistics import NormalDist

import numpy as np
import pytest

from uniformer_bench.measure.accuracy import Accuracy
from uniformer_bench.search.estimates import Estimate, SeedNoise, chances_on_front, mean_accuracy, seed_noise


def test_the_seeds_variance_is_pooled_over_architectures():
    # squares about the groups' means: 2 x 0.1^2 and 0.1^2 + 0.1^2 + 0.2^2, on 1 + 2 degrees of freedom
    assert seed_noise([[0.1, 0.3], [0.5, 0.5, 0.8], [0.4]]) == (pytest.approx(0.08 / 3), 3)
    assert seed_noise([[0.4], []]) == (0.0, 0)


def test_without_seeds_to_compare_the_interval_is_that_of_the_sample():
    found = mean_accuracy([0.64], 100, SeedNoise(0.0, 0))
    assert found == (0.64, *(pytest.approx(end) for end in Accuracy(64, 100).ci95), False)


def test_with_no_end_of_clips_the_interval_is_students():
    found = mean_accuracy([0.4, 0.5, 0.5, 0.6], 10**12, SeedNoise(1e-4, 1))
    half = 12.7062 * 0.01 / 2  # Student's t at one degree of freedom, from the tables
    assert found == (
        pytest.approx(0.5),
        pytest.approx(0.5 - half, rel=1e-4),
        pytest.approx(0.5 + half, rel=1e-4),
        False,
    )
    assert mean_accuracy([0.99, 0.99], 10**12, SeedNoise(1e-2, 1)).high == 1.0


def test_the_interval_holds_the_truth_as_often_as_it_says():
    rng, clips, hits, tries = np.random.default_rng(0), 500, 0, 600
    for _ in range(tries):
        truths = rng.uniform(0.5, 0.8, 5)
        sample = rng.normal(0, np.sqrt(truths * (1 - truths) / clips))  # which clips there are: the same for all seeds
        accuracies = (truths + sample)[:, None] + rng.normal(0, 0.02, (5, 2))
        noise = seed_noise([list(each) for each in accuracies])
        found = mean_accuracy(list(accuracies[0]), clips, noise)
        hits += found.low <= truths[0] <= found.high
    assert 0.93 <= hits / tries <= 0.99


def exactly(value):
    return Estimate(value, value, value)


def within(value, error, log=False):
    return Estimate(value, value - 1.959964 * error, value + 1.959964 * error, log)


def near(chance):
    return pytest.approx(chance, abs=4.5 * np.sqrt(chance * (1 - chance) / 2000))


def test_what_is_known_exactly_is_on_the_front_or_not():
    same, worse = [exactly(-0.8), exactly(2.0)], [exactly(-0.7), exactly(2.5)]
    assert chances_on_front([same, same, worse], 0) == [1, 1, 0]
    assert chances_on_front([], 0) == []


def test_of_two_alike_each_has_an_even_chance_where_one_must_lose():
    point = [within(-0.8, 0.01), exactly(2.0)]
    first, second = chances_on_front([point, point], 0)
    assert first == near(0.5)
    assert first + second == pytest.approx(1)
    timed = [exactly(-0.8), Estimate(2.0, 1.8, 2.2, log=True)]
    assert chances_on_front([timed, timed], 1) == [near(0.5), near(0.5)]
    both = [within(-0.8, 0.01), Estimate(2.0, 1.8, 2.2, log=True)]
    assert chances_on_front([both, both], 2) == [near(0.75), near(0.75)]  # beaten in both of two even odds: a quarter


def test_the_chance_is_that_of_the_difference():
    error = 0.01
    ahead, behind = [within(-0.8, error), exactly(2.0)], [within(-0.8 + error * np.sqrt(2), error), exactly(2.0)]
    far = [within(-0.2, error), within(9.0, 0.1)]
    chances = chances_on_front([ahead, behind, far], 3)
    assert chances == [near(NormalDist().cdf(1)), near(NormalDist().cdf(-1)), 0]
    assert chances == chances_on_front([ahead, behind, far], 3)
