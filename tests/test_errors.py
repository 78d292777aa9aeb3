import pickle
from collections.abc import Iterator

import pytest

from app import errors
from app.errors import ServingError


def walk(kind: type[ServingError]) -> Iterator[type[ServingError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from walk(child)


TREE = list(walk(ServingError))


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_every_error_survives_pickling_with_its_data(kind: type[ServingError]) -> None:
    error = pickle.loads(pickle.dumps(kind("what is wrong", {"column": "x", "row": 3})))
    assert type(error) is kind
    assert error.message == str(error) == "what is wrong"
    assert error.details == {"column": "x", "row": 3}


def test_codes_are_unique() -> None:
    assert len({kind.code for kind in TREE}) == len(TREE)


def test_the_tree_in_the_docstring_is_the_tree_in_the_code() -> None:
    drawn = errors.__doc__ or ""
    lines = [line for line in drawn.splitlines() if "──" in line or line.split()[:1] == ["ServingError"]]
    assert [line.replace("│", " ").replace("├──", " ").replace("└──", " ").split()[0] for line in lines] == [
        kind.__name__ for kind in TREE
    ]
