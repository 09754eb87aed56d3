"""Who is dealt where, and who is left out: copies and clips of one source are never in two splits."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uniformer_bench.data.listing import Video
from uniformer_bench.data.splits import Reading, deal, find_faults
from uniformer_bench.errors import UbenchError


def video(name: str, label: int = 0, split: str | None = None, source: str | None = None) -> Video:
    return Video(Path(name), name, label, split, None, source)


def read_as(digests: Sequence[object]) -> list[Reading]:
    return [Reading(str(digest), 9, None) for digest in digests]


def dealt(videos: list[Video], digests: Sequence[object] | None = None, seed: int = 0) -> dict[str, list[int]]:
    classes = [f"class {label}" for label in range(1 + max(one.label for one in videos))]
    return deal(videos, read_as(digests or range(len(videos))), [None] * len(videos), classes, seed)


def test_clips_of_one_source_are_dealt_together_and_counted_as_one():
    # Ten sources of three clips: a fifth of the sources, two, for validation and the test each.
    videos = [video(f"{i}", source=f"s{i // 3}") for i in range(30)]
    splits = dealt(videos)
    assert {name: len(some) for name, some in splits.items()} == {"train": 18, "validation": 6, "test": 6}
    for some in splits.values():
        assert len({videos[i].source for i in some}) == len(some) // 3


def test_a_source_with_clips_of_two_classes_is_in_one_split():
    # Every source has a clip of each class: the second class must go where the first went.
    videos = [video(f"{label}{i}", label, source=f"s{i}") for label in (0, 1) for i in range(10)]
    for seed in range(5):
        splits = dealt(videos, seed=seed)
        assert {name: len(some) for name, some in splits.items()} == {"train": 12, "validation": 4, "test": 4}
        for some in splits.values():
            assert {i + 10 for i in some if i < 10} == {i for i in some if i >= 10}


def test_copies_and_sources_chain():
    # a and b share a source, b and c are copies, c and d share another source: all four stay together.
    videos = [video("a", source="s"), video("b", source="s"), video("c", source="t"), video("d", source="t")]
    videos += [video(f"x{i}") for i in range(4)]
    for seed in range(8):
        splits = dealt(videos, [0, 1, 1, 2, 3, 4, 5, 6], seed)
        assert any({0, 1, 2, 3} <= set(some) for some in splits.values())


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 20), st.integers(0, 25)), min_size=12), st.integers(0, 9))
def test_no_copy_and_no_source_is_ever_in_two_splits(clips, seed):
    videos = [video(f"{i}", label, source=f"s{source}") for i, (label, source, _) in enumerate(clips)]
    digests = [digest for _, _, digest in clips]
    try:
        splits = dealt(videos, digests, seed)
    except UbenchError:
        return  # too few groups in a class
    place = {i: name for name, some in splits.items() for i in some}
    assert sorted(place) == list(range(len(videos)))
    for key in (lambda i: videos[i].source, lambda i: digests[i]):
        assert all(place[i] == place[j] for i in place for j in place if key(i) == key(j))


def test_validation_is_taken_from_training_where_only_the_test_is_given():
    videos = [video(f"{i}", split="train", source=f"s{i // 2}") for i in range(20)]
    videos += [video(f"t{i}", split="test") for i in range(4)]
    splits = dealt(videos)
    # Ten sources: a fifth of them is two, four clips.
    assert splits["test"] == [20, 21, 22, 23]
    assert len(splits["validation"]) == 4
    assert len({videos[i].source for i in splits["validation"]}) == 2
    assert len(splits["train"]) == 16


def test_the_test_is_half_of_validation_by_source():
    videos = [video(f"{i}", split="train") for i in range(3)]
    videos += [video(f"v{i}", split="validation", source=f"s{i // 2}") for i in range(8)]
    splits = dealt(videos)
    assert splits["train"] == [0, 1, 2]
    assert [len(splits["test"]), len(splits["validation"])] == [4, 4]
    assert len({videos[i].source for i in splits["test"]}) == 2


def test_given_splits_are_kept():
    videos = [video("a", split="test"), video("b", split="train"), video("c", split="validation")]
    assert dealt(videos) == {"train": [1], "validation": [2], "test": [0]}


def test_two_sources_are_too_few_to_split():
    with pytest.raises(UbenchError, match=r"at least 3 different readable videos .* got 2 in 'class 0'"):
        dealt([video(f"{i}", source=f"s{i % 2}") for i in range(9)])


def test_a_source_across_given_splits_stays_in_the_one_that_judges():
    videos = [
        video("a", split="train", source="s"), video("b", split="validation", source="s"),
        video("c", split="train", source="t"), video("d", split="train"),
    ]  # fmt: skip
    assert find_faults(videos, read_as("abcd")) == ["cut from the same video as b of another split", None, None, None]
    # An unreadable clip holds nothing back.
    readings = read_as("abcd")
    readings[1] = Reading("b", 0, "torn")
    assert find_faults(videos, readings) == [None, "torn", None, None]
