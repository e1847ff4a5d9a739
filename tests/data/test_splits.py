"""Which views are input and which are kept for the test."""

import pytest

from guidedvd_ns.data.splits import split_views, views_by_number

NAMES = [f"{i}.jpg" for i in range(10)]


@pytest.mark.parametrize(
    ("count", "wanted", "expected"),
    [
        (10, 2, [0, 9]),
        (10, 3, [0, 5, 9]),
        (10, 4, [0, 3, 6, 9]),
        (5, 5, [0, 1, 2, 3, 4]),
        (50, 6, [0, 10, 20, 29, 39, 49]),
    ],
)
def test_train_views_are_evenly_spaced(count: int, wanted: int, expected: list[int]) -> None:
    views = split_views([str(i) for i in range(count)], {}, wanted)
    assert views["train"] == expected
    assert views["val"] == views["test"] == [i for i in range(count) if i not in expected]


@pytest.mark.parametrize("count", [7, 24, 101])
def test_even_spacing_never_repeats_and_keeps_both_ends(count: int) -> None:
    for wanted in range(2, count + 1):
        train = split_views([str(i) for i in range(count)], {}, wanted)["train"]
        gaps = [b - a for a, b in zip(train, train[1:], strict=False)]
        assert len(set(train)) == wanted and train[0] == 0 and train[-1] == count - 1
        assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize(
    ("listed", "train", "val", "test"),
    [
        ({}, list(range(10)), [], []),
        ({"train": ["1.jpg", "0.jpg"], "test": ["4.jpg"]}, [0, 1], [4], [4]),
        ({"train": ["1.jpg", "0.jpg"], "val": ["4.jpg"]}, [0, 1], [4], [4]),
        ({"train": ["1.jpg", "0.jpg"], "val": ["4.jpg"], "test": ["5.jpg"]}, [0, 1], [4], [5]),
        ({"train": ["1.jpg", "0.jpg"], "val": [], "test": ["5.jpg"]}, [0, 1], [5], [5]),
        ({"train": ["1.jpg", "0.jpg"], "val": [], "test": []}, [0, 1], [], []),
        ({"train": ["1.jpg", "0.jpg"]}, [0, 1], list(range(2, 10)), list(range(2, 10))),
        ({"test": ["9.jpg"]}, list(range(9)), [9], [9]),
    ],
)
def test_lists_decide_and_val_and_test_stand_in_for_each_other(listed, train, val, test) -> None:
    assert split_views(NAMES, listed, None) == {"train": train, "val": val, "test": test}


def test_train_views_come_before_lists() -> None:
    assert split_views(NAMES, {"train": ["1.jpg", "2.jpg"]}, 2)["train"] == [0, 9]


def test_unknown_frames_and_too_few_views_are_refused() -> None:
    with pytest.raises(ValueError, match=r"test views name x\.jpg"):
        split_views(NAMES, {"test": ["x.jpg"]}, None)
    with pytest.raises(ValueError, match="has 1 input view of 1"):
        split_views(NAMES[:1], {}, None)
    with pytest.raises(ValueError, match="has 0 input views of 10"):
        split_views(NAMES, {"train": []}, None)


def test_numbers_become_positions_in_order() -> None:
    assert views_by_number((30, 9, 30), [5, 9, 20, 30], "scene") == [1, 3]
    with pytest.raises(ValueError, match="scene has no frame 6, which is to be an input view"):
        views_by_number((9, 6), [5, 9], "scene")
    with pytest.raises(ValueError, match="Only 1 input view is named; a scene needs at least 2"):
        views_by_number((9, 9), [5, 9], "scene")
