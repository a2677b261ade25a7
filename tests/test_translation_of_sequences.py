"""Recurrent networks, transformers, tokens and masks as programs."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from translating import assert_same

from implicit_dsl import from_torch


class Classifier(nn.Module):
    """What is read of a recurrent network: the last step, or the states behind it."""

    def __init__(self, core: nn.RNNBase, width: int, read: str = "last") -> None:
        super().__init__()
        self.core, self.read = core, read
        self.head = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        y, states = self.core(x)
        h = states[0] if isinstance(states, tuple) else states
        if self.read == "state":
            return self.head(h[-1])
        if self.read == "both":
            return self.head(torch.cat((h[-2], h[-1]), dim=1))
        return self.head(y[:, -1] if self.core.batch_first else y[-1])


CORES = [
    (nn.LSTM(4, 3, batch_first=True), 3, "last"),
    (nn.LSTM(4, 3, num_layers=2, dropout=0.2, batch_first=True), 3, "state"),
    (nn.LSTM(4, 3, num_layers=2, bidirectional=True, batch_first=True), 6, "both"),
    (nn.LSTM(4, 3, bias=False), 3, "last"),
    (nn.LSTM(4, 3, proj_size=2, num_layers=2, batch_first=True), 2, "last"),
    (nn.GRU(4, 3, batch_first=True), 3, "last"),
    (nn.GRU(4, 3, num_layers=2, bidirectional=True, batch_first=True), 6, "both"),
    (nn.GRU(4, 3, bias=False), 3, "state"),
    (nn.RNN(4, 3, batch_first=True), 3, "last"),
    (nn.RNN(4, 3, nonlinearity="relu", bidirectional=True, batch_first=True), 6, "last"),
]


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize(("core", "width", "read"), CORES, ids=str)
def test_recurrent_classifiers(core: nn.RNNBase, width: int, read: str) -> None:
    axis = 0 if core.batch_first else 1
    x = torch.randn(2, 5, 4).movedim(0, axis)

    made = assert_same(Classifier(core, width, read), x, batch_axis=axis)

    name = type(core).__name__
    assert ("ProjectedLSTM" if getattr(core, "proj_size", 0) else name) in made.source
    assert made.keys["core.weight_ih_l0"] == "core_l0_weight_ih"


def test_all_states_of_an_lstm_that_starts_from_inputs() -> None:
    class Streaming(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(4, 3, num_layers=2)

        def forward(self, x: Tensor, h: Tensor, c: Tensor) -> Any:
            return self.lstm(x, (h, c))

    made = assert_same(
        Streaming(), torch.randn(5, 2, 4), torch.randn(2, 2, 3), torch.randn(2, 2, 3), batch_axis=1
    )

    assert list(made.batch_axes.values()) == [1] * 6


def test_a_compiled_lstm_takes_the_kernel_of_pytorch() -> None:
    made = assert_same(Classifier(nn.LSTM(4, 3, batch_first=True), 3), torch.randn(2, 5, 4))
    with torch.profiler.profile() as profile:
        made.model(torch.randn(2, 5, 4, dtype=torch.float64))

    assert any("lstm" in event.key for event in profile.key_averages())


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_a_transformer_encoder_layer(norm_first: bool, activation: str) -> None:
    layer = nn.TransformerEncoderLayer(
        8, 2, 12, activation=activation, norm_first=norm_first, batch_first=True
    )

    made = assert_same(layer, torch.randn(2, 5, 8))

    assert made.source.count("attend(") == 1 and "heads = 2" in made.source
    assert "permute" not in made.source and "reshape" not in made.source


def test_a_transformer_with_time_first() -> None:
    core = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 4, 12, bias=False), 2, nn.LayerNorm(8), False)

    assert_same(core, torch.randn(5, 2, 8), batch_axis=1)


def test_encoder_and_decoder() -> None:
    core = nn.Transformer(8, 2, 1, 1, 12, batch_first=True)

    assert_same(core, torch.randn(2, 5, 8), torch.randn(2, 4, 8))


def test_a_causal_decoder_layer() -> None:
    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.TransformerDecoderLayer(8, 2, 12, batch_first=True)

        def forward(self, x: Tensor, memory: Tensor) -> Tensor:
            mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=x.dtype)
            return self.layer(x, memory, tgt_mask=mask, tgt_is_causal=True)

    made = assert_same(Decoder(), torch.randn(2, 5, 8), torch.randn(2, 3, 8))

    assert "causal = true" in made.source


class MinGPT(nn.Module):
    """Tokens, positions, attention written out, tied weights at the end."""

    def __init__(self, vocab: int = 11, d: int = 8, most: int = 7, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.wte, self.wpe = nn.Embedding(vocab, d), nn.Embedding(most, d)
        self.ln = nn.LayerNorm(d)
        self.c_attn, self.c_proj = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.register_buffer("bias", torch.tril(torch.ones(most, most)).view(1, 1, most, most))
        self.lm_head = nn.Linear(d, vocab, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, tokens: Tensor) -> Tensor:
        b, t = tokens.shape
        x = self.wte(tokens) + self.wpe(torch.arange(t, device=tokens.device))
        q, k, v = self.c_attn(self.ln(x)).split(x.shape[-1], dim=2)
        q, k, v = (z.view(b, t, self.heads, -1).transpose(1, 2) for z in (q, k, v))
        scores = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        scores = scores.masked_fill(self.bias[:, :, :t, :t] == 0, float("-inf"))
        y = F.softmax(scores, dim=-1) @ v
        x = x + self.c_proj(y.transpose(1, 2).contiguous().view(b, t, -1))
        return self.lm_head(x)


def test_a_small_gpt_that_writes_attention_out() -> None:
    torch.manual_seed(0)
    module = MinGPT()
    mask = module.bias.clone()
    module.register_buffer("bias", mask)

    class Kept(nn.Module):  # randomised buffers would not be a mask
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, tokens: Tensor) -> Tensor:
            return self.inner(tokens)

    made = assert_same(Kept(), torch.randint(0, 11, (2, 5)), keep=("inner.bias",))

    assert "causal = true" in made.source and "heads = 2" in made.source
    assert made.keys["inner.lm_head.weight"] == made.keys["inner.wte.weight"]
    assert "in Tokens(11)" in made.source


def test_attention_with_padding_that_is_an_input() -> None:
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)

        def forward(self, x: Tensor, padding: Tensor) -> Tensor:
            return self.layer(x, src_key_padding_mask=padding)

    padding = torch.tensor([[False, False, True, True, True], [False, False, False, False, True]])

    made = assert_same(Padded(), torch.randn(2, 5, 8), padding)

    assert "mask = " in made.source


def test_multi_head_attention_of_its_own() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cross = nn.MultiheadAttention(8, 2, kdim=6, vdim=6, batch_first=True)
            self.own = nn.MultiheadAttention(8, 4, batch_first=True, bias=False)

        def forward(self, x: Tensor, memory: Tensor) -> Tensor:
            h, _ = self.cross(x, memory, memory)
            return h + self.own(x, x, x, need_weights=False)[0]

    assert_same(Attention(), torch.randn(2, 5, 8), torch.randn(2, 3, 6))


def test_attention_weights_that_are_read() -> None:
    class Weights(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Any:
            return self.attention(x, x, x)

    assert_same(Weights(), torch.randn(2, 4, 8))


def test_relative_positions_are_added_to_scores() -> None:
    class Biased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.bias = nn.Linear(8, 24), nn.Parameter(torch.randn(2, 5, 5))

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(x).reshape(-1, 5, 3, 2, 4).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias)
            return y.transpose(1, 2).flatten(2)

    assert_same(Biased(), torch.randn(2, 5, 8))


def test_grouped_queries_and_a_scale() -> None:
    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.kv = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            q = self.q(x).unflatten(-1, (4, 2)).transpose(1, 2)
            k, v = (one.unflatten(-1, (2, 2)).transpose(1, 2) for one in self.kv(x).chunk(2, -1))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3, enable_gqa=True)
            return y.transpose(1, 2).flatten(2)

    assert_same(Grouped(), torch.randn(2, 5, 8))


class ViT(nn.Module):
    """Patches, a class token, positions, an encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, 4)
        self.token, self.position = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 5, 8))
        self.layer = nn.TransformerEncoderLayer(
            8, 2, 12, batch_first=True, norm_first=True, activation="gelu"
        )
        self.scale = nn.Parameter(torch.randn(8))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.position
        return self.head((self.layer(x) * self.scale)[:, 0])


def test_a_vision_transformer() -> None:
    made = assert_same(ViT(), torch.randn(2, 3, 8, 8))

    assert made.keys["token"] == "token" and made.model.token.shape == (1, 1, 8)


def test_a_convolution_of_each_frame() -> None:
    class Frames(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.lstm = nn.Conv2d(2, 3, 3), nn.LSTM(12, 4, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            b, t = x.shape[:2]
            h = torch.relu(self.conv(x.reshape(b * t, 2, 4, 4))).reshape(b, t, -1)
            return self.lstm(h)[0][:, -1]

    assert_same(Frames(), torch.randn(2, 3, 2, 4, 4))


def test_embeddings_and_means() -> None:
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(9, 4), nn.Linear(4, 2)

        def forward(self, t: Tensor) -> Tensor:
            return self.head(self.table(t[:, 1:]).mean(dim=1)) + self.table(t[:, 0])[:, :2]

    assert_same(Bag(), torch.randint(0, 9, (3, 5)))


def test_a_vector_of_padding_is_not_trained() -> None:
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(9, 4, padding_idx=2), nn.Linear(4, 2)

        def forward(self, t: Tensor) -> Tensor:
            return self.head(self.table(t).mean(dim=1))

    made = assert_same(Padded(), torch.tensor([[2, 2, 3], [4, 0, 2]]))

    assert "vector 2 is not trained" in made.source


def test_masks_that_are_inputs_choose() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor, here: Tensor, there: Tensor) -> Tensor:
            h = torch.where((here & ~there)[..., None], x, -x).masked_fill(there[..., None], 0.5)
            return self.head(h).sum(1) / here.to(x.dtype).sum(1, keepdim=True)

    here = torch.tensor([[True, True, False], [True, False, True]])

    assert_same(Masked(), torch.randn(2, 3, 4), here, ~here)


class Reader(nn.Module):
    """A transformer for sequences of any length, with padding."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        h = self.layer(x, src_key_padding_mask=padding)
        return self.head(h[:, -1]) + self.head(h).mean(1)


def test_sizes_that_are_free() -> None:
    module = Reader().double().eval()
    x, padding = torch.randn(2, 5, 8, dtype=torch.float64), torch.zeros(2, 5, dtype=torch.bool)

    made = from_torch(module, (x, padding), free_axes={"x": 1, "padding": -1})

    assert "x[_, 8], padding[size(x, 1)]" in made.source
    for steps in (1, 3, 9):
        x, padding = torch.randn(4, steps, 8, dtype=torch.float64), torch.rand(4, steps) < 0.3
        padding[:, 0] = False
        torch.testing.assert_close(made.model(x, padding), module(x, padding), rtol=1e-11, atol=1e-11)
        if steps < 9:
            found = made.system(x=(steps, 8), padding=(steps,)).solve(x, padding)
            torch.testing.assert_close(found, module(x, padding), rtol=1e-10, atol=1e-10)


def test_images_of_free_size() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ).eval()

    made = from_torch(module, torch.randn(2, 3, 8, 8), free_axes={"input": (2, 3)})

    x = torch.randn(3, 3, 11, 6)
    torch.testing.assert_close(made.model(x), module(x))


def test_causal_attention_of_free_length() -> None:
    class Causal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(8, 24)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
            return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)

    module = Causal().eval()

    made = from_torch(module, torch.randn(2, 5, 8), free_axes={"x": 1})

    x = torch.randn(2, 7, 8)
    torch.testing.assert_close(made.model(x), module(x))


def test_cells_in_a_loop_of_python() -> None:
    class Cells(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.gru = nn.LSTMCell(4, 3), nn.GRUCell(3, 3, bias=False)
            self.tanh, self.relu = nn.RNNCell(3, 2), nn.RNNCell(2, 2, nonlinearity="relu")

        def forward(self, x: Tensor, h: Tensor) -> Tensor:
            c, g, z = torch.zeros_like(h), h, h[:, :2]
            for i in range(x.shape[1]):
                h, c = self.lstm(x[:, i], (h, c))
                g = self.gru(h, g)
                z = self.relu(self.tanh(g, z), z)
            return z

    assert_same(Cells(), torch.randn(2, 3, 4), torch.randn(2, 3))


def test_known_positions_by_waves() -> None:
    class Rotary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q = nn.Linear(4, 4)
            self.register_buffer("frequency", torch.tensor([1.0, 0.1]))

        def forward(self, x: Tensor) -> Tensor:
            angle = torch.outer(torch.arange(x.shape[1], dtype=x.dtype), self.frequency)
            angle = torch.cat([angle, angle], dim=-1)
            a, b = self.q(x).chunk(2, dim=-1)
            return self.q(x) * angle.cos() + torch.cat([-b, a], dim=-1) * angle.sin()

    assert_same(Rotary(), torch.randn(2, 5, 4))
