"""Folders of pictures as clips: order, sampling, damage."""

import os
from pathlib import Path

import numpy as np
import pytest

from tests.videos import counting_clip, textured_clip, write_picture
from uniformer_bench.data import load_clips, pictures
from uniformer_bench.data.pictures import read_pictures
from uniformer_bench.data.video import UnreadableError, sample_indices


def write_pictures(folder: Path, clip: np.ndarray, suffix: str = ".png", name: str = "frame{}") -> Path:
    for index, picture in enumerate(clip):
        write_picture(folder / (name.format(index) + suffix), picture)
    return folder


def read(folder: Path, frames: int, stride: int = 0) -> np.ndarray:
    row = np.zeros((frames, 16, 16, 3), np.uint8)
    read_pictures(folder, row, stride)
    return row


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPEG"])
def test_frames_are_in_the_order_of_their_numbers(tmp_path, suffix):
    clip = counting_clip(12, first=5, step=20)
    folder = write_pictures(tmp_path / "clip", clip, suffix)  # frame10 sorts before frame2 as text
    (folder / "notes.txt").write_text("x")
    (folder / "._frame1.png").write_bytes(b"x")
    np.testing.assert_allclose(read(folder, 12), clip, atol=3)
    np.testing.assert_allclose(read(folder, 5), clip[sample_indices(12, 5)], atol=3)
    facts, _ = read_pictures(folder, np.zeros((2, 8, 8, 3), np.uint8))
    assert (facts.frames, facts.width, facts.height, facts.rate, facts.seconds) == (12, 16, 16, None, None)


def test_png_is_exact_and_too_few_frames_repeat(tmp_path):
    clip = textured_clip(2, (16, 16), 0)
    np.testing.assert_array_equal(read(write_pictures(tmp_path / "a", clip), 4), clip[[0, 0, 1, 1]])


def test_the_hash_is_of_the_pictures_that_are_used(tmp_path):
    clip = textured_clip(6, (16, 16), 0)
    one, two = write_pictures(tmp_path / "a", clip), write_pictures(tmp_path / "b", clip, name="{}")
    row = np.zeros((2, 16, 16, 3), np.uint8)
    assert read_pictures(one, row)[1] == read_pictures(two, row)[1]
    write_picture(two / "1.png", clip[0])  # the second of six is one of the two in the middle of three
    assert read_pictures(one, row)[1] != read_pictures(two, row)[1]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def zero(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(40) + data[len(data) // 2 + 40 :])


@pytest.mark.parametrize(
    ("suffix", "damage", "reason"),
    [
        (".png", truncate, r"frame1\.png cannot be decoded: Invalid data"),
        (".png", zero, r"frame1\.png cannot be decoded: Invalid data"),
        (".png", lambda path: path.write_bytes(b""), r"frame1\.png is damaged"),
        (".png", lambda path: path.write_bytes(b"no picture"), r"frame1\.png cannot be decoded"),
        (".jpg", truncate, r"frame1\.jpg was cut short"),
        (".jpg", lambda path: path.write_bytes(b"no picture\xff\xd9"), r"frame1\.jpg cannot be decoded"),
        (".png", lambda path: (path.unlink(), os.mkfifo(path)), r"frame1\.png is not a regular file"),
    ],
)
def test_a_damaged_picture_is_refused_by_its_name(tmp_path, suffix, damage, reason):
    folder = write_pictures(tmp_path / "clip", textured_clip(3, (64, 64), 0), suffix)
    damage(folder / f"frame1{suffix}")
    with pytest.raises(UnreadableError, match=reason):
        read(folder, 3)


def test_what_is_too_large_or_not_there_is_refused(tmp_path, monkeypatch):
    folder = write_pictures(tmp_path / "clip", textured_clip(1, (16, 16), 0))
    with monkeypatch.context() as patch:
        patch.setattr(pictures, "MAX_BYTES", 10)
        with pytest.raises(UnreadableError, match=r"frame0\.png is larger than 10 bytes"):
            read(folder, 1)
    with monkeypatch.context() as patch:
        patch.setattr(pictures, "MAX_PIXELS", 255)
        with pytest.raises(UnreadableError, match=r"frame0\.png cannot be decoded"):
            read(folder, 1)
    (folder / "frame0.png").unlink()
    with pytest.raises(UnreadableError, match="a folder without pictures"):
        read(folder, 1)


def test_folders_of_pictures_become_clips(tmp_path):
    for place in range(8):
        clip = counting_clip(3, first=20 + 20 * place)
        write_pictures(tmp_path / "data" / ("cat", "dog")[place % 2] / f"c{place}", clip)
    (tmp_path / "data/cat/c0/frame1.png").write_bytes(b"")
    clips = load_clips(str(tmp_path / "data"), 3, (16, 16), 0, tmp_path / "cache", max_bad=0.2)
    assert clips.card["left_out"] == [{"path": "cat/c0", "reason": "frame1.png is damaged"}]
    greys = sorted(int(grey) for split in clips[:3] for grey in split.clips[:, 0, 8, 8, 0])
    assert greys == [20 + 20 * place for place in range(1, 8)]
