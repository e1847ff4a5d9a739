"""Which views are input and which are kept for the test."""

from collections.abc import Sequence
from typing import Optional

MIN_INPUT_VIEWS = 2


def split_views(
    names: Sequence[str],
    listed: dict[str, list[str]],
    train_views: Optional[int],
) -> dict[str, list[int]]:
    """Indices into `names` (in natural order) of the views of the splits `train`, `val` and `test`.

    `train_views` comes first: that many evenly spaced views, the first and the last among them, are input, and all
    others test views. Else the lists of the capture hold; where it lists only one side, the other is what remains.
    Else all views are input. `val` and `test` stand in for each other, and are empty where there are no test views.

    Raises:
        ValueError: a list names an unknown frame, `train_views` is out of range, or fewer than two views are input.
    """
    if train_views is not None:
        train = _evenly_spaced(len(names), train_views)
        test = val = _others(len(names), train)
    else:
        views = {split: _indices(names, split, listed[split]) for split in listed}
        val = views.get("val") or views.get("test") or []
        test = views.get("test") or views.get("val") or []
        if "train" in views:
            train = views["train"]
            if not views.keys() & {"val", "test"}:
                val = test = _others(len(names), train)
        else:
            train = _others(len(names), sorted({*val, *test}))
    if len(train) < MIN_INPUT_VIEWS:
        raise ValueError(
            f"The capture has {len(train)} input {'view' if len(train) == 1 else 'views'} of {len(names)}; "
            f"a scene needs at least {MIN_INPUT_VIEWS}, so add photographs or change its train_filenames."
        )
    return {"train": train, "val": val, "test": test}


def _evenly_spaced(count: int, wanted: int) -> list[int]:
    if not MIN_INPUT_VIEWS <= wanted <= count:
        raise ValueError(f"train_views is {wanted}; choose from {MIN_INPUT_VIEWS} to {count}, the number of frames.")
    # Round half up: Python's and NumPy's rounding to even would bunch views.
    return [(2 * i * (count - 1) + wanted - 1) // (2 * (wanted - 1)) for i in range(wanted)]


def _others(count: int, taken: Sequence[int]) -> list[int]:
    return sorted(set(range(count)).difference(taken))


def _indices(names: Sequence[str], split: str, wanted: Sequence[str]) -> list[int]:
    index = {name: i for i, name in enumerate(names)}
    for name in wanted:
        if name not in index:
            raise ValueError(f"The {split} views name {name}, which is no frame of the capture; correct or remove it.")
    return sorted({index[name] for name in wanted})


def views_by_number(numbers: Sequence[int], available: Sequence[int], where: object) -> list[int]:
    """Positions in `available` (the numbers of the frames of `where`, in order) of the frames `numbers`, sorted.

    Raises:
        ValueError: there is no such frame, or fewer than two are named.
    """
    position = {number: index for index, number in enumerate(available)}
    for number in numbers:
        if number not in position:
            raise ValueError(f"{where} has no frame {number}, which is to be an input view; correct --input-frames.")
    views = sorted({position[number] for number in numbers})
    if len(views) < MIN_INPUT_VIEWS:
        raise ValueError(f"Only {len(views)} input view is named; a scene needs at least {MIN_INPUT_VIEWS}.")
    return views
