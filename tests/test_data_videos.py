"""Folders of videos: what is sampled, which split it goes to, what is left out, and the cache under it."""

import json
import logging
import os
import pickle
import stat
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.videos import counting_clip, rotate, write_sound, write_video
from uniformer_bench.data import cache as cache_module
from uniformer_bench.data import load_clips
from uniformer_bench.data import splits as splits_module
from uniformer_bench.data import video as video_module
from uniformer_bench.data import videos as videos_module
from uniformer_bench.data.cache import cache_dir, cached_arrays
from uniformer_bench.data.clips import Clips
from uniformer_bench.data.listing import Video
from uniformer_bench.data.reading import read_video
from uniformer_bench.data.video import UnreadableError, read_clip, sample_indices
from uniformer_bench.errors import UbenchError
from uniformer_bench.search import session
from uniformer_bench.space_file import load_space

SPLITS = ("train", "validation", "test")


def load(root: Path, cache: Path, **changes) -> Clips:
    return load_clips(str(root), **{"frames": 2, "size": (16, 16), "seed": 0, "cache": cache, **changes})


class Recorder:
    """A watch that remembers."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.told: list[tuple[int, int]] = []

    def say(self, sentence: str) -> None:
        self.said.append(sentence)

    def decoded(self, done: int, total: int) -> None:
        self.told.append((done, total))


def make_class(folder: Path, count: int, first: int = 10) -> None:
    """`count` different videos of two frames; the grey of video i starts at first + 2 i."""
    for index in range(count):
        write_video(folder / f"{index:02}.mp4", counting_clip(2, first=first + 2 * index))


def greys(clips: Clips) -> dict[str, list[int]]:
    """The grey of the first frame of every clip, by split."""
    return {name: getattr(clips, name).clips[:, 0, 8, 8, 0].tolist() for name in SPLITS}


def read(path: Path, frames: int, size: tuple[int, int] = (16, 16)) -> tuple[np.ndarray, int]:
    row = np.zeros((frames, *size, 3), np.uint8)
    return row, read_clip(path, row).frames


@pytest.fixture(scope="module")
def two_classes(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("folders") / "pets"
    make_class(root / "cat", 10, first=20)
    make_class(root / "dog", 5, first=120)
    return root


# --- one video ---


def test_frames_come_from_the_middle_of_equal_parts(tmp_path):
    path = write_video(tmp_path / "a.mp4", counting_clip(10))
    # Ten frames in four parts of 2.5: the middles are at 1.25, 3.75, 6.25 and 8.75, in frames 1, 3, 6 and 8.
    row, count = read(path, 4)
    assert count == 10
    np.testing.assert_allclose(row[:, 8, 8, 0], [10 + 8 * t for t in (1, 3, 6, 8)], atol=2)
    np.testing.assert_array_equal(read(path, 10)[0][:, 8, 8, 0] // 4, (counting_clip(10)[:, 8, 8, 0]) // 4)


def test_a_short_video_repeats_frames_by_the_same_rule(tmp_path):
    path = write_video(tmp_path / "a.mp4", counting_clip(3))
    # Three frames in six parts of a half: the middles are at 0.25, 0.75, 1.25, 1.75, 2.25 and 2.75.
    row, count = read(path, 6)
    assert count == 3
    np.testing.assert_allclose(row[:, 8, 8, 0], [10, 10, 18, 18, 26, 26], atol=2)


@given(st.integers(1, 1000), st.integers(1, 100))
def test_sampled_frames_exist_ascend_and_mirror(available, frames):
    indices = sample_indices(available, frames)
    assert len(indices) == frames
    assert indices == sorted(indices)
    assert 0 <= indices[0]
    assert indices[-1] < available
    exact = [(part + 0.5) * available / frames for part in range(frames)]
    assert indices == [int(middle + 1e-9) for middle in exact]


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.avi", "mpeg4"), ("a.mkv", "mpeg4"), ("a.mpg", "mpeg1video"), ("a.gif", "gif"), ("a.MOV", "mpeg4")],
)
def test_other_containers_are_read_too(tmp_path, name, codec):
    clip = counting_clip(6, step=40)
    row, count = read(write_video(tmp_path / name, clip, codec), 6)
    assert count == 6
    # A GIF has few colours, and mixes the others from pixels side by side.
    np.testing.assert_allclose(row.mean((1, 2, 3)), clip[:, 8, 8, 0], atol=12 if codec == "gif" else 4)


def red_and_blue(height: int, width: int) -> np.ndarray:
    clip = np.zeros((2, height, width, 3), np.uint8)
    clip[:, :, : width // 2, 0] = 255
    clip[:, :, width // 2 :, 2] = 255
    return clip


def test_the_short_side_is_resized_and_the_centre_cropped(tmp_path):
    clip = red_and_blue(32, 96)
    clip[:, :, :16] = clip[:, :, -16:] = 255  # white ends, which the crop must lose: at half size they are 8 of 48
    row, _ = read(write_video(tmp_path / "a.mp4", clip), 1, (16, 24))
    red, blue = row[0, :, :11].reshape(-1, 3), row[0, :, 13:].reshape(-1, 3)
    assert red[:, 0].min() > 200
    assert red[:, 1:].max() < 60
    assert blue[:, 2].min() > 200
    assert blue[:, :2].max() < 60


def test_odd_and_tiny_sizes_fill_the_whole_clip(tmp_path):
    row, _ = read(write_video(tmp_path / "a.mp4", counting_clip(2, (6, 10), first=200)), 2, (17, 31))
    assert row.min() > 190


def test_rotation_in_the_header_is_honoured(tmp_path):
    path = rotate(write_video(tmp_path / "a.mp4", red_and_blue(32, 32)), 1)
    picture = read(path, 1)[0][0]
    assert picture[2, :, 0].min() > 200, "what was left is on top"
    assert picture[13, :, 2].min() > 200


@pytest.mark.parametrize("wrong", [3, 99])
def test_a_wrong_count_of_packets_changes_nothing(tmp_path, monkeypatch, wrong):
    path = write_video(tmp_path / "a.mkv", counting_clip(10))
    expected, _ = read(path, 4)
    monkeypatch.setattr(video_module, "_count_packets", lambda path: wrong)
    row, count = read(path, 4)
    assert count == 10
    np.testing.assert_array_equal(row, expected)


def truncated(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


def zeroed(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes(len(data) - middle)


def noisy(frames: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (frames, 32, 32, 3), np.uint8)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: b"", "cannot be decoded: Invalid data"),
        (lambda data: b"hello, this is text\n" * 50, "cannot be decoded: Invalid data"),
        (lambda data: bytes(len(data)), "cannot be decoded: Invalid data"),
        (lambda data: b"ffconcat version 1.0\nfile good.mp4\n", "cannot be decoded: Invalid argument"),
        (lambda data: b"#EXTM3U\n#EXTINF:1,\ngood.mp4\n#EXT-X-ENDLIST\n", "cannot be decoded"),
        (truncated, "cannot be decoded: Invalid data"),  # the index is at the end and lost
    ],
)
def test_a_damaged_file_is_refused_with_the_reason_and_no_path(tmp_path, damage, reason):
    good = write_video(tmp_path / "good.mp4", noisy(10))
    (tmp_path / "bad.mp4").write_bytes(damage(good.read_bytes()))
    with pytest.raises(UnreadableError, match=reason) as caught:
        read(tmp_path / "bad.mp4", 2)
    assert "bad.mp4" not in str(caught.value)


def test_a_video_cut_short_behind_its_index_is_refused(tmp_path):
    path = write_video(tmp_path / "a.mp4", noisy(10), "mpeg4", movflags="faststart")
    path.write_bytes(truncated(path.read_bytes()))
    with pytest.raises(UnreadableError, match=r"frame \d is damaged"):
        read(path, 2)


def test_a_video_with_most_of_its_frames_zeroed_is_refused(tmp_path):
    path = write_video(tmp_path / "a.avi", noisy(30), "mpeg4")
    data = path.read_bytes()
    start = data.index(b"movi") + (len(data) - data.index(b"movi")) // 4
    path.write_bytes(data[:start] + bytes(len(data) - start))
    with pytest.raises(UnreadableError, match=r"only \d of 30 frames can be decoded"):
        read(path, 2)


def test_sound_alone_is_refused(tmp_path):
    with pytest.raises(UnreadableError, match="no video in the file"):
        read(write_sound(tmp_path / "a.mp4"), 2)


def test_reading_is_bounded(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", counting_clip(4))
    with monkeypatch.context() as patch:
        patch.setattr(video_module, "MAX_FRAMES", 3)
        with pytest.raises(UnreadableError, match="more than 3 frames"):
            read(path, 2)
    with monkeypatch.context() as patch:
        patch.setattr(video_module, "MAX_PIXELS", 255)
        with pytest.raises(UnreadableError, match="a frame of 16 x 16 pixels is too large"):
            read(path, 2)


def test_a_file_without_frames_and_one_that_changes_are_refused(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", counting_clip(4))
    found = iter([2, 3, 0])
    decoded = video_module._decoded
    monkeypatch.setattr(video_module, "_decoded", lambda *file: list(decoded(*file))[: next(found)])
    with pytest.raises(UnreadableError, match="the file changed while it was read"):
        read(path, 2)
    with pytest.raises(UnreadableError, match="no frame can be decoded"):
        read(path, 2)


# --- splits ---


def test_a_plain_folder_is_split_by_class_and_seed(two_classes, tmp_path):
    clips = load(two_classes, tmp_path)
    assert clips.classes == ("cat", "dog")
    # A fifth of 10 and of 5 for validation and test each; the rest is for training.
    assert clips.card["counts"] == {"train": 9, "validation": 3, "test": 3}
    assert clips.card["class_counts"] == {"train": [6, 3], "validation": [2, 1], "test": [2, 1]}
    found = greys(clips)
    for name in SPLITS:
        split = getattr(clips, name)
        assert split.clips.shape == (len(split.labels), 2, 16, 16, 3)
        assert (split.clips.dtype, split.labels.dtype) == (np.uint8, np.int64)
        assert split.clips.flags.c_contiguous
        assert [int(grey > 100) for grey in found[name]] == split.labels.tolist(), "dogs are the bright ones"
    everything = sorted(grey for some in found.values() for grey in some)
    np.testing.assert_allclose(everything, [*range(20, 40, 2), *range(120, 130, 2)], atol=1.9)


def test_the_same_seed_gives_the_same_split_and_another_seed_another(two_classes, tmp_path):
    first = load(two_classes, tmp_path / "a")
    again = load(two_classes, tmp_path / "b")
    other = load(two_classes, tmp_path / "a", seed=1)
    for name in SPLITS:
        np.testing.assert_array_equal(getattr(first, name).clips, getattr(again, name).clips)
        assert len(getattr(other, name).labels) == len(getattr(first, name).labels)
    assert first.card == again.card
    assert first.card["hash"] != other.card["hash"]
    assert greys(first) != greys(other)


def test_another_class_leaves_the_others_where_they_are(two_classes, tmp_path):
    before = greys(load(two_classes, tmp_path / "cache"))
    (tmp_path / "more").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "more" / name).mkdir()
        for path in (two_classes / name).iterdir():
            os.link(path, tmp_path / "more" / name / path.name)
    make_class(tmp_path / "more" / "bird", 3, first=200)
    after = greys(load(tmp_path / "more", tmp_path / "cache"))
    assert {name: [grey for grey in some if grey < 190] for name, some in after.items()} == before


@pytest.mark.parametrize(("count", "share"), [(3, 1), (4, 1), (7, 1), (8, 2), (12, 2), (13, 3), (100, 20)])
def test_shares_are_a_fifth_rounded_and_at_least_one(count, share):
    videos = [Video(Path("x"), "x", 0, None, None)] * count
    readings = [splits_module.Reading(str(index), 1, None) for index in range(count)]
    dealt = splits_module.deal(videos, readings, [None] * count, ["x"], 0)
    assert {name: len(some) for name, some in dealt.items()} == {
        "train": count - 2 * share, "validation": share, "test": share,
    }  # fmt: skip
    assert sorted(index for some in dealt.values() for index in some) == list(range(count))


def test_copies_of_a_file_stay_in_one_split(tmp_path):
    make_class(tmp_path / "pets" / "cat", 3, first=20)
    make_class(tmp_path / "pets" / "dog", 3, first=120)
    data = (tmp_path / "pets/cat/00.mp4").read_bytes()
    for index in range(6):
        (tmp_path / f"pets/cat/copy{index}.mp4").write_bytes(data)
    for seed in range(4):
        clips = load(tmp_path / "pets", tmp_path / "cache", seed=seed)
        holders = [name for name, some in greys(clips).items() if any(abs(grey - 20) < 1.9 for grey in some)]
        assert len(holders) == 1
        assert sum(clips.card["counts"].values()) == 12


def test_a_file_in_two_classes_is_in_neither(tmp_path):
    make_class(tmp_path / "pets" / "cat", 12, first=20)
    make_class(tmp_path / "pets" / "dog", 9, first=120)
    (tmp_path / "pets/dog/twin.mp4").write_bytes((tmp_path / "pets/cat/03.mp4").read_bytes())
    clips = load(tmp_path / "pets", tmp_path / "cache")
    assert clips.card["left_out"] == [
        {"path": "cat/03.mp4", "reason": "the same file as dog/twin.mp4 of another class"},
        {"path": "dog/twin.mp4", "reason": "the same file as cat/03.mp4 of another class"},
    ]
    assert sum(clips.card["counts"].values()) == 20


def make_splits(root: Path, counts: dict[str, int]) -> Path:
    for place, (name, count) in enumerate(counts.items()):
        make_class(root / name / "cat", count, first=20 + 30 * place)
        make_class(root / name / "dog", count, first=130 + 30 * place)
    return root


@pytest.mark.parametrize("validation", ["val", "validation"])
def test_split_folders_are_the_splits(tmp_path, validation):
    root = make_splits(tmp_path / "pets", {"train": 3, validation: 2, "test": 1})
    clips = load(root, tmp_path / "cache")
    assert clips.card["class_counts"] == {"train": [3, 3], "validation": [2, 2], "test": [1, 1]}
    found = greys(clips)
    np.testing.assert_allclose(found["validation"], [50, 52, 160, 162], atol=1.9)
    np.testing.assert_allclose(found["test"], [80, 190], atol=2)


def test_without_a_test_folder_half_of_validation_is_the_test(tmp_path):
    clips = load(make_splits(tmp_path / "pets", {"train": 3, "val": 3}), tmp_path / "cache")
    assert clips.card["class_counts"] == {"train": [3, 3], "validation": [2, 2], "test": [1, 1]}


def test_of_copies_across_given_splits_the_test_keeps_its_own(tmp_path):
    root = make_splits(tmp_path / "pets", {"train": 8, "val": 2, "test": 2})
    data = (root / "test/cat/01.mp4").read_bytes()
    (root / "val/cat/01.mp4").write_bytes(data)
    (root / "train/cat/07.mp4").write_bytes(data)
    clips = load(root, tmp_path / "cache")
    assert clips.card["left_out"] == [
        {"path": "train/cat/07.mp4", "reason": "the same file as test/cat/01.mp4 of another split"},
        {"path": "val/cat/01.mp4", "reason": "the same file as test/cat/01.mp4 of another split"},
    ]
    assert clips.card["class_counts"] == {"train": [7, 8], "validation": [1, 2], "test": [2, 2]}


def test_classes_may_be_called_train_and_test_and_worse(tmp_path):
    hostile = ["train", "test", "<b>", "two words", "ünï 猫", "'; --", os.fsdecode(b"\xff")]
    for place, name in enumerate(hostile):
        make_class(tmp_path / "pets" / name, 3, first=20 + 10 * place)
    (tmp_path / "pets" / ".hidden").mkdir()
    (tmp_path / "pets" / "train" / "originals").mkdir()  # yet not a split: it holds videos of its own
    (tmp_path / "pets" / "train" / "._00.mp4").write_bytes(b"left by another system")
    (tmp_path / "pets" / "train" / "notes.txt").write_bytes(b"")
    clips = load(tmp_path / "pets", tmp_path / "cache")
    assert set(clips.classes) == {*hostile[:-1], "�"}
    assert clips.card["classes"] == list(clips.classes)
    assert clips.card["counts"] == {"train": 7, "validation": 7, "test": 7}
    json.dumps(clips.card, ensure_ascii=False).encode()


# --- what is left out ---


def test_unreadable_files_are_listed_and_nothing_takes_their_place(tmp_path):
    root = tmp_path / "pets"
    make_class(root / "cat", 30, first=20)
    make_class(root / "dog", 30, first=120)
    (root / "cat/empty.mp4").write_bytes(b"")
    (root / "cat/text.avi").write_bytes(b"no video\n" * 9)
    (root / "dog/nowhere.mp4").symlink_to(root / "gone.mp4")
    (root / "dog/outside.mp4").symlink_to(write_video(tmp_path / "secret.mp4", counting_clip(2)))
    (root / "dog/inside.mp4").symlink_to("00.mp4")
    os.mkfifo(root / "dog/pipe.mp4")
    clips = load(root, tmp_path / "cache", frames=3)
    reasons = {entry["path"]: entry["reason"] for entry in clips.card["left_out"]}
    assert reasons == {
        "cat/empty.mp4": "cannot be decoded: Invalid data found when processing input",
        "cat/text.avi": "cannot be decoded: Invalid data found when processing input",
        "dog/nowhere.mp4": "a link that leads nowhere",
        "dog/outside.mp4": "a link that leads out of the data folder",
        "dog/pipe.mp4": "not a regular file",
    }
    assert sum(clips.card["counts"].values()) == 61
    assert clips.card["short_clips"] == 61
    assert str(tmp_path) not in json.dumps(clips.card)
    assert (clips.card["name"], clips.card["kind"], clips.card["size"]) == ("pets", "folder", [16, 16])


def test_a_file_that_cannot_be_opened_is_listed(tmp_path):
    video = Video(tmp_path / "gone.mp4", "a/gone.mp4", 0, None, None)
    reading, _ = read_video(video, np.zeros((1, 16, 16, 3), np.uint8))
    assert reading.fault == "cannot be opened: No such file or directory"


# --- errors ---


@pytest.mark.parametrize(
    ("build", "rule"),
    [
        (lambda root: None, "must exist and be a folder or a list"),
        (lambda root: root.mkdir(), "a sub-folder of videos for each class, got no sub-folder"),
        (lambda root: make_class(root, 1), "a sub-folder of videos for each class, got no sub-folder"),
        (lambda root: make_class(root / "cat", 3), "at least 2 classes .*, got 1"),
        (lambda root: (root / "cat").mkdir(parents=True), "a class folder must hold videos .* got none in .*cat"),
        (lambda root: make_splits(root, {"val": 1, "test": 1}), r"must hold train/, and val/ .*\['test', 'val'\]"),
        (lambda root: make_splits(root, {"train": 1, "test": 1}), "readable video, got none for validation"),
        (lambda root: make_splits(root, {"train": 1, "val": 1, "validation": 1}), "got .*'val', 'validation'"),
        (lambda root: make_splits(root, {"train": 1, "val": 1}), "must hold a readable video, got none for test"),
        (lambda root: make_class(make_splits(root, {"train": 1, "val": 1}) / "val" / "cow", 1), "got 'cow' in val/"),
        (lambda root: [make_class(root / n, 2, ord(n)) for n in "ad"], "at least 3 different .* got 2 in 'a'"),
    ],
)  # fmt: skip
def test_a_folder_that_breaks_a_rule_is_one_line(tmp_path, build, rule):
    build(tmp_path / "pets")
    with pytest.raises(UbenchError, match=rule) as caught:
        load(tmp_path / "pets", tmp_path / "cache")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [{"frames": 0}, {"size": (0, 16)}, {"seed": -1}, {"stride": -1}])
def test_arguments_out_of_range_are_one_line(two_classes, tmp_path, change):
    with pytest.raises(UbenchError, match="frames and size must be positive, stride and seed not negative, got"):
        load(two_classes, tmp_path, **change)


def test_a_tenth_bad_passes_and_more_is_an_error_that_names_the_first(tmp_path):
    root = tmp_path / "pets"
    make_class(root / "cat", 9, first=20)
    make_class(root / "dog", 9, first=120)
    (root / "cat/bad_a.mp4").write_bytes(b"")
    (root / "dog/bad_b.mp4").write_bytes(b"")
    assert len(load(root, tmp_path / "cache").card["left_out"]) == 2
    (root / "dog/00.mp4").unlink()
    with pytest.raises(
        UbenchError, match=r"at most 0\.1 of the videos .* got 2 of 19: .* cat/bad_a\.mp4: cannot be decoded"
    ):
        load(root, tmp_path / "cache")


def test_nothing_readable_is_an_error(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        (tmp_path / "pets" / name / "a.mp4").write_bytes(b"")
    with pytest.raises(UbenchError, match=r"can be read, got none in 2; the first is cat/a\.mp4"):
        load(tmp_path / "pets", tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == [], "a failure leaves no trace"


def test_an_unreadable_folder_is_an_error(two_classes, tmp_path, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(UbenchError, match=r"a data folder must be readable, got .*: Permission denied"):
        load(two_classes, tmp_path)


# --- the cache ---


def test_a_second_load_reads_the_cache_and_tells_no_progress(two_classes, tmp_path, monkeypatch):
    watch = Recorder()
    first = load(two_classes, tmp_path, watch=watch)
    assert watch.told == [(done, 15) for done in range(1, 16)]
    assert watch.said == ["a folder with a sub-folder for each class"]
    monkeypatch.setattr(videos_module, "_make", None)  # would raise if it were called
    second = load(two_classes, tmp_path)
    np.testing.assert_array_equal(first.train.clips, second.train.clips)
    assert first.card == second.card
    assert isinstance(second.train.clips, np.memmap)


def test_a_changed_file_is_another_entry(tmp_path):
    make_class(tmp_path / "pets" / "cat", 3, first=20)
    make_class(tmp_path / "pets" / "dog", 3, first=120)
    first = load(tmp_path / "pets", tmp_path / "cache")
    write_video(tmp_path / "pets/cat/00.mp4", counting_clip(2, first=60))
    second = load(tmp_path / "pets", tmp_path / "cache")
    assert first.card["hash"] != second.card["hash"]
    assert any(abs(grey - 60) < 3 for some in greys(second).values() for grey in some)


def numbers() -> dict[str, np.ndarray]:
    return {"a": np.arange(1000), "empty": np.zeros((0, 3), np.uint8)}


def never() -> dict[str, np.ndarray]:
    raise AssertionError("the cache was there")


def test_arrays_are_made_once_and_private(tmp_path):
    for make in (numbers, never):
        arrays = cached_arrays(tmp_path / "new", "key", make)
        np.testing.assert_array_equal(arrays["a"], np.arange(1000))
        assert arrays["empty"].shape == (0, 3)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["key"]
    assert stat.S_IMODE((tmp_path / "new" / "key").stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "tear",
    [
        lambda key: (key / "a.npy").unlink(),
        lambda key: (key / "a.npy").write_bytes((key / "a.npy").read_bytes()[:500]),
        lambda key: (key / "a.npy").write_bytes(b""),
        lambda key: np.save(key / "a.npy", np.arange(999)),
        lambda key: np.save(key / "a.npy", np.arange(1, 1001)),
        lambda key: (key / "hashes.json").write_text("{"),
        lambda key: (key / "hashes.json").write_text("[]"),
        lambda key: (key / "contents.json").write_text("{"),
        lambda key: (key / "contents.json").write_text("[]"),
        lambda key: (key / "contents.json").unlink(),
        lambda key: key.rename(key.parent / "elsewhere") and key.write_text("a file"),
    ],
)
def test_torn_arrays_are_made_anew_with_a_warning(tmp_path, caplog, tear):
    cached_arrays(tmp_path, "key", numbers)
    tear(tmp_path / "key")
    with caplog.at_level(logging.WARNING):
        arrays = cached_arrays(tmp_path, "key", numbers)
    assert "are torn" in caplog.text
    np.testing.assert_array_equal(arrays["a"], np.arange(1000))
    cached_arrays(tmp_path, "key", never)


def test_a_copied_cache_is_as_good_and_an_old_one_is_trusted(tmp_path):
    cached_arrays(tmp_path / "one", "key", numbers)
    (tmp_path / "two/key").mkdir(parents=True)
    for path in (tmp_path / "one/key").iterdir():
        (tmp_path / "two/key" / path.name).write_bytes(path.read_bytes())  # the same bytes at another time
    cached_arrays(tmp_path / "two", "key", never)
    (tmp_path / "two/key/hashes.json").unlink()
    cached_arrays(tmp_path / "two", "key", never)


def make_slowly(directory: Path) -> int:
    import time

    def make() -> dict[str, np.ndarray]:
        time.sleep(0.3)
        return numbers()

    return int(cached_arrays(directory, "key", make)["a"].sum())


def test_two_processes_that_make_the_same_both_end_well(tmp_path):
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        assert list(pool.map(make_slowly, [tmp_path, tmp_path])) == [499500, 499500]
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_who_comes_second_takes_what_the_first_published(tmp_path):
    def slow() -> dict[str, np.ndarray]:
        cached_arrays(tmp_path, "key", numbers)
        return {"a": np.zeros(3)}

    np.testing.assert_array_equal(cached_arrays(tmp_path, "key", slow)["a"], np.arange(1000))
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_what_making_raises_passes_through(tmp_path):
    def fail() -> dict[str, np.ndarray]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_arrays(tmp_path, "key", fail)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UbenchError, match=r"the cache folder must be writable, got .*file/sub: Not a directory"):
        cached_arrays(tmp_path / "file" / "sub", "key", numbers)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(cache_module.np, "save", full)
        with pytest.raises(UbenchError, match="No space left on device; name another one"):
            cached_arrays(tmp_path, "key", numbers)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", full)
        with pytest.raises(UbenchError, match="No space left on device; name another one"):
            cached_arrays(tmp_path, "key", numbers)


def test_a_cache_that_changes_in_use_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "_publish", lambda new, folder: None)
    with pytest.raises(UbenchError, match="the cache must be left alone while it is in use"):
        cached_arrays(tmp_path, "key", numbers)


def test_the_cache_is_where_it_is_told_to_be(tmp_path, monkeypatch):
    assert cache_dir(tmp_path) == tmp_path
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert cache_dir(None).name == "uniformer_bench"


# --- dense sampling, what may be left out ---


def test_dense_sampling_takes_every_nth_frame_about_the_middle(tmp_path):
    # Four frames, every third, span 10 of 20: they start at frame 5.
    assert sample_indices(20, 4, 3) == [5, 8, 11, 14]
    # Of 21 frames, 11 are left: five before.
    assert sample_indices(21, 4, 3) == [5, 8, 11, 14]
    assert sample_indices(4, 4, 1) == [0, 1, 2, 3]
    assert sample_indices(5, 4, 2) == [0, 2, 4, 4], "a short video ends on its last frame"
    path = write_video(tmp_path / "a.mp4", counting_clip(20))
    row = np.zeros((4, 16, 16, 3), np.uint8)
    read_clip(path, row, 3)
    np.testing.assert_allclose(row[:, 8, 8, 0], [10 + 8 * t for t in (5, 8, 11, 14)], atol=2)


def test_the_stride_makes_other_clips(two_classes, tmp_path):
    uniform, dense = load(two_classes, tmp_path), load(two_classes, tmp_path, stride=1)
    assert uniform.card["hash"] != dense.card["hash"]
    assert dense.card["stride"] == 1


def test_what_a_lenient_load_kept_is_refused_to_a_strict_one(tmp_path):
    make_class(tmp_path / "pets" / "cat", 3, first=20)
    make_class(tmp_path / "pets" / "dog", 3, first=120)
    (tmp_path / "pets/cat/bad.mp4").write_bytes(b"")
    watch = Recorder()
    load(tmp_path / "pets", tmp_path / "cache", max_bad=0.2, watch=watch)
    assert watch.said[1].startswith("1 of 7 videos left out, for every trial alike; the first is cat/bad.mp4: cannot")
    with pytest.raises(UbenchError, match=r"at most 0\.1 of the videos may be left out, got 1 of 7"):
        load(tmp_path / "pets", tmp_path / "cache")


def test_too_many_bad_ones_are_the_reason_where_a_class_runs_out(tmp_path):
    make_class(tmp_path / "pets" / "cat", 2, first=20)
    make_class(tmp_path / "pets" / "dog", 3, first=120)
    (tmp_path / "pets/cat/bad.mp4").write_bytes(b"")
    with pytest.raises(UbenchError, match=r"at most 0\.1 of the videos may be left out, got 1 of 6"):
        load(tmp_path / "pets", tmp_path / "cache")
    with pytest.raises(UbenchError, match="at least 3 different readable videos"):
        load(tmp_path / "pets", tmp_path / "cache", max_bad=0.5)


def test_missing_files_are_told_before_anything_is_decoded(tmp_path, monkeypatch):
    make_class(tmp_path, 4, first=20)
    (tmp_path / "list.txt").write_text("".join(f"{i:02}.mp4 {i % 2}\n" for i in range(6)))
    monkeypatch.setattr(videos_module, "_make", None)
    rule = r"got 2 of 6: .* --data-root, .* the first is 04\.mp4: no such file"
    with pytest.raises(UbenchError, match=rule):
        load(tmp_path / "list.txt", tmp_path / "cache")


def test_the_card_tells_what_the_data_were_taken_for(tmp_path):
    for i in range(6):
        write_video(tmp_path / f"{i:02}.mp4", counting_clip(2, first=20 + 30 * i))
    (tmp_path / "list.txt").write_text("".join(f"{i:02}.mp4 {i % 2 + 1}\n" for i in range(6)))
    clips = load(tmp_path / "list.txt", tmp_path / "cache")
    assert (clips.card["name"], clips.card["kind"], clips.classes) == ("list.txt", "list", ("1", "2"))
    assert (
        clips.card["detected"]
        == "list.txt is a list separated by spaces; labels are numbers from 1 to 2, counted from 1"
    )
    everything = {
        round((float(grey) - 20) / 30): label
        for split in clips[:3]
        for grey, label in zip(split.clips[:, 0, 8, 8, 0], split.labels, strict=True)
    }
    assert everything == {i: i % 2 for i in range(6)}


@pytest.mark.parametrize(
    "option", [{"root": Path("x")}, {"validation": Path("x")}, {"source_pattern": "x"}, {"stride": 1}]
)
def test_options_of_videos_are_refused_for_builtin_clips(option):
    with pytest.raises(UbenchError, match="are for videos, got builtin clips"):
        load_clips("builtin", 8, (32, 32), 0, None, **option)


def test_a_search_passes_its_data_on_as_plain_data(tmp_path):
    for i in range(6):
        write_video(tmp_path / f"{i}.mp4", counting_clip(2, first=20 + 30 * i))
    (tmp_path / "list.txt").write_text("".join(f"{i}.mp4 {i % 2}\n" for i in range(6)))
    data = {"root": tmp_path, "validation": None, "source_pattern": None, "stride": 1, "max_bad": 0.0}
    keys = dict.fromkeys(session.Options._fields[:-1])
    keys |= {"data": str(tmp_path / "list.txt"), "cache": tmp_path / "cache", "device": "cpu", "precision": "fp32"}
    options = session.Options(**keys | {"space": load_space("tiny"), "seed": 0}, data_options=data)
    watch = Recorder()
    question, _, _ = session._question(options, watch)
    assert len(watch.told) == 6
    assert data.items() <= question.data.items()
    there = load_clips(**pickle.loads(pickle.dumps(question.data)))
    assert there.card == question.clips.card
    assert there.card["stride"] == 1
