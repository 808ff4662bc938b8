"""Half-precision products computed in float32: equal to torch's own, forward and backward, and when they are used."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from conftest import build_model
from innerpo.data.batching.batch import make_batch
from innerpo.model.forward.outputs import sequence_outputs
from innerpo.model.numerics import hardware
from innerpo.model.numerics.half_matmul import Float32Matmul, float32_matmul

HALVES = [torch.bfloat16, torch.float16]


class TypesOfProducts(TorchDispatchMode):
    """Records the types in which matrices are multiplied."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket._qualified_op_name in ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"):
            self.seen.add(args[-1].dtype)
        return func(*args, **kwargs or {})


@pytest.fixture
def old_cpu(monkeypatch):
    monkeypatch.setattr(hardware, "has_units", lambda *_: False)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (torch.mm, [(9, 300), (300, 7)]),
        (torch.addmm, [(9, 7), (9, 300), (300, 7)]),
        (torch.addmm, [(7,), (9, 300), (300, 7)]),
        (torch.bmm, [(2, 9, 300), (2, 300, 7)]),
        (torch.baddbmm, [(2, 9, 7), (2, 9, 300), (2, 300, 7)]),
        (nn.functional.linear, [(2, 9, 300), (7, 300), (7,)]),
    ],
    ids=["mm", "addmm", "addmm of a row", "bmm", "baddbmm", "linear"],
)
def test_rounded_once_forward_and_backward(function, shapes, dtype):
    """The float32 result, rounded; the gradients too. torch's own differs in a few last places at most."""
    torch.manual_seed(0)
    given = [torch.randn(shape).to(dtype) for shape in shapes]

    def run(tensors):
        leaves = [t.clone().requires_grad_() for t in tensors]
        out = function(*leaves)
        out.backward(torch.ones_like(out))
        return [out.detach(), *(leaf.grad for leaf in leaves)]

    exact = [t.to(dtype) for t in run([t.float() for t in given])]
    with Float32Matmul(), TypesOfProducts() as types:
        found = run(given)
    own = run(given)
    assert all(t.dtype == dtype for t in found)
    if "linear" not in str(function):  # its bias takes a sum, in the half type, of what was rounded before
        assert all(torch.equal(a, b) for a, b in zip(found, exact, strict=True))
    torch.testing.assert_close(found, own, rtol=2e-2 if dtype == torch.bfloat16 else 2e-3, atol=2e-2)
    assert types.seen == {dtype}  # seen before Float32Matmul sees them


def test_scales_of_addmm_and_other_types_are_let_through():
    a, x, w = torch.ones(1, 1, dtype=torch.bfloat16), torch.ones(1, 2, dtype=torch.bfloat16), torch.eye(2)[:, :1]
    with Float32Matmul():
        assert torch.addmm(a, x, w.to(torch.bfloat16), beta=3, alpha=2).item() == 5.0
        assert (w.t() @ w).dtype == torch.float32
        with pytest.raises(RuntimeError, match="same dtype"):
            torch.mm(w, x)
        assert (w.t().double() @ w.double()).dtype == torch.float64
        assert torch.ones(2, dtype=torch.bfloat16).sum().dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", HALVES)
def test_a_pass_multiplies_in_float32(dtype, items, old_cpu):
    """Forward passes by themselves, backward passes where a training holds the products."""
    model = build_model().to(dtype)
    batch = make_batch(items[:2], "one_row", 0)
    with TypesOfProducts() as types, torch.no_grad():
        alone = sequence_outputs(model, batch).logps
        assert types.seen == {torch.float32}
        types.seen.clear()
        model(batch.input_ids)  # somebody else's pass is left alone
        assert types.seen == {dtype}
    with TypesOfProducts() as types, float32_matmul(model):
        found = sequence_outputs(model, batch).logps
        found.sum().backward()
    assert types.seen == {torch.float32}
    assert torch.equal(found.detach(), alone)
    assert next(model.parameters()).grad.isfinite().all()


def test_only_where_something_is_gained(items, monkeypatch):
    batch = make_batch(items[:2], "one_row", 0)
    monkeypatch.setattr(hardware, "has_units", lambda *_: True)
    for dtype in (torch.float32, torch.bfloat16):
        with TypesOfProducts() as types, torch.no_grad():
            sequence_outputs(build_model().to(dtype), batch)
        assert types.seen == {dtype}


def test_held_once(old_cpu):
    """A pass within a training adds no second mode, and an error on the way leaves none behind."""
    model = build_model().to(torch.bfloat16)
    depth = torch._C._len_torch_dispatch_stack

    def fails():
        with float32_matmul(model), float32_matmul(model):
            assert depth() == 1
            raise KeyError

    for _ in range(2):
        with pytest.raises(KeyError):
            fails()
        assert depth() == 0
