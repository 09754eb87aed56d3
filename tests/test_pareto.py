"""Fronts and hypervolumes, by hand and against a count of boxes."""

import random

import pytest

from uniformer_bench.search.pareto import Scale, dominates, front_of, hypervolume, to_losses


def test_a_front_by_hand():
    points = [(1, 5), (2, 4), (2, 5), (5, 1), (5, 1), (0, 9)]
    assert front_of(points) == [0, 1, 3, 5]
    assert dominates((1, 1), (1, 2))
    assert not dominates((1, 2), (1, 2))


def test_losses_turn_accuracy_round():
    assert to_losses(("accuracy", "latency", "throughput"), (0.8, 3.0, 5.0)) == (-0.8, 3.0, -5.0)


def test_two_boxes_by_hand():
    assert hypervolume([(0.5, 0.5)]) == pytest.approx(0.25)
    assert hypervolume([(0.25, 0.75), (0.75, 0.25)]) == pytest.approx(2 * 0.75 * 0.25 - 0.25 * 0.25)
    assert hypervolume([]) == hypervolume([(1.0, 0.0)]) == hypervolume([(2.0, -1.0)]) == 0
    assert hypervolume([(-1.0, -3.0)]) == 1  # better than the best counts as the best


@pytest.mark.parametrize("axes", [1, 2, 3, 4])
def test_it_is_the_share_of_the_cells_that_are_dominated(axes):
    rng, cells = random.Random(axes), 6
    for _ in range(20):
        points = [tuple(rng.randint(0, cells) / cells for _ in range(axes)) for _ in range(rng.randint(1, 6))]
        counted = 0
        for cell in range(cells**axes):
            corner = [(cell // cells**i % cells) / cells for i in range(axes)]
            counted += any(all(p <= c for p, c in zip(point, corner, strict=True)) for point in points)
        assert hypervolume(points) == pytest.approx(counted / cells**axes)


def test_scales_are_linear_or_logarithmic():
    accuracy, cost = Scale(worst=0.1, best=1.0, log=False), Scale(worst=100, best=1, log=True)
    assert [accuracy.loss(v) for v in (0.1, 0.55, 1.0)] == pytest.approx([1, 0.5, 0])
    assert [cost.loss(v) for v in (100, 10, 1)] == pytest.approx([1, 0.5, 0])
    assert Scale(worst=1, best=100, log=True).loss(10) == pytest.approx(0.5)  # throughput: more is better
