"""The examples of recurrences and differential equations against the same networks written by hand."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
import torch.nn.functional as F
from test_exactness import assert_close, outputs
from test_examples import ROOT, generated
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

LENGTH = 4


class Read(nn.Module):
    """A layer of PyTorch, and a reading of its last step or of all."""

    def __init__(self, layer: nn.Module, width: int, q: int, every: bool = False) -> None:
        super().__init__()
        self.layer, self.head, self.every = layer, nn.Linear(width, q), every

    def forward(self, u: Tensor, *start: Tensor) -> tuple[Tensor, ...]:
        h, end = self.layer(u, *(one[None] for one in start))
        y = self.head(h if self.every or start else h[:, -1])
        return (y, end[-1]) if start else (y,)


class Stepped(nn.Module):
    """Layers by their names, and a loop over the steps."""

    def __init__(self, n: int, **parts: nn.Module | tuple[int, ...]) -> None:
        super().__init__()
        self.n = n
        for name, part in parts.items():
            setattr(self, name, nn.Parameter(torch.zeros(part)) if isinstance(part, tuple) else part)


class Minimal(Stepped):
    def forward(self, u: Tensor) -> Tensor:
        for of in ("a", "b"):
            Wf, Rf, Wh, Rh = (getattr(self, of + name) for name in ("Wf", "Rf", "Wh", "Rh"))
            h, found = u.new_zeros(len(u), self.n), []
            for x in u.unbind(1):
                f = torch.sigmoid(Wf(x) + Rf(h))
                h = (1 - f) * h + f * torch.tanh(Wh(x) + Rh(f * h))
                found.append(h)
            u = torch.stack(found, 1)
        return self.head(u[:, -1])


def minimal() -> nn.Module:
    parts: dict[str, nn.Module] = {}
    for of, p in (("a", 3), ("b", 5)):
        for gate in "fh":
            parts |= {f"{of}W{gate}": nn.Linear(p, 5), f"{of}R{gate}": nn.Linear(5, 5, bias=False)}
    return Minimal(5, **parts, head=nn.Linear(5, 2))


class Film(Stepped):
    def forward(self, u: Tensor) -> Tensor:
        h = s = u.new_zeros(len(u), self.n, *u.shape[3:])
        found = []
        for x in u.unbind(1):
            i, f, g, o = (self.W(x) + self.R(h)).chunk(4, 1)
            s = torch.sigmoid(f) * s + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(s)
            found.append(self.seen(h))
        return torch.stack(found, 1)


class FilmGRU(Stepped):
    def forward(self, u: Tensor) -> Tensor:
        h = u.new_zeros(len(u), self.n, *u.shape[3:])
        for x in u.unbind(1):
            z, r = torch.sigmoid(self.Wz(x) + self.Rz(h)), torch.sigmoid(self.Wr(x) + self.Rr(h))
            h = (1 - z) * h + z * torch.tanh(self.Wh(x) + self.Rh(r * h))
        return self.head(h.mean((2, 3)))


def film_gru() -> nn.Module:
    parts: dict[str, nn.Module] = {}
    for gate in "zrh":
        parts[f"W{gate}"] = nn.Conv2d(1, 2, 3, padding=1)
        parts[f"R{gate}"] = nn.Conv2d(2, 2, 3, padding=1, bias=False)
    return FilmGRU(2, **parts, head=nn.Linear(2, 4))


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 16)
        self.layer = nn.GRU(16, 24, batch_first=True, bidirectional=True)
        self.head = nn.Linear(48, 5)

    def forward(self, t: Tensor, k: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.words(t), k, batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.layer(packed)[0], batch_first=True, total_length=t.shape[1])
        return self.head(states)


def rested(function: Callable[[Tensor], Tensor], z: Tensor, times: int = 120) -> Tensor:
    """z = function(z), by iteration that is differentiated as it stands."""
    for _ in range(times):
        z = function(z)
    return z


class Rested(Stepped):
    """The equilibrated RNN; with `back`, the limit of the one that evolves."""

    back = False

    def forward(self, u: Tensor, *start: Tensor) -> tuple[Tensor, ...]:
        h, found = start[0] if start else u.new_zeros(len(u), self.n), []
        for x in u.unbind(1):
            before, e = h, x @ self.U.T + self.b
            h = rested(
                lambda h: torch.tanh((h + before) @ self.W.T + e) - (before if self.back else 0),  # noqa: B023
                h,
            )
            found.append(h)
        every = torch.stack(found, 1)
        return (self.head(every), h) if start else (self.head(every),)


class Limit(Rested):
    back = True


class Evolving(Stepped):
    def forward(self, u: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        for x in u.unbind(1):
            g = h
            for η in (self.η1, self.η2, self.η3):
                g = g + η * (torch.tanh((g + h) @ self.U.T + x @ self.W.T + self.b) - (g + h))
            h = g
        return self.head(h), h


def rk4(f: Callable[[float, tuple[Tensor, ...]], tuple[Tensor, ...]], x: tuple[Tensor, ...]) -> list[Tensor]:
    """From 0 to 1 in 3 steps."""
    h = 1 / 3
    for step in range(3):
        t = step * h
        a = f(t, x)
        b = f(t + h / 2, tuple(x + h / 2 * k for x, k in zip(x, a)))
        c = f(t + h / 2, tuple(x + h / 2 * k for x, k in zip(x, b)))
        d = f(t + h, tuple(x + h * k for x, k in zip(x, c)))
        x = tuple(x + h / 6 * (a + 2 * b + 2 * c + d) for x, a, b, c, d in zip(x, a, b, c, d))
    return list(x)


class Carried(Stepped):
    """A neural ODE with `n` further dimensions."""

    def forward(self, u: Tensor) -> Tensor:
        def field(t: float, x: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (self.W(torch.tanh(self.V(F.pad(x[0], (0, 1), value=t)))),)

        (x,) = rk4(field, (F.pad(u, (0, self.n)),))
        return self.head(x)


class Density(Stepped):
    """The flow, with the trace of the Jacobian that autograd finds."""

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
        def rate(t: float, x: Tensor) -> Tensor:
            return torch.tanh(x @ self.V.T + t * self.s + self.b) @ self.W.T + self.c

        def field(t: float, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            jacobian = torch.vmap(torch.func.jacrev(lambda x: rate(t, x)))(state[0])
            return rate(t, state[0]), jacobian.diagonal(dim1=1, dim2=2).sum(1)

        z, trace = rk4(field, (u, u.new_zeros(len(u))))
        return z, -0.5 * z.square().sum(1) - math.log(2 * math.pi) + trace


class Causal(Stepped):
    """The equilibrium of a transformer block."""

    def forward(self, t: Tensor) -> Tensor:
        words = self.words(t)
        at = torch.arange(t.shape[1], dtype=words.dtype)[:, None]
        rates = 10000.0 ** (-torch.arange(0, self.n, 2, dtype=words.dtype) / self.n)
        e = words + torch.stack([(at * rates).sin(), (at * rates).cos()], 2).flatten(1)
        mask = torch.full((t.shape[1], t.shape[1]), -math.inf).triu(1)

        def heads(x: Tensor) -> Tensor:
            return x.unflatten(2, (4, -1)).transpose(1, 2)

        def cell(z: Tensor) -> Tensor:
            h = self.n1(z)
            q, k, v = heads(self.Q(h)), heads(self.K(h)), heads(self.V(h))
            scores = q @ k.transpose(2, 3) / math.sqrt(self.n / 4) + mask
            a = z + self.out((scores.softmax(3) @ v).transpose(1, 2).flatten(2))
            return self.n3(0.5 * (a + self.down(F.gelu(self.up(self.n2(a))))) + e)

        return self.head(rested(cell, torch.zeros_like(e), 200))


def causal() -> nn.Module:
    linear = {name: nn.Linear(8, 8, bias=False) for name in "QKV"}
    return Causal(
        8, words=nn.Embedding(12, 8), n1=nn.LayerNorm(8), **linear, out=nn.Linear(8, 8), n2=nn.LayerNorm(8),
        up=nn.Linear(8, 16), down=nn.Linear(16, 8), n3=nn.LayerNorm(8), head=nn.Linear(8, 12),
    )  # fmt: skip


class Trellis(Stepped):
    def forward(self, t: Tensor) -> Tensor:
        e = self.inject(F.pad(self.words(t).transpose(1, 2), (3, 0)))
        z = rested(lambda z: torch.tanh(self.K(F.pad(z, (3, 0))) + e), torch.zeros_like(e))
        return self.head(z.transpose(1, 2))


Names = dict[str, list[str]]  # of a twin: which of ours stand there, one after another


def named(layers: list[tuple[str, str]], input: list[str], hidden: list[str], *bias: list[str]) -> Names:
    """The weights of PyTorch's layers by ours; (suffix there, prefix here) for each layer."""
    found: Names = {"head.weight": ["y_dense.weight"], "head.bias": ["y_dense.bias"]}
    for there, here in layers:
        for name, keys in zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), (input, hidden, *bias)):
            found[f"layer.{name}{there}"] = [here + key for key in keys]
    return found


def gates(name: str, part: str) -> list[str]:
    return [f"{name}_{gate}.{part}" for gate in (1, 2, 3)]


GATES = (gates("W", "weight"), gates("R", "weight"), gates("W", "bias"), gates("R", "bias"))
TAGS = named([("_l0", "ahead_gru_"), ("_l0_reverse", "back_gru_")], *GATES)
TAGS |= {"head.weight": ["scores_dense.weight"], "head.bias": ["scores_dense.bias"]}
TAGS |= {"words.weight": ["words_embedding.weight"]}


@dataclass(frozen=True)
class Case:
    """A model of an example, its twin, and shapes of inputs; an int stands for that many tokens."""

    example: str
    model: str
    twin: Callable[[], nn.Module]
    inputs: tuple[tuple[int, ...] | int | str, ...]
    parameters: dict[str, object] = field(default_factory=dict)
    names: Names | None = None  # or in the same order
    slack: float = 1e-11


SMALL = {"n": 5, "p": 3, "q": 2}
FILM = (LENGTH, 1, 5, 4)
CASES = [
    Case(
        "elman",
        "ElmanNet",
        lambda: Read(nn.RNN(3, 5, 2, batch_first=True), 5, 2),
        ((LENGTH, 3),),
        SMALL,
        named([("_l0", "h_elman_"), ("_l1", "h_elman2_")], ["U"], ["W"], ["b"]),
    ),
    Case(
        "elman",
        "ElmanStream",
        lambda: Read(nn.RNN(3, 5, batch_first=True), 5, 2),
        ((LENGTH, 3), (5,)),
        SMALL,
        named([("_l0", "")], ["U"], ["W"], ["b"]),
    ),
    Case(
        "lstm",
        "LSTMNet",
        lambda: Read(nn.LSTM(3, 5, 2, batch_first=True), 5, 2, every=True),
        ((LENGTH, 3),),
        {**SMALL, "every": True},
        named([("_l0", "h_lstm_"), ("_l1", "h_lstm2_")], ["W"], ["R"], ["b"]),
    ),
    Case(
        "gru",
        "GRUNet",
        lambda: Read(nn.GRU(3, 5, 2, batch_first=True), 5, 2),
        ((LENGTH, 3),),
        SMALL,
        named([("_l0", "h_gru_"), ("_l1", "h_gru2_")], *GATES),
    ),
    Case("gru", "MGUNet", minimal, ((LENGTH, 3),), SMALL),
    Case(
        "conv_lstm",
        "ConvLSTM",
        lambda: Film(
            2,
            W=nn.Conv2d(1, 8, 3, padding=1),
            R=nn.Conv2d(2, 8, 3, padding=1, bias=False),
            seen=nn.Conv2d(2, 1, 1),
        ),
        (FILM,),
        {"n": 2},
    ),
    Case("conv_lstm", "ConvGRU", film_gru, (FILM,), {"n": 2}),
    Case("tagger", "Tagger", Tagger, (20, "lengths"), names=TAGS),
    Case(
        "ernn", "ERNN", lambda: rests(Rested), ((LENGTH, 3),), {**SMALL, "κ": 0.7, "every": True}, None, 1e-8
    ),
    Case(
        "ernn",
        "ERNN",
        lambda: rests(Rested),
        ((LENGTH, 3), (5,)),
        {**SMALL, "κ": 0.7, "every": True, "stream": True},
        None,
        1e-8,
    ),
    Case(
        "kag",
        "Kag",
        lambda: Evolving(5, U=(5, 5), W=(5, 3), b=(5,), η1=(), η2=(), η3=(), head=nn.Linear(5, 2)),
        ((LENGTH, 3), (5,)),
        {**SMALL, "stream": True},
    ),
    Case(
        "kag",
        "KagConverged",
        lambda: rests(Limit),
        ((LENGTH, 3), (5,)),
        {**SMALL, "κ": 0.7, "every": True, "stream": True},
        None,
        1e-8,
    ),
    Case("neural_ode", "NeuralODE", lambda: carried(0), ((2,),), {"n": 6, "steps": 3}),
    Case("augmented_ode", "AugmentedODE", lambda: carried(3), ((2,),), {"n": 6, "steps": 3}),
    Case(
        "flow",
        "Flow",
        lambda: Density(0, V=(6, 2), W=(2, 6), s=(6,), b=(6,), c=(2,)),
        ((2,),),
        {"n": 6, "steps": 3},
    ),
    Case("deq_sequence", "DEQSequence", causal, (12,), {"d": 8, "tol": 1e-12}, None, 1e-7),
    Case(
        "deq_sequence",
        "TrellisDEQ",
        lambda: Trellis(
            0,
            words=nn.Embedding(12, 4),
            K=nn.Conv1d(4, 4, 4, bias=False),
            inject=nn.Conv1d(4, 4, 4),
            head=nn.Linear(4, 12),
        ),
        (12,),
        {"d": 4, "κ": 0.7},
        None,
        1e-8,
    ),
]


def rests(kind: type[Rested]) -> nn.Module:
    return kind(5, W=(5, 5), U=(5, 3), b=(5,), head=nn.Linear(5, 2))


def carried(extra: int) -> nn.Module:
    d = 2 + extra
    return Carried(extra, V=nn.Linear(d + 1, 6), W=nn.Linear(6, d), head=nn.Linear(d, 2))


def made(case: Case) -> tuple[nn.Module, nn.Module, Names, list[Tensor]]:
    """The generated module, its twin with the same weights, and inputs."""
    module = generated(case.example, case.model, **case.parameters)
    if hasattr(module, "project_"):
        module.project_()
    twin, state = case.twin().double(), module.state_dict()
    names = case.names or {there: [here] for there, here in zip(twin.state_dict(), state, strict=True)}
    given = {there: torch.cat([state[key] for key in keys]) if len(keys) > 1 else state[keys[0]]
             for there, keys in names.items()}  # fmt: skip
    missing, unexpected = twin.load_state_dict(given, strict=False)
    assert not unexpected and all("bias_hh" in name for name in missing)
    with torch.no_grad():
        for name in missing:  # of two biases that are added
            twin.get_parameter(name).zero_()
    return module, twin, names, list(map(drawn, case.inputs))


def drawn(kind: int | str | tuple[int, ...]) -> Tensor:
    """Tokens below a number, lengths, or real numbers of a shape."""
    if kind == "lengths":
        return torch.tensor([LENGTH - 2, LENGTH])
    return torch.randint(kind, (2, LENGTH)) if isinstance(kind, int) else torch.randn(2, *kind).double()


every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.model)


@every_case
def test_an_example_is_the_network_written_by_hand(case: Case) -> None:
    module, twin, names, inputs = made(case)
    ours, theirs = outputs(module(*inputs)), outputs(twin(*inputs))
    assert_close(theirs, ours, case.slack)
    weights = [torch.randn_like(one) for one in ours]
    mine, other = (
        dict(zip(dict(network.named_parameters()), found))
        for network, results in ((module, ours), (twin, theirs))
        for found in (torch.autograd.grad(results, list(network.parameters()), weights),)
    )
    for there, keys in names.items():
        parts = [mine[key] for key in keys]
        assert_close((other[there],), (torch.cat(parts) if len(parts) > 1 else parts[0],), 10 * case.slack)


@every_case
def test_an_example_is_the_solution_of_its_matrices(case: Case) -> None:
    module, _, _, inputs = made(case)
    free = {
        name: (LENGTH, *inputs[0].shape[2:])
        for name, shape, *tokens in type(module).system.__globals__["_STRUCTURES"][case.model]["inputs"]
        if not all(isinstance(size, int) for size in (shape[:-1] if tokens else shape))
    }
    system = module.system(**free)
    assert_close(outputs(module(*inputs)), outputs(system.solve(*inputs)), case.slack)
    if hasattr(module, "certify"):
        assert module.certify(**free).proved == (case.model != "DEQSequence")


STREAMS = [("elman", "ElmanStream"), ("lstm", "LSTMStream"), ("ernn", "ERNN"), ("kag", "Kag")]


@pytest.mark.parametrize(("example", "model"), STREAMS)
def test_a_stream_goes_on_where_it_stopped(example: str, model: str) -> None:
    options = {} if "Stream" in model else {"every": True, "stream": True}
    module = generated(example, model, **SMALL, **options)
    if hasattr(module, "project_"):
        module.project_()
    u, start = torch.randn(2, 7, 3).double(), torch.randn(2, 5).double()
    starts = (start, -start) if model == "LSTMStream" else (start,)
    whole, *stop = module(u, *starts)
    first, *between = module(u[:, :3], *starts)
    second, *end = module(u[:, 3:], *between)
    assert_close((whole, *stop), (torch.cat([first, second], 1), *end), 1e-8)


def test_the_limit_of_the_evolving_network_forgets() -> None:
    """h(t) = z(t) − z(t − 1) + z(t − 2) − …, where z(t) is of the input at t alone."""
    module = generated("kag", "KagConverged", **SMALL, κ=0.7, stream=True)
    module.project_()
    u, zero = torch.randn(3, 6, 3).double(), torch.zeros(3, 5).double()
    alternating = zero
    for t in range(6):
        alternating = module(u[:, t : t + 1], zero).stop - alternating
        assert_close((module(u[:, : t + 1], zero).stop,), (alternating,), 1e-8)


SAID = {
    "train_sequences": ["adding, T", "copy, T", "nn.LSTM", "ERNN", "DEQSequence", "‖∂L/∂h(t)‖"],
    "train_ode": ["two moons", "AugmentedODE", "Flow"],
}


@pytest.mark.parametrize("script", SAID)
def test_a_script_trains_all_of_its_networks(script: str) -> None:
    path = str(ROOT / "examples" / f"{script}.py")
    tasks = ["rows", "adding", "copy", "grammar", "gradients"] if script == "train_sequences" else []
    done = subprocess.run(
        [sys.executable, path, *tasks, "--quick"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert all(word in done.stdout for word in SAID[script])
    assert "nan" not in done.stdout
