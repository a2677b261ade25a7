"""Inputs of tokens and what embeds them, against twins in PyTorch and the assembled matrices."""

from __future__ import annotations

import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import implicit_dsl
from implicit_dsl.compiler import check
from implicit_dsl.source import Source


def generated(text: str) -> types.ModuleType:
    module = types.ModuleType("generated")
    exec(compile(implicit_dsl.compile(text), "generated.py", "exec"), module.__dict__)
    return module


LANGUAGE = """
model M(vocab = 11, d = 4)
    input t[_] in Tokens(vocab), at[size(t, 1)] in Tokens(9)
    param E[vocab, d] = normal(1), W[d, vocab]
    layer positions = Embedding(9, d)
    h ~ tanh(E' * t + positions(at)) + W * t
    output logits = E * h
end
"""


class Twin(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.E, self.W = nn.Parameter(torch.randn(11, 4)), nn.Parameter(torch.randn(4, 11))
        self.positions = nn.Embedding(9, 4)

    def forward(self, t: Tensor, at: Tensor) -> Tensor:
        h = torch.tanh(self.E[t] + self.positions(at)) + F.one_hot(t, 11).to(self.W) @ self.W.mT
        return h @ self.E.mT


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_tokens_are_embedded_as_in_pytorch_and_as_unit_vectors_in_the_matrices(dtype: torch.dtype) -> None:
    model, twin = generated(LANGUAGE).M().double(), Twin().double()
    model.load_state_dict(twin.state_dict())
    t, at = torch.randint(0, 11, (3, 5)), torch.arange(5).expand(3, 5)
    expected = twin(t, at)
    g = torch.randn_like(expected)
    made, system = model(t.to(dtype), at.to(dtype)), model.system(t=(5,))
    made.backward(g)
    expected.backward(g)

    torch.testing.assert_close(made, expected)
    torch.testing.assert_close(system.solve(t.to(dtype), at), expected)
    gradients = system.parameter_gradients((t, at), g)
    for name, parameter in twin.named_parameters():
        torch.testing.assert_close(dict(model.named_parameters())[name].grad, parameter.grad)
        torch.testing.assert_close(torch.from_numpy(gradients[name]), parameter.grad)


def test_an_embedding_is_a_block_of_b() -> None:
    model = generated("model M\ninput t[2] in Tokens(3)\nx ~ tanh(Embedding(3, 2)(t))\noutput y = x\nend").M()
    E = model.x_embedding.weight.detach().double().numpy()

    B = model.system().B.to_scipy().toarray()

    np.testing.assert_array_equal(B, np.kron(np.eye(2), E.T))
    assert model.system().inputs[0].shape == (2, 3)


def test_a_loop_that_reads_tokens_starts_in_the_dtype_of_the_weights() -> None:
    text = """
    model M
        input t[3] in Tokens(5)
        layer W = Dense(4; bias = false)
        state z[3, 4] ~ relu(W*(Dropout(0.1)*z) + Embedding(5, 4)(t))
        output y = z
        @wellposed norm(W, Inf) <= 0.5
    end
    """
    model, t = generated(text).M().double(), torch.randint(0, 5, (2, 3))
    model.train()
    assert model(t).dtype == torch.float64
    model.eval()

    torch.testing.assert_close(model(t), model.system().solve(t), rtol=1e-8, atol=1e-8)


def test_a_block_takes_tokens() -> None:
    text = """
    block Look(vocab)
        input t[_] in Tokens(vocab)
        output y = Embedding(vocab, 2)(t)
    end
    model M
        input t[3] in Tokens(5)
        output y = Look(5)(t)
    end
    """
    model, t = generated(text).M(), torch.randint(0, 5, (2, 3))
    (table,) = model.state_dict().values()

    torch.testing.assert_close(model(t), table[t])


def test_wrong_tokens_are_refused() -> None:
    model = generated("model M\ninput t[3] in Tokens(5)\noutput y = Embedding(2)(t)\nend").M()

    with pytest.raises(ValueError, match=r"`t` holds tokens, of int64 or int32, but is of torch\.float32"):
        model(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"must be \[batch, 3\]"):
        model(torch.zeros(2, 4, dtype=torch.int64))
    with pytest.raises(IndexError):
        model(torch.full((2, 3), 5))
    with pytest.raises(ValueError, match="not below 5"):
        model.system().solve(torch.full((2, 3), 5))
    with pytest.raises(ValueError, match="does not fit"):
        model.system(t=(4,))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("output y = relu(t)", "`t` holds tokens"),
        ("output y = Dense(3)*t", "`t` holds tokens"),
        ("output y = t + u", "`t` holds tokens"),
        ("output y = cat(t, t)", "`t` holds tokens"),
        ("output y = mean(t)", "`t` holds tokens"),
        ("output y = t[1:2]", "`t` holds tokens"),
        ("output y = t", "`t` holds tokens"),
        ("x ~ t\noutput y = x", "`t` holds tokens"),
        ("output y = Embedding(5, 2)(u)", "Embedding takes tokens"),
        ("input s[2] in Tokens(4)\nlayer E = Embedding(2)\noutput y = E(t), z = E(s)", "cannot be shared"),
        ("output y = Embedding(6, 2)(t)", "has 6 vectors, but its input is in Tokens(5)"),
        ("param E[6, 2]\noutput y = E'*t", "takes 6 tokens"),
        ("input v[3] in 4\noutput y = v", "an input is from a set of tokens"),
        ("output y = Tokens(3)", "must be a value of the network"),
    ],
)
def test_tokens_are_no_numbers(line: str, says: str) -> None:
    text = f"model M\n@allow unused_input\ninput t[3] in Tokens(5), u[3]\n{line}\nend\n"

    assert says in check(Source(text)).diagnostics[0].message
