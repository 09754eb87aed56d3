"""The built-in clips: what their labels say happens in them, and no digit is in two splits."""

import numpy as np
import pytest

from uniformer_bench.data import digits
from uniformer_bench.data.digits import CLASSES, ROUND, STRAIGHT, counts_of, draw, load_digits_in_motion


def actors(name, n=40, frames=24, seed=0):
    """The digit that acts and the other, over clips of one class."""
    rng = np.random.default_rng(seed)
    images = digits._image_splits(rng)["train"]
    return digits._script(np.full(n, CLASSES.index(name)), images, frames, rng)


@pytest.mark.parametrize(
    ("name", "axis", "sign"),
    [("moves left", "x", -1), ("moves right", "x", 1), ("moves up", "y", -1), ("moves down", "y", 1)],
)
def test_the_moves_go_where_they_say(name, axis, sign):
    target, _ = actors(name)
    way = getattr(target, axis)[:, -1] - getattr(target, axis)[:, 0]
    aside = getattr(target, "y" if axis == "x" else "x")
    assert (sign * way > 0).all()
    assert (abs(aside[:, -1] - aside[:, 0]) < abs(way)).all()


@pytest.mark.parametrize(("name", "sign"), [("turns clockwise", 1), ("turns anticlockwise", -1)])
def test_the_turns_turn_in_place(name, sign):
    target, _ = actors(name)
    assert (sign * np.diff(target.angle) > 0).all()
    assert (np.ptp(target.x, axis=1) == 0).all()


def test_clockwise_is_clockwise_on_the_page():
    ink = np.zeros((8, 8), np.float32)
    ink[0, 3:5] = 1  # a mark at the top of the digit
    still = np.zeros((1, 1))
    quarter = digits.Actor(still, still, still + np.pi / 2, still + 1, ink[None, None])
    drawn = digits._ink(quarter, np.ones(1, np.float32), (16, 16))[0, 0]
    assert np.argwhere(drawn > 0.5)[:, 1].min() >= 12  # now at the right


def test_the_order_of_the_classes_that_need_it():
    first, last = slice(0, 6), slice(-6, None)

    def speed(target):
        return np.hypot(np.diff(target.x), np.diff(target.y))

    stops, back = actors("stops")[0], actors("turns back")[0]
    assert (speed(stops)[:, first] > 0).all()
    assert (speed(stops)[:, last] < 1e-9).all()
    assert np.allclose(back.x[:, 0], back.x[:, -1], atol=0.1)
    then_turns, then_moves = actors("moves, then turns")[0], actors("turns, then moves")[0]
    for target, moving, turning in ((then_turns, first, last), (then_moves, last, first)):
        assert (speed(target)[:, moving] > 0).all()
        assert (abs(np.diff(target.angle))[:, turning] > 0).all()
        assert (abs(np.diff(target.angle))[:, moving] < 1e-9).all()


def test_who_hides_returns_as_itself_or_another():
    for name, same in (("hides and returns", True), ("hides and another returns", False)):
        target, _ = actors(name)
        assert (target.brightness.min(axis=1) == 0).all()
        assert (target.brightness[:, [0, -1]] == 1).all()
        assert [np.array_equal(clip[0], clip[-1]) for clip in target.images] == [same] * 40


def test_who_meets_passes_or_bounces():
    passes, bounces = actors("meets and passes"), actors("meets and bounces")
    for target, other in (passes, bounces):
        gap = np.hypot(target.x - other.x, target.y - other.y)
        assert (gap.min(axis=1) < gap[:, 0] / 2).all()
    crossing = [
        (t[:, 0] - o[:, 0]) * (t[:, -1] - o[:, -1])
        for t, o in ((passes[0].x, passes[1].x), (bounces[0].x, bounces[1].x))
    ]
    assert (crossing[0] < 0).all()
    assert (crossing[1] > 0).all()


def test_no_digit_is_in_two_splits():
    splits = digits._image_splits(np.random.default_rng(0))
    seen = [{image.tobytes() for images in split.values() for image in images} for split in splits.values()]
    assert not seen[0] & seen[1] | seen[0] & seen[2] | seen[1] & seen[2]
    assert all(set(split) == {*ROUND, *STRAIGHT} for split in splits.values())


def test_the_same_seed_draws_the_same_clips_at_any_size():
    images = digits._image_splits(np.random.default_rng(0))["train"]
    labels = np.arange(14)
    clips = [draw(labels, images, 5, (20, 24), np.random.default_rng(s)) for s in (1, 1, 2)]
    assert clips[0].shape == (14, 5, 20, 24, 3)
    assert clips[0].dtype == np.uint8
    np.testing.assert_array_equal(clips[0], clips[1])
    assert (clips[0] != clips[2]).any()


def test_the_data_set_is_balanced_and_cached(tmp_path, monkeypatch):
    monkeypatch.setattr(digits, "COUNTS", {"train": 28, "validation": 14, "test": 14})
    first = load_digits_in_motion(frames=2, size=(8, 8), seed=3, cache=tmp_path)
    assert np.bincount(first.train.labels).tolist() == [8] * 14
    assert first.card["counts"] == {"train": 112, "validation": 14, "test": 14}
    monkeypatch.setattr(digits, "_make", None)  # would raise if it were called
    second = load_digits_in_motion(frames=2, size=(8, 8), seed=3, cache=tmp_path)
    np.testing.assert_array_equal(first.test.clips, second.test.clips)


def test_small_clips_are_plenty_and_large_ones_few():
    """12,288 clips of 8 x 32 x 32 take 288 MiB, of 16 x 112 x 112 they would take 7 GiB."""
    assert counts_of(8, (32, 32)) == {"train": 12288, "validation": 2048, "test": 2048}
    assert counts_of(16, (112, 112))["train"] == 3072
