"""Every function of `handrail.algo` gives the shapes that `shapes.py` names, in the dtype that it was given."""

import importlib
import inspect
import pkgutil

import pytest
import torch
from torch import Tensor

import handrail.algo
from shapes import CASES


def test_every_public_function_is_in_the_table():
    modules = [importlib.import_module(f"handrail.algo.{m.name}") for m in pkgutil.iter_modules(handrail.algo.__path__)]
    public = {f for m in modules for name, f in inspect.getmembers(m, inspect.isfunction) if f.__module__ == m.__name__ and name[0] != "_"}
    assert {f.__qualname__ for f in public} == {f.__qualname__ for f in CASES}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("function", CASES, ids=lambda f: f.__qualname__)
def test_shapes_and_dtype(function, dtype):
    call, expected = CASES[function]
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        found = call()
    finally:
        torch.set_default_dtype(default)
    results = found if isinstance(found, tuple) else (found,)
    assert len(results) == len(expected)
    for result, kind in zip(results, expected, strict=True):
        assert isinstance(result, kind), f"found {result.shape if isinstance(result, Tensor) else type(result)}, expected {kind}"
        assert not isinstance(result, Tensor) or result.dtype == dtype
        for entry in result.values() if isinstance(result, dict) else ():
            assert entry.shape == () and entry.dtype == dtype
