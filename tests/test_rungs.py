"""Who goes on from a rung: by rank over all objectives, spread within a rank, and never more than the share kept."""

import random

import pytest

from uniformer_bench.errors import UbenchError
from uniformer_bench.recipe import Halving
from uniformer_bench.search.pareto import dominates
from uniformer_bench.search.rungs import Climber, losses_at, next_up, ranking, spread


def test_the_first_rank_goes_before_the_second_whatever_one_axis_says():
    cheap, good, beaten = (0.9, 1.0), (0.1, 9.0), (0.2, 10.0)
    assert set(ranking([beaten, cheap, good])[:2]) == {1, 2}
    assert ranking([beaten, cheap, good])[2] == 0


def test_ranking_agrees_with_peeling_by_dominance():
    rng = random.Random(0)
    points = [(rng.randint(0, 6), rng.randint(0, 6), rng.randint(0, 6)) for _ in range(60)]
    order, left = ranking(points), set(range(60))
    assert sorted(order) == list(range(60))
    while left:
        rank = {i for i in left if not any(dominates(points[j], points[i]) for j in left)}
        assert {order.pop(0) for _ in rank} == rank
        left -= rank


def test_a_rank_is_covered_from_its_ends():
    """On a line from (0, 4) to (4, 0): the best on the first axis, the other end, the middle."""
    line = [(float(i), 4.0 - i) for i in range(5)]
    assert spread(line)[:3] == [0, 4, 2]
    assert spread([(x, 1000 * y) for x, y in line])[:3] == [0, 4, 2]  # whatever the scale
    assert spread([]) == []


def test_no_more_than_the_share_goes_on():
    field = [Climber(number, (float(number), 1.0), False) for number in range(5)]
    assert next_up(field[:2], 1 / 3) is None
    assert next_up(field[:3], 1 / 3) == 0
    gone = [field[0]._replace(went_on=True), *field[1:]]
    assert next_up(gone, 1 / 3) is None
    better = [*gone, Climber(9, (-1.0, 1.0), False)]
    assert next_up(better[:5], 1 / 3) is None  # the one place is taken, though by a worse one
    assert next_up(better, 1 / 3) == 9
    assert next_up([], 0.5) is None


def test_the_loss_stands_for_accuracy_and_more_is_turned_round():
    record = {"rungs": [{"loss": 2.0}, {"loss": 1.5}], "metrics": {"latency": 3.0, "throughput": 7.0}}
    assert losses_at(record, 1, ("accuracy", "latency", "throughput")) == (1.5, 3.0, -7.0)
    assert losses_at(record, 0, ("accuracy", "memory")) == (2.0, float("inf"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rungs": [0.5, 0.5]}, r"rungs must rise between 0 and 1, got \[0.5, 0.5\] in halving"),
        ({"rungs": [0.0]}, "rungs must rise between 0 and 1"),
        ({"rungs": [1.0]}, "rungs must rise between 0 and 1"),
        ({"keep": 0}, "keep must be above 0 and at most 1, got 0 in halving"),
        ({"keep": "a third"}, "rungs and keep must be numbers"),
        ({"rung": [0.5]}, "unknown key 'rung' in halving, did you mean rungs"),
    ],
)
def test_a_broken_halving_is_named(values, message):
    with pytest.raises(UbenchError, match=message):
        Halving.from_dict(values)


def test_plain_data_and_back():
    assert Halving.from_dict(Halving(rungs=(0.2, 0.5), keep=0.4).to_dict()) == Halving(rungs=(0.2, 0.5), keep=0.4)
