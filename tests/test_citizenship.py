"""Every model of every example, and every set of matrices, among the tools of PyTorch.

What cannot hold for one stands in `CANNOT`.
"""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from citizens import Citizen, citizens, flat, loops_of, loss_of, slack
from citizens_in_sets import set_citizens, set_citizens_one_by_one
from torch import Tensor, nn

from implicit_dsl import runtime
from implicit_dsl.sets import SETS

# (test, model) -> why it cannot be.
CANNOT: dict[tuple[str, str], str] = {}
# Loops without a proved rate are exported with a few sweeps, and compared with as many.
SWEEPS = 3
# Exported to ONNX with `-m slow`, as each of their sets is there alone, and other cells.
LARGE = ("SetsByProject", "SetsByParametrize", "SetsByBounds")
LARGE += ("ElmanStream", "LSTMStream", "MGUNet", "Tagger", "ConvGRU", "KagConverged")
# Compiled by inductor in the default run; the others with `-m slow`.
INDUCTED = ("MLP",)

EVERY = citizens() + set_citizens()
ONE_BY_ONE = set_citizens_one_by_one()  # with `-m slow`
Tensors = tuple[Tensor, ...]
quiet = pytest.mark.filterwarnings(*(f"ignore::{kind}Warning" for kind in ("Deprecation", "Future", "User")))


@pytest.fixture(
    params=[*EVERY, *(pytest.param(one, marks=pytest.mark.slow) for one in ONE_BY_ONE)],
    ids=lambda citizen: citizen.model,
)
def citizen(request: pytest.FixtureRequest) -> Citizen:
    found: Citizen = request.param
    name = request.function.__name__.removeprefix("test_")
    if (name, found.model) in CANNOT:
        pytest.skip(CANNOT[name, found.model])
    return found


def test_every_set_is_among_them_alone_and_in_a_loop() -> None:
    alone, looped = set_citizens()[0].text, "".join(one.text for one in set_citizens()[1:])
    assert all(f"in {name}(" in alone and f"in {name}(" in looped for name in SETS)


def close(expected: object, actual: object, within: float) -> None:
    """Outputs of the same kind, entry by entry."""
    assert len(flat(expected)) == len(flat(actual))
    for one, other in zip(flat(expected), flat(actual)):
        torch.testing.assert_close(other.to(one.dtype), one, rtol=within, atol=within)


def gradients(module: nn.Module, run: Callable[..., object], inputs: Tensors) -> Tensors:
    """The gradients of all parameters."""
    return torch.autograd.grad(loss_of(run(*inputs)), list(module.parameters()))


@torch.no_grad()
def apart(expected: Tensors, actual: Tensors) -> float:
    """‖difference‖ / ‖expected‖ over all entries."""
    ours, theirs = (torch.cat([tensor.flatten().double() for tensor in side]) for side in (actual, expected))
    return float((ours - theirs).norm() / theirs.norm())


# -- copies and files ------------------------------------------------------------------------------


def test_copies_and_pickles_compute_the_same(citizen: Citizen) -> None:
    module, inputs = citizen.make(), citizen.inputs()
    expected = flat(module(*inputs))
    saved = io.BytesIO()
    torch.save(module, saved)
    saved.seek(0)
    twins = (
        copy.deepcopy(module),
        copy.copy(module),
        pickle.loads(pickle.dumps(module)),
        torch.load(saved, weights_only=False),
    )
    for twin in twins:
        assert all(torch.equal(one, other) for one, other in zip(expected, flat(twin(*inputs))))
    with torch.no_grad():
        next(twins[0].parameters()).add_(1)
    assert all(torch.equal(one, other) for one, other in zip(expected, flat(module(*inputs))))


def test_weights_travel_by_safetensors(citizen: Citizen, tmp_path: Path) -> None:
    from safetensors.torch import load_model, save_model

    module, inputs = citizen.make(), citizen.inputs()
    save_model(module, str(tmp_path / "weights.safetensors"))
    other = citizen.make()
    with torch.no_grad():
        for weight in other.parameters():
            weight.zero_()
    missing, unexpected = load_model(other, str(tmp_path / "weights.safetensors"))
    assert not missing and not unexpected
    assert all(torch.equal(a, b) for a, b in zip(flat(module(*inputs)), flat(other(*inputs))))


def test_a_module_made_without_memory_gets_its_weights_later(citizen: Citizen) -> None:
    module, inputs = citizen.make(), citizen.inputs()
    with torch.device("meta"):
        inside = citizen.make()
    for empty in (citizen.make(device="meta"), inside):
        assert all(tensor.is_meta for tensor in empty.state_dict().values())
        given = empty.to_empty(device="cpu")
        given.load_state_dict(module.state_dict())
        assert all(torch.equal(a, b) for a, b in zip(flat(module(*inputs)), flat(given(*inputs))))
    assigned = citizen.make(device="meta")
    assigned.load_state_dict(module.state_dict(), assign=True)
    assert all(torch.equal(a, b) for a, b in zip(flat(module(*inputs)), flat(assigned(*inputs))))


def test_device_and_dtype_reach_every_tensor(citizen: Citizen) -> None:
    on_meta = citizen.make(device="meta", dtype=torch.bfloat16)
    assert {torch.device("meta")} == {tensor.device for tensor in on_meta.state_dict().values()}
    assert {torch.bfloat16} == {parameter.dtype for parameter in on_meta.parameters()}


def test_wrong_shapes_are_refused_with_the_right_one(citizen: Citizen) -> None:
    module, inputs = citizen.make(), citizen.inputs()
    with pytest.raises(ValueError, match=r"has shape \(3, .*\), but must be \[batch, "):
        module(inputs[0][..., None, None], *inputs[1:])
    if len(inputs) > 1:
        with pytest.raises(ValueError, match="batches of different size"):
            module(inputs[0], inputs[1][:2], *inputs[2:])


# -- graphs ----------------------------------------------------------------------------------------


@quiet
def test_torch_compile_takes_a_module_whole(citizen: Citizen) -> None:
    torch._dynamo.reset()
    module, inputs = citizen.make(), citizen.inputs()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    close(module(*inputs), compiled(*inputs), slack(module))
    expected = gradients(module, module, inputs)
    assert apart(expected, gradients(module, compiled, inputs)) <= slack(module)


@quiet
@pytest.mark.parametrize(
    "name",
    [
        one.model if one.model in INDUCTED else pytest.param(one.model, marks=pytest.mark.slow)
        for one in EVERY
    ],
)
def test_inductor_computes_the_same(name: str) -> None:
    torch._dynamo.reset()
    citizen = next(one for one in EVERY if one.model == name)
    module, inputs = citizen.make(), citizen.inputs()
    compiled = torch.compile(module, fullgraph=True)
    close(module(*inputs), compiled(*inputs), slack(module))
    expected = gradients(module, module, inputs)
    assert apart(expected, gradients(module, compiled, inputs)) <= slack(module)


@quiet
def test_torch_export_leaves_the_batch_free(citizen: Citizen) -> None:
    module, inputs = citizen.make(), citizen.inputs()
    batch = torch.export.Dim("batch", min=1, max=4096)
    exported = torch.export.export(module, inputs, dynamic_shapes=[{0: batch}] * len(inputs))
    for size in (1, 5):
        others = citizen.inputs(size, seed=2)
        close(module(*others), exported.module()(*others), slack(module))


@quiet
@pytest.mark.parametrize(
    "citizen",
    [
        pytest.param(one, marks=[pytest.mark.slow] * (one in ONE_BY_ONE or one.model in LARGE))
        for one in (*EVERY, *ONE_BY_ONE)
    ],
    ids=lambda citizen: citizen.model,
    indirect=True,
)
def test_onnx_computes_the_same(citizen: Citizen, tmp_path: Path) -> None:
    """Loops by sweeps: as many as are proved, which then is the solution, or a few."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    module, inputs = citizen.make(), citizen.inputs()
    proved = all(loop.settings.rate is not None for loop in loops_of(module))
    path, batch = str(tmp_path / "model.onnx"), torch.export.Dim("batch", min=1, max=4096)
    around = runtime.unrolled() if proved else runtime.unrolled(SWEEPS)
    with around if loops_of(module) else nullcontext():
        torch.onnx.export(
            module, inputs, path, dynamo=True, verbose=False, dynamic_shapes=[{0: batch}] * len(inputs)
        )
    session = onnxruntime.InferenceSession(path)
    for size in (1, 5):
        others = citizen.inputs(size, seed=2)
        feed = {given.name: tensor.numpy() for given, tensor in zip(session.get_inputs(), others)}
        found = tuple(torch.from_numpy(array) for array in session.run(None, feed))
        with torch.no_grad(), nullcontext() if proved else runtime.unrolled(SWEEPS):
            close(module(*others), found, slack(module) if proved else 1e-5)


# -- transforms --------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # attention under vmap
def test_gradients_of_each_sample_by_functional_call_and_vmap(citizen: Citizen) -> None:
    module, inputs = citizen.make(), citizen.inputs()
    weights = {name: weight.detach() for name, weight in module.named_parameters()}

    def loss(weights: dict[str, Tensor], *sample: Tensor) -> Tensor:
        given = tuple(tensor[None] for tensor in sample)
        return loss_of(torch.func.functional_call(module, weights, given))

    found = torch.vmap(torch.func.grad(loss), (None, *(0 for _ in inputs)))(weights, *inputs)
    for sample in range(len(inputs[0])):
        one = tuple(tensor[sample : sample + 1] for tensor in inputs)
        actual = tuple(found[name][sample] for name in weights)
        assert apart(gradients(module, module, one), actual) <= slack(module)
    halved = {name: 0.5 * weight for name, weight in weights.items()}
    other = torch.func.functional_call(module, halved, inputs)
    twin = citizen.make()
    twin.load_state_dict(halved, strict=False)
    close(twin(*inputs), other, slack(module))


def test_an_ensemble_runs_over_stacked_weights(citizen: Citizen) -> None:
    """As in the tutorial of torch.func on ensembles: one call for the weights of three modules."""
    modules, inputs = [citizen.make() for _ in range(3)], citizen.inputs()
    for size, module in zip((1.0, 0.9, 0.7), modules):
        with torch.no_grad():
            for weight in module.parameters():
                weight.mul_(size)
    weights, buffers = torch.func.stack_module_state(modules)
    empty = citizen.make(device="meta")

    def run(weights: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensors:
        return flat(torch.func.functional_call(empty, (weights, buffers), inputs))

    found = torch.vmap(run, randomness="same")(weights, buffers)
    for number, module in enumerate(modules):
        close(module(*inputs), tuple(output[number] for output in found), slack(module))


# -- number formats and layouts ----------------------------------------------------------------------


def test_autocast_stays_near(citizen: Citizen) -> None:
    module, inputs = citizen.make(), citizen.inputs()
    expected, plain = flat(module(*inputs)), gradients(module, module, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        results = flat(module(*inputs))
    assert apart(expected, results) <= 0.03
    found = torch.autograd.grad(loss_of(results), list(module.parameters()))
    assert all(gradient.dtype == torch.float32 for gradient in found)
    assert apart(plain, found) <= 0.1


def test_float64_agrees(citizen: Citizen) -> None:
    module, inputs = citizen.make(), citizen.inputs()
    wide = citizen.make(dtype=torch.float64)
    wide.load_state_dict(module.state_dict())
    given = tuple(tensor.double() if tensor.is_floating_point() else tensor for tensor in inputs)
    outputs = flat(wide(*given))
    assert all(output.dtype == torch.float64 for output in outputs)
    close(module(*inputs), outputs, slack(module))
    close(
        outputs,
        copy.deepcopy(module).to(torch.float64)(*given),
        1e-9 if not loops_of(module) else slack(module),
    )
    assert apart(gradients(module, module, inputs), gradients(wide, wide, given)) <= slack(module)


@pytest.mark.filterwarnings("ignore::implicit_dsl.runtime.ConvergenceWarning")  # tolerances below its reach
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_half_precision_forward_and_backward_stay_near(citizen: Citizen, dtype: torch.dtype) -> None:
    module, inputs = citizen.make(), citizen.inputs()
    narrow = citizen.make().to(dtype)
    if hasattr(narrow, "project_"):
        narrow.project_()
    given = tuple(tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in inputs)
    outputs = flat(narrow(*given))
    assert all(output.dtype == dtype and bool(output.isfinite().all()) for output in outputs)
    assert apart(flat(module(*inputs)), outputs) <= 0.03
    found = gradients(narrow, narrow, given)
    assert all(gradient.dtype == dtype and bool(gradient.isfinite().all()) for gradient in found)
    assert apart(gradients(module, module, inputs), found) <= 0.15


def test_channels_last_changes_nothing_but_the_layout(citizen: Citizen) -> None:
    module, inputs = citizen.make(), citizen.inputs()
    last = citizen.make().to(memory_format=torch.channels_last)
    given = tuple(
        tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
        for tensor in inputs
    )
    close(module(*inputs), last(*given), slack(module))
    assert apart(gradients(module, module, inputs), gradients(last, last, given)) <= slack(module)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_computes_the_same(citizen: Citizen) -> None:
    module, inputs = citizen.make(), citizen.inputs()
    there, given = citizen.make(device="cuda"), tuple(tensor.cuda() for tensor in inputs)
    there.load_state_dict(module.state_dict())
    close(module(*inputs), tuple(output.cpu() for output in flat(there(*given))), max(1e-3, slack(module)))
    found = tuple(gradient.cpu() for gradient in gradients(there, there, given))
    assert apart(gradients(module, module, inputs), found) <= max(1e-2, slack(module))


# -- training ------------------------------------------------------------------------------------------


def test_a_plain_loop_trains(citizen: Citizen) -> None:
    module, inputs = citizen.make().train(), citizen.inputs(8)
    # noise at each step or place cannot be learned by the few weights of all; around what it lies can
    targets = tuple(torch.randn_like(output) + (output.ndim > 2) for output in flat(module(*inputs)))
    optimizer = torch.optim.Adam(module.parameters(), 3e-3)
    if hasattr(module, "project_"):
        runtime.project_after(optimizer, module)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        outputs = flat(module(*inputs))
        loss = sum((one - other).square().mean() for one, other in zip(outputs, targets))
        assert isinstance(loss, Tensor)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-3:]) < 0.95 * sum(losses[:3])


def run_beside(script: str, *arguments: str) -> subprocess.Popen[str]:
    """A process of its own that imports what this one does."""
    head = f"import sys\nsys.path[:0] = {[path for path in sys.path if path]!r}\n"
    command = [sys.executable, "-W", "ignore", "-c", head + script, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


SHARED = """
import os
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from citizens import citizens, flat, slack
from citizens_in_sets import set_citizens

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))

def train(module, run, inputs):
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        sum(output.square().mean() for output in flat(run(*inputs))).backward()
        optimizer.step()
        if hasattr(module, "project_"):
            module.project_()
    found = module.state_dict()
    return {name: t.full_tensor() if hasattr(t, "full_tensor") else t for name, t in found.items()}

for citizen in [*citizens(), *set_citizens()]:
    inputs = citizen.inputs(4)
    alone = citizen.make()
    expected = train(alone, alone, inputs)
    mine = tuple(tensor[rank::2] for tensor in inputs)
    for kind in ("DDP", "FSDP2"):
        module = citizen.make()
        if kind == "FSDP2" and any(weight.ndim == 0 for weight in module.parameters()):
            continue  # FSDP2 refuses parameters that are one number
        if rank and kind == "DDP":  # the weights of the first process are sent to the other
            with torch.no_grad():
                for weight in module.parameters():
                    weight.mul_(0.5)
        run = DistributedDataParallel(module) if kind == "DDP" else fully_shard(module, mesh=mesh)
        for name, found in train(module, run, mine).items():
            change = (expected[name] - found).abs().max().item() if found.numel() else 0.0
            if change > slack(alone):
                print(f"{citizen.model} {kind} {name}: {change:.1e} apart", flush=True)
        if kind == "FSDP2" and hasattr(module, "effective_weights"):  # of parts, outside of forward
            held = alone.effective_weights()
            for name, found in module.effective_weights().items():
                if (held[name] - found).abs().max().item() > slack(alone):
                    print(f"{citizen.model} {kind} {name}: made of other numbers", flush=True)
            module.system()
dist.barrier()  # a process that ends while the other still talks to it may abort that
dist.destroy_process_group()
print("done", flush=True)
os._exit(0)  # what still holds the group keeps gloo's threads, which abort an interpreter that is torn down
"""


def test_two_processes_train_every_model_as_one_does(tmp_path: Path) -> None:
    """By DistributedDataParallel and by FSDP2, each with half of the batch, and with projections."""
    workers = [run_beside(SHARED, str(rank), str(tmp_path)) for rank in range(2)]
    for worker in workers:
        said, complaint = worker.communicate(timeout=300)
        assert worker.returncode == 0, complaint
        assert said == "done\n"


LIGHTNING = """
import logging, os
import lightning
import torch
from citizens import citizens, flat
from citizens_in_sets import set_citizens
from implicit_dsl import runtime

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

class Training(lightning.LightningModule):
    def __init__(self, model, inputs):
        super().__init__()
        self.model, self.losses = model, []
        self.targets = [torch.randn_like(output) for output in flat(model(*inputs))]
    def training_step(self, batch, _):
        outputs = flat(self.model(*batch))
        loss = sum((one - other).square().mean() for one, other in zip(outputs, self.targets))
        self.losses.append(loss.item())
        return loss
    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.model.parameters(), 3e-3)
        if hasattr(self.model, "project_"):
            runtime.project_after(optimizer, self.model)
        return optimizer

for citizen in [*citizens(), set_citizens()[0]]:
    inputs = citizen.inputs(8)
    training = Training(citizen.make().train(), inputs)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*inputs), batch_size=8)
    trainer = lightning.Trainer(
        max_epochs=8, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=sys.argv[1],
    )
    trainer.fit(training, loader)
    first, last = training.losses[0], training.losses[-1]
    if not (len(training.losses) == 8 and last < first):
        print(f"{citizen.model}: {training.losses}", flush=True)
"""


def test_lightning_trains_every_model(tmp_path: Path) -> None:
    pytest.importorskip("lightning", reason="pip install lightning", exc_type=ImportError)
    worker = run_beside(LIGHTNING, str(tmp_path))
    said, complaint = worker.communicate(timeout=300)
    assert worker.returncode == 0, complaint
    assert said == ""
