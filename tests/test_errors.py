"""The error tree: built-in parents, exit codes, and what a person reads."""

import builtins
import inspect
import re

import pytest

from factory import errors
from factory.errors import BackendError, FactoryError, GateError, IngestError, RecipeError, UsageError

SUBCLASSES = sorted(FactoryError.__subclasses__(), key=lambda kind: kind.__name__)


def test_there_are_errors_to_look_at():
    assert len(SUBCLASSES) >= 15


@pytest.mark.parametrize("kind", SUBCLASSES, ids=lambda kind: kind.__name__)
def test_every_error_is_also_a_fitting_built_in_one(kind):
    parents = [parent for parent in kind.__mro__ if parent.__module__ == builtins.__name__]
    assert {parent.__name__ for parent in parents} - {"Exception", "BaseException", "object"}
    assert kind.__doc__


@pytest.mark.parametrize("kind", SUBCLASSES, ids=lambda kind: kind.__name__)
def test_the_tree_in_the_docstring_names_every_error_with_its_parent(kind):
    tree = errors.__doc__
    assert kind.__name__ in tree
    parent = kind.__mro__[2].__name__
    (line,) = [line for line in tree.splitlines() if re.search(rf"\b{kind.__name__}\b", line)]
    assert f"({parent})" in line


def test_exit_codes_are_those_of_the_contract():
    codes = {kind: kind.exit_code for kind in SUBCLASSES}
    assert codes.pop(UsageError) == 2
    assert codes.pop(RecipeError) == 2
    assert codes.pop(GateError) == 3
    assert set(codes.values()) == {1}


def test_a_recipe_error_lists_a_fault_a_line():
    error = RecipeError("Recipe 'x.yaml'", ["train.rank: too large", "name: missing"])
    assert str(error) == "Recipe 'x.yaml': 2 fault(s)\n  train.rank: too large\n  name: missing"
    assert error.faults == ["train.rank: too large", "name: missing"]


@pytest.mark.parametrize("kind", [IngestError, BackendError])
def test_errors_that_are_os_errors_keep_their_message(kind):
    assert str(kind("Folder 'x' is empty")) == "Folder 'x' is empty"


def test_no_module_but_this_one_defines_factory_errors():
    assert all(inspect.getmodule(kind) is errors for kind in SUBCLASSES)
