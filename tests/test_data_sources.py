"""Which format a path is, and the clips, labels, splits and sources that each format lists."""

import json
import os
from pathlib import Path

import pytest

from uniformer_bench.data.listing import Listing
from uniformer_bench.data.lists import parse_list
from uniformer_bench.data.sources import read_listing
from uniformer_bench.errors import UbenchError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def listed(folder: Path, name: str, text: str, **options) -> Listing:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return read_listing(folder / name, **options)


def summary(listing: Listing) -> list[tuple[str, str, str | None]]:
    """Name, class and split of every clip."""
    return [(video.name, listing.classes[video.label], video.split) for video in listing.videos]


# --- lists ---


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a/1.mp4 cat\nb/2.mp4 dog\n", "separated by spaces"),
        ("a/1.mp4,cat\nb/2.mp4,dog\n", "separated by commas"),
        ("a/1.mp4\tcat\nb/2.mp4\tdog", "separated by tabs"),
        ('# made by hand\n\n"a/1.mp4", cat\n"b/2.mp4", dog\n', "separated by commas"),
        ("\ufeffa/1.mp4 cat\r\nb/2.mp4   dog\r\n", "separated by spaces"),
        ("a/1.mp4 31 cat\nb/2.mp4 40 dog\n", "separated by spaces"),
        ("path,label\na/1.mp4,cat\nb/2.mp4,dog\n", "separated by commas"),
        ("class\tfps\tvideo\ncat\t25\ta/1.mp4\ndog\t25\tb/2.mp4\n", "separated by tabs"),
    ],
)
def test_a_list_is_read_whatever_separates_its_fields(tmp_path, text, said):
    touch(tmp_path, "a/1.mp4", "b/2.mp4")
    listing = listed(tmp_path, "list.txt", text)
    assert summary(listing) == [("a/1.mp4", "cat", None), ("b/2.mp4", "dog", None)]
    assert [video.fault for video in listing.videos] == [None, None]
    assert listing.kind == "list"
    assert said in listing.detected
    assert "labels are names" in listing.detected


def test_with_spaces_between_fields_paths_and_labels_may_hold_spaces_too():
    lines = parse_list("my clips/a b.MP4 riding a bike\nframes_of_c sleeping\n", "x")
    assert [(row.paths[0], row.label) for row in lines.rows] == [
        ("my clips/a b.MP4", "riding a bike"), ("frames_of_c", "sleeping"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("numbers", "classes", "said"),
    [
        ((0, 1, 1, 2), ("0", "1", "2"), "labels are numbers from 0 to 2, counted from 0"),
        ((1, 2, 3, 10), ("1", "2", "3", "10"), "from 1 to 10 (4 of them, the others have no clips), counted from 1"),
        ((1, 2, 3, 3), ("1", "2", "3"), "labels are numbers from 1 to 3, counted from 1"),
        ((7, 5, 6, 5), ("5", "6", "7"), "labels are numbers from 5 to 7"),
    ],
)  # fmt: skip
def test_labels_that_are_numbers_are_told_from_names(tmp_path, numbers, classes, said):
    listing = listed(tmp_path, "list.csv", "".join(f"{i}.mp4,{n}\n" for i, n in enumerate(numbers)))
    assert listing.classes == classes
    assert [int(listing.classes[video.label]) for video in listing.videos] == list(numbers)
    assert said in listing.detected


def test_a_validation_list_that_counts_from_elsewhere_is_shifted(tmp_path):
    (tmp_path / "val.txt").write_text("x.mp4 0\ny.mp4 2\n")
    listing = listed(tmp_path, "train.txt", "a.mp4 1\nb.mp4 2\nc.mp4 3\n", validation=tmp_path / "val.txt")
    assert summary(listing) == [
        ("a.mp4", "1", "train"), ("b.mp4", "2", "train"), ("c.mp4", "3", "train"),
        ("x.mp4", "1", "validation"), ("y.mp4", "3", "validation"),
    ]  # fmt: skip
    assert "those of the validation list are -1 from there" in listing.detected
    # A list that fits as it is is left alone, though shifted it would fit as well.
    (tmp_path / "val.txt").write_text("x.mp4 1\ny.mp4 2\n")
    listing = listed(tmp_path, "train.txt", "a.mp4 1\nb.mp4 2\nc.mp4 3\n", validation=tmp_path / "val.txt")
    assert [listing.classes[video.label] for video in listing.videos[3:]] == ["1", "2"]


def test_columns_name_splits_and_sources(tmp_path):
    text = "path,label,split,source\na.mp4,x,train,s1\nb.mp4,y,train,s2\nc.mp4,x,VAL,s3\nd.mp4,y,test,\n"
    listing = listed(tmp_path, "list.csv", text)
    assert [video.split for video in listing.videos] == ["train", "train", "validation", "test"]
    assert [video.source for video in listing.videos] == ["s1", "s2", "s3", None]
    assert "cut from 3 sources, 1 clips from none that is named" in listing.detected


def test_one_split_alone_is_dealt_anew(tmp_path):
    listing = listed(tmp_path, "list.csv", "path,label,split\na.mp4,x,train\nb.mp4,y,train\n")
    assert [video.split for video in listing.videos] == [None, None]


def test_a_pattern_names_the_source(tmp_path):
    text = "cat/tape1_a.mp4 cat\ncat/tape1_b.mp4 cat\ndog/tape2_a.mp4 dog\ndog/other.mp4 dog\n"
    listing = listed(tmp_path, "list.txt", text, source_pattern=r"(tape\d)_")
    assert [video.source for video in listing.videos] == ["tape1", "tape1", "tape2", None]
    whole = listed(tmp_path, "list.txt", text, source_pattern=r"tape\d")
    assert [video.source for video in whole.videos] == [video.source for video in listing.videos]


def test_paths_are_in_the_root_that_is_named(tmp_path):
    touch(tmp_path / "videos", "a.mp4")
    absolute = tmp_path / "videos" / "b.mp4"
    text = f"./x/../a.mp4 cat\n{absolute} dog\n"
    listing = listed(tmp_path / "lists", "list.txt", text, root=tmp_path / "videos")
    assert [(video.name, video.fault) for video in listing.videos] == [("a.mp4", None), ("b.mp4", "no such file")]


@pytest.mark.parametrize("path", ["../a.mp4", "x/../../a.mp4", "/etc/passwd", ".", "a\0.mp4"])
def test_a_path_that_leads_out_of_its_root_is_refused_with_its_line(tmp_path, path):
    with pytest.raises(UbenchError, match=r"must stay inside its root, got .* at list\.txt:2"):
        listed(tmp_path, "list.txt", f"b.mp4\tcat\n{path}\tdog\n")


def test_links_in_a_list_do_not_lead_out_either(tmp_path):
    touch(tmp_path, "secret.mp4", "root/a.mp4")
    (tmp_path / "root/out.mp4").symlink_to(tmp_path / "secret.mp4")
    os.mkfifo(tmp_path / "root/pipe.mp4")
    listing = listed(tmp_path / "root", "list.txt", "a.mp4 x\nout.mp4 y\npipe.mp4 y\n")
    assert [video.fault for video in listing.videos] == [
        None, "a link that leads out of the data folder", "not a regular file",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", r"a list must have lines, got none in list\.txt"),
        ("path,label\n", r"must have lines under its header, got none in list\.txt"),
        ("a.mp4 x\nb.mp4\n", r"a line must be a path and a label .* got 1 fields at list\.txt:2"),
        ("a.mp4,x\nb.mp4,y,z\n", r"got 3 fields at list\.txt:2"),
        ("a.mp4,x\n,y\n", r"got 2 fields at list\.txt:2"),
        ("path,label\na.mp4,x\nb.mp4,\n", r"every clip must have a label, got none at list\.txt:3"),
        ("path,split,label\na.mp4,train,x\nb.mp4,x\n", r"a field for each column of the header, got 2 at list\.txt:3"),
        ("path,label,split\na.mp4,x,train\nb.mp4,y,often\n", r"must be train, val or test, got 'often' at list\.txt:3"),
        ("path,label,split\na.mp4,x,train\nb.mp4,x,val\nc.mp4,x,\n", r"its split or none, got none at list\.txt:4"),
        ("a.mp4 x\nb.mp4 x\n", "at least 2 classes .* got 1"),
        ("path,label,split\na.mp4,x,train\nb.mp4,z,train\nc.mp4,y,val\n", r"got 'y' in list\.txt:4 alone"),
        ("label,youtube_id,time_start,time_end\na,b,soon,later\n", r"seconds, got 'soon' to 'later' at list\.txt:2"),
        ("a.mp4," + "x" * 200_000 + "\nb.mp4,y\n", r"fields must be shorter .* at list\.txt:1"),
    ],
)  # fmt: skip
def test_a_list_that_breaks_a_rule_is_one_line_with_its_place(tmp_path, text, rule):
    with pytest.raises(UbenchError, match=rule) as caught:
        listed(tmp_path, "list.txt", text)
    assert "\n" not in str(caught.value)


def test_options_that_break_a_rule_are_one_line(tmp_path):
    text = "a.mp4 x\nb.mp4 y\n"
    for options, rule in (
        ({"source_pattern": "("}, "must be a regular expression"),
        ({"source_pattern": "z9"}, r"must match the clips' names, got 'z9' for 'a\.mp4'"),
        ({"root": tmp_path / "none"}, "must exist and be a folder, got .*none"),
        ({"validation": tmp_path / "none"}, "must exist and be a folder or a list, got .*none"),
    ):
        with pytest.raises(UbenchError, match=rule):
            listed(tmp_path, "list.txt", text, **options)
    (tmp_path / "held.csv").write_text("path,label,split\na.mp4,x,val\nb.mp4,y,val\n")
    with pytest.raises(UbenchError, match="must have clips to train on"):
        read_listing(tmp_path / "held.csv", validation=tmp_path / "list.txt")
    (tmp_path / "a.mp4").write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(UbenchError, match=r"a\.mp4 cannot be read: not UTF-8 text"):
        read_listing(tmp_path / "a.mp4")


# --- published sets ---


def test_kinetics_tables(tmp_path):
    touch(tmp_path, "riding_a_bike/abc_000010_000020.mp4", "train/yoga/-d_ef.mp4", "xyz_000001_000011.mkv")
    text = (
        "label,youtube_id,time_start,time_end,split\n"
        "riding a bike,abc,10,20,train\nyoga,-d_ef,5,15,train\nyoga,xyz,1.0,11.0,train\nyoga,gone,0,10,train\n"
    )
    (tmp_path / "val.csv").write_text(
        "label,youtube_id,time_start,time_end,split\nyoga,v1,0,10,validate\n'',t,0,1,train\n"
    )
    listing = listed(tmp_path, "train.csv", text, validation=tmp_path / "val.csv")
    assert listing.kind == "kinetics"
    assert "train.csv is a Kinetics table (it has youtube_id)" in listing.detected
    assert summary(listing) == [
        ("riding_a_bike/abc_000010_000020.mp4", "riding a bike", "train"),
        ("train/yoga/-d_ef.mp4", "yoga", "train"),
        ("xyz_000001_000011.mkv", "yoga", "train"),
        ("yoga/gone_000000_000010.mp4", "yoga", "train"),
        ("yoga/v1_000000_000010.mp4", "yoga", "validation"),
    ]
    assert [video.fault for video in listing.videos] == [None, None, None, "no such file", "no such file"]
    assert [video.source for video in listing.videos] == ["abc", "-d_ef", "xyz", "gone", "v1"]


UCF_TRAIN = "Archery/v_Archery_g08_c01.avi 3\nYoYo/v_YoYo_g08_c02.avi 101\n"
UCF_TEST = "Archery/v_Archery_g01_c01.avi\nYoYo/v_YoYo_g01_c01.avi\n"


@pytest.mark.parametrize("given", ["trainlist02.txt", "testlist02.txt", "."])
def test_ucf101_takes_both_lists_of_a_fold(tmp_path, given):
    touch(tmp_path, "Archery/v_Archery_g08_c01.avi", "v_YoYo_g08_c02.avi")
    (tmp_path / "trainlist02.txt").write_text(UCF_TRAIN)
    (tmp_path / "testlist02.txt").write_text(UCF_TEST)
    listing = read_listing(tmp_path / given)
    assert listing.kind == "ucf101"
    assert "trainlist02.txt and testlist02.txt: the clips of UCF101's fold 2" in listing.detected
    assert summary(listing) == [
        ("Archery/v_Archery_g08_c01.avi", "Archery", "train"), ("v_YoYo_g08_c02.avi", "YoYo", "train"),
        ("Archery/v_Archery_g01_c01.avi", "Archery", "test"), ("YoYo/v_YoYo_g01_c01.avi", "YoYo", "test"),
    ]  # fmt: skip
    assert listing.videos[0].source == "v_Archery_g08"


def test_a_ucf101_line_that_is_not_one_is_told(tmp_path):
    with pytest.raises(UbenchError, match=r"must be Class/v_Class_g01_c01\.avi, got 'b.avi 1' at trainlist01\.txt:3"):
        listed(tmp_path, "trainlist01.txt", UCF_TRAIN + "b.avi 1\n")
    # A list of one's own may be called the same.
    assert listed(tmp_path, "trainlist01.txt", "a.avi x\nb.avi y\n").kind == "list"


@pytest.mark.parametrize("given", ["cut_test_split1.txt", "."])
def test_hmdb51_takes_every_class_of_a_fold(tmp_path, given):
    (tmp_path / "brush_hair_test_split1.txt").write_text("April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1 \nx_1.avi 0 \n")
    (tmp_path / "cut_test_split1.txt").write_text("April_09_cut_u_nm_np1_ba_goo_1.avi 1 \nTape_cut_u_2.avi 2 \n\n")
    (tmp_path / "cut_test_split2.txt").write_text("other.avi 1\n")
    listing = read_listing(tmp_path / given)
    assert listing.kind == "hmdb51"
    assert "2 files *_test_split1.txt: a fold of HMDB51" in listing.detected
    assert summary(listing) == [
        ("brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi", "brush_hair", "train"),
        ("cut/April_09_cut_u_nm_np1_ba_goo_1.avi", "cut", "train"), ("cut/Tape_cut_u_2.avi", "cut", "test"),
    ]  # fmt: skip
    assert [video.source for video in listing.videos] == ["April_09", "April_09", "Tape"]


def test_hmdb51_files_that_break_a_rule_are_told(tmp_path):
    with pytest.raises(UbenchError, match=r"must be name\.avi and 0, 1 or 2, got 'a\.avi 3' at cut_test_split1\.txt:1"):
        listed(tmp_path, "cut_test_split1.txt", "a.avi 3\n")
    with pytest.raises(UbenchError, match="must list clips marked 1 or 2, got none"):
        listed(tmp_path, "cut_test_split1.txt", "a.avi 0\n")


def something(*clips: tuple[object, object]) -> str:
    return json.dumps([{"id": clip, "label": "holding a pen", "template": template} for clip, template in clips])


def test_something_something_takes_the_validation_that_lies_beside(tmp_path):
    touch(tmp_path, "78687.webm", "41775/000001.jpg")
    (tmp_path / "something-something-v2-validation.json").write_text(something(("9", "Holding [something]")))
    text = something(("78687", "Holding [something]"), (41775, "Moving [something] up"))
    listing = listed(tmp_path, "something-something-v2-train.json", text)
    assert listing.kind == "something"
    assert summary(listing) == [
        ("78687.webm", "Holding something", "train"), ("41775", "Moving something up", "train"),
        ("9.webm", "Holding something", "validation"),
    ]  # fmt: skip
    alone = listed(tmp_path, "some.json", text)
    assert [video.split for video in alone.videos] == [None, None]
    assert "some.json is Something-Something's" in alone.detected


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("{", r"x\.json must be JSON, got "),
        ("[" * 100_000, r"x\.json must be JSON, got "),
        ("{}", "must be a list of clips, as Something-Something's is, got dict"),
        ("[]", "must be a list of clips, as Something-Something's is, got list"),
        (something(("1", "a"), (None, "b")), r"an id and a template, got .* in x\.json, entry 2"),
        (something(("1", "a"), ("../2", "b")), r"must stay inside its root, got '\.\./2\.webm' at x\.json, entry 2"),
    ],
)
def test_a_json_that_breaks_a_rule_is_one_line(tmp_path, text, rule):
    with pytest.raises(UbenchError, match=rule):
        listed(tmp_path, "x.json", text)


# --- folders ---


def test_a_second_folder_is_the_validation(tmp_path):
    touch(tmp_path, "one/cat/a.mp4", "one/dog/b.mp4", "two/cat/a.mp4")
    listing = read_listing(tmp_path / "one", validation=tmp_path / "two")
    assert summary(listing) == [
        ("one/cat/a.mp4", "cat", "train"), ("one/dog/b.mp4", "dog", "train"), ("two/cat/a.mp4", "cat", "validation"),
    ]  # fmt: skip


def test_folders_of_pictures_are_clips_among_the_videos(tmp_path):
    touch(tmp_path, "cat/one/1.jpg", "cat/two.mp4", "cat/empty/notes.txt", "dog/three/1.PNG")
    listing = read_listing(tmp_path)
    assert [name for name, _, _ in summary(listing)] == ["cat/one", "cat/two.mp4", "dog/three"]
    touch(tmp_path, "train/cat/one/1.jpg", "train/dog/two/1.jpg", "val/cat/three/1.jpg")
    (tmp_path / "split").mkdir()
    for name in ("train", "val"):
        (tmp_path / name).rename(tmp_path / "split" / name)
    listing = read_listing(tmp_path / "split")
    assert [(name, split) for name, _, split in summary(listing)] == [
        ("train/cat/one", "train"), ("train/dog/two", "train"), ("val/cat/three", "validation"),
    ]  # fmt: skip


def test_numbers_as_folder_names_are_names(tmp_path):
    touch(tmp_path, "2/a.mp4", "10/b.mp4")
    assert read_listing(tmp_path).classes == ("10", "2")
