"""Clips beyond the cache's limit: the same clips as without one, read from their files when they are asked for."""

import shutil
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.test_data_videos import Recorder, load, two_classes
from tests.videos import counting_clip, write_video
from uniformer_bench.data import videos as videos_module
from uniformer_bench.data.clips import Clips
from uniformer_bench.data.listing import SPLITS
from uniformer_bench.data.reading import StreamedClips, ahead
from uniformer_bench.errors import UbenchError
from uniformer_bench.measure.accuracy import accuracy
from uniformer_bench.model import build
from uniformer_bench.recipe import Recipe
from uniformer_bench.train import ShortRun, to_input
from uniformer_bench.training.loop import train
from uniformer_bench.training.plan import Plan
from uniformer_bench.training.testing import accuracies
from uniformer_bench.training.world import World
from uniformer_bench.variants import find_variant

__all__ = ["two_classes"]
CLIP_GB = 2 * 16 * 16 * 3 / 1e9


def streamed_counts(clips: Clips) -> list[int]:
    """How many of each split are streamed, 0 where none can be."""
    splits = (getattr(clips, name).clips for name in SPLITS)
    return [len(some.videos) if isinstance(some, StreamedClips) else 0 for some in splits]


@pytest.mark.parametrize("room", [0.5, 1, 7.5, 14])
def test_streamed_clips_are_the_clips(two_classes, tmp_path, room):
    whole = load(two_classes, tmp_path / "whole", stride=1)
    streamed = load(two_classes, tmp_path / "streamed", stride=1, cache_limit_gb=room * CLIP_GB)
    assert sum(streamed_counts(streamed)) == 15 - int(room)
    assert streamed.card == whole.card
    for name in SPLITS:
        some, all_of = getattr(streamed, name), getattr(whole, name)
        assert some.clips.shape == all_of.clips.shape
        assert len(some.clips) == len(all_of.clips)
        np.testing.assert_array_equal(some.labels, all_of.labels)
        last = len(all_of.labels) - 1
        for index in (slice(None), slice(0, 2), np.array([last, 0, last]), np.array([], int), 0, -1, np.int64(last)):
            np.testing.assert_array_equal(some.clips[index], all_of.clips[index])


def test_an_index_beyond_the_clips_is_one(two_classes, tmp_path):
    clips = load(two_classes, tmp_path, cache_limit_gb=CLIP_GB).train.clips
    with pytest.raises(IndexError):
        clips[len(clips)]


def test_a_second_start_reads_what_the_first_has_kept(two_classes, tmp_path, monkeypatch):
    watch = Recorder()
    first = load(two_classes, tmp_path, cache_limit_gb=7 * CLIP_GB, watch=watch)
    assert len(watch.told) == 15
    assert watch.said[1].startswith("8 of 15 clips are decoded each time they are asked for, which is slow: the cache")
    monkeypatch.setattr(videos_module, "_make", None)  # would raise if it were called
    again = Recorder()
    second = load(two_classes, tmp_path, cache_limit_gb=7 * CLIP_GB, watch=again)
    assert again.said == watch.said
    assert again.told == []
    np.testing.assert_array_equal(second.train.clips[:], first.train.clips[:])


def test_what_is_there_in_whole_is_taken_whatever_the_limit(two_classes, tmp_path):
    load(two_classes, tmp_path, cache_limit_gb=15 * CLIP_GB)
    assert streamed_counts(load(two_classes, tmp_path, cache_limit_gb=CLIP_GB)) == [0, 0, 0]
    others = load(two_classes, tmp_path, seed=1, cache_limit_gb=15 * CLIP_GB)
    assert sum(streamed_counts(others)) == 15, "the limit counts what is there"


def test_raising_the_limit_keeps_more_and_the_smaller_part_goes(two_classes, tmp_path):
    counts = [
        sum(streamed_counts(load(two_classes, tmp_path, cache_limit_gb=room * CLIP_GB))) for room in (5.5, 8.5, 15)
    ]
    assert counts == [10, 7, 0]
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 1


def test_what_is_streamed_stays_so_until_it_is_asked_otherwise(two_classes, tmp_path, monkeypatch):
    """Processes of one search must read the same, though another's files may make room meanwhile."""
    monkeypatch.setattr(videos_module.shutil, "disk_usage", lambda path: SimpleNamespace(free=3 * 7 * 1536))
    assert sum(streamed_counts(load(two_classes, tmp_path))) == 8
    monkeypatch.undo()
    assert sum(streamed_counts(load(two_classes, tmp_path))) == 8


def test_a_full_disk_is_a_limit_too(two_classes, tmp_path, monkeypatch):
    # Clips are on the disk three times while they are made.
    free = 3 * 15 * 2 * 16 * 16 * 3
    monkeypatch.setattr(videos_module.shutil, "disk_usage", lambda path: SimpleNamespace(free=free - 1))
    assert sum(streamed_counts(load(two_classes, tmp_path / "a"))) == 1
    monkeypatch.setattr(videos_module.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    assert sum(streamed_counts(load(two_classes, tmp_path / "b"))) == 0


def test_a_file_that_changed_since_is_refused(two_classes, tmp_path):
    shutil.copytree(two_classes, tmp_path / "pets")
    clips = load(tmp_path / "pets", tmp_path / "cache", cache_limit_gb=0.5 * CLIP_GB)
    named = {video.name: place for place, video in enumerate(clips.train.clips.videos)}
    first, second = list(named)[:2]
    write_video(tmp_path / "pets" / first, counting_clip(2, first=200))
    with pytest.raises(UbenchError, match=f"must stay as they are .*, got {first}: another content"):
        clips.train.clips[named[first]]
    (tmp_path / "pets" / second).unlink()
    with pytest.raises(UbenchError, match=f"got {second}: cannot be opened: No such file"):
        clips.train.clips[[named[second]]]


def test_a_short_run_learns_the_same_from_streamed_clips(two_classes, tmp_path):
    recipe = Recipe(epochs=2, batch=4, lr=1e-3, flip=True)
    weights = []
    for limit in (1.0, 4 * CLIP_GB):
        clips = load(two_classes, tmp_path / str(limit), frames=4, size=(32, 32), cache_limit_gb=limit)
        torch.manual_seed(0)
        run = ShortRun(build(find_variant("tiny").spec, 2), clips.train, recipe, device="cpu")
        run.advance(1)
        resumed = ShortRun(build(find_variant("tiny").spec, 2), clips.train, recipe, device="cpu")
        resumed.restore(run.state())
        resumed.advance(resumed.steps)
        weights.append(resumed.model.state_dict())
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


def test_tests_and_full_trainings_read_the_same_from_streamed_clips(two_classes, tmp_path):
    model = build(find_variant("micro").spec, 2).eval()
    found = []
    for limit in (1.0, 4 * CLIP_GB):
        clips = load(two_classes, tmp_path / str(limit), frames=8, size=(32, 32), cache_limit_gb=limit)
        right = accuracy(model, clips.validation, to_input=to_input, device="cpu", batch=2)
        tested = accuracies(model, clips.validation, clips.classes, size=(32, 32), batch=2)
        plan = Plan(spec=find_variant("micro").spec, data=str(two_classes), frames=8, size=(32, 32),
                    recipe=Recipe(epochs=1, batch=4), precision="fp32", seed=0)  # fmt: skip
        trained = train(plan, clips, tmp_path / f"out{limit}", world=World(0, 1, "cpu"))
        found.append((right, tested, {name: value.tolist() for name, value in trained.model.items()}))
    assert found[0] == found[1]


# --- one ahead ---


def test_the_next_one_is_under_way_while_one_is_used():
    begun = {number: threading.Event() for number in range(3)}

    def work(number: int) -> int:
        begun[number].set()
        return number * number

    found = ahead(work, iter(range(3)))
    assert next(found) == 0
    assert begun[1].wait(10)
    assert not begun[2].is_set(), "no more than one ahead"
    assert list(found) == [1, 4]
    assert list(ahead(work, [])) == []


def test_an_error_is_raised_in_its_place():
    found = ahead(lambda number: 1 // number, [1, 0, 1])
    assert next(found) == 1
    with pytest.raises(ZeroDivisionError):
        next(found)
