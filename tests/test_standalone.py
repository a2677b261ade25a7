"""Standalone files: the runtime that they carry, and that nothing else is needed."""

from __future__ import annotations

import ast
import builtins
import inspect
import subprocess
import symtable
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import implicit_dsl
from implicit_dsl import runtime
from implicit_dsl.compiler import compile, read_source
from implicit_dsl.emit.inline import inlined
from implicit_dsl.emit.naming import Names
from implicit_dsl.emit.renaming import renamed

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.impl"))
LOOPS = [path for path in EXAMPLES if "@wellposed" in path.read_text(encoding="utf-8")]
RUNTIME = sorted((ROOT / "implicit_dsl" / "runtime").rglob("*.py"))
FREE = {
    "BranchingNet": {"image": (3, 8, 8)},
    "ConvLSTM": {"u": (3, 1, 5, 4)},
    "ConvGRU": {"u": (3, 1, 5, 4)},
}

# Runs each file in a process that has no implicitc, and saves outputs and gradients.
SCRIPT = """
import sys, torch
for name in ("implicit_dsl", "scipy", "lark", "networkx"):
    sys.modules[name] = None
cases = torch.load("cases.pt")
for file, title in cases:
    module = getattr(__import__(file), title)(dtype=torch.float64).eval()
    state, inputs = cases[file, title]
    module.load_state_dict(state)
    found = module(*inputs)
    found = found if isinstance(found, tuple) else (found,)
    sum(value.pow(2).sum() for value in found).backward()
    gradients = {name: weight.grad for name, weight in module.named_parameters()}
    try:
        module.system()
        raise SystemExit(f"{title} made its matrices without the package")
    except ImportError as error:
        assert "needs the package `implicitc`" in str(error), error
    if hasattr(module, "project_"):
        module.project_()
    cases[file, title] = tuple(value.detach() for value in found), gradients
torch.save(cases, "results.pt")
"""


def titles(module: Any) -> list[str]:
    """The names of the models of a generated module."""
    return [name for name in module.__all__ if issubclass(getattr(module, name), nn.Module)]


def sizes_of(module: Any) -> dict[str, Any]:
    """What makes free sizes known: shapes, or 4 steps."""
    title = type(module).__name__
    if title in FREE:
        return FREE[title]
    return {"length": 4} if "length" in inspect.signature(module.system).parameters else {}


def proof(module: Any) -> Any:
    return module.certify(**sizes_of(module))


def system_of(module: Any) -> Any:
    return module.system(**sizes_of(module))


def inputs_of(module: Any) -> tuple[Tensor, ...]:
    """Random inputs for a module; the edges into each node of a graph sum to 1."""
    torch.manual_seed(1)
    made = []
    for block in system_of(module).inputs:
        if block.tokens:
            made.append(torch.randint(block.shape[-1], (2, *block.given)))
            continue
        value = torch.randn(2, *block.shape, dtype=torch.float64)
        made.append(value.softmax(-1) if block.name == "G" else value)
    return tuple(made)


def test_a_standalone_file_needs_torch_alone(tmp_path: Path) -> None:
    cases, modules = {}, {}
    for path in EXAMPLES:
        text = compile(read_source(str(path), path.name), standalone=True)
        (tmp_path / f"{path.stem}.py").write_text(text, encoding="utf-8")
        generated = implicit_dsl.load(path)
        for title in titles(generated):
            torch.manual_seed(0)
            module = getattr(generated, title)(dtype=torch.float64).eval()
            modules[path.stem, title] = module
            cases[path.stem, title] = module.state_dict(), inputs_of(module)
    torch.save(cases, tmp_path / "cases.pt")
    subprocess.run([sys.executable, "-W", "error", "-c", SCRIPT], check=True, cwd=tmp_path)

    results = torch.load(tmp_path / "results.pt")
    assert cases.keys() == results.keys()
    for key, module in modules.items():
        found = module(*cases[key][1])
        found = found if isinstance(found, tuple) else (found,)
        sum(value.pow(2).sum() for value in found).backward()
        outputs, gradients = results[key]
        # loops are solved to 1e-10, and dense ones by other code in a package than in a file; where
        # the source asks for no more than 1e-3 (unchecked families), both do the same steps
        torch.testing.assert_close(outputs, tuple(found), rtol=1e-7, atol=1e-8)
        for name, weight in module.named_parameters():
            torch.testing.assert_close(gradients[name], weight.grad, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("path", LOOPS, ids=lambda path: path.stem)
def test_a_standalone_file_is_proved_and_laid_out_by_the_package_where_that_is(path: Path) -> None:
    packaged, alone = implicit_dsl.load(path), implicit_dsl.load(path, standalone=True)
    for title in titles(packaged):
        module, twin = getattr(packaged, title)(), getattr(alone, title)()
        twin.load_state_dict(module.state_dict())

        assert 0 == abs(system_of(module).A.to_scipy() - system_of(twin).A.to_scipy()).sum()
        assert hasattr(module, "certify") == hasattr(twin, "certify")  # models without loops have none
        assert not hasattr(module, "certify") or str(proof(module)) == str(proof(twin))


# ---------------------------------------------------------------- names

PROGRAM = """
model {name}(n = 6)
    input u[n]
    param W[n, n]
    state x[n] ~ relu(W*x + u)
    output y[n] = x
    @wellposed norm(W, Inf) <= 0.9
    {more}
end
"""
# Of the runtime: classes that a module calls and that it inherits, functions, constants; and imports.
CLASSES = ["Implicit", "Equilibrium", "Auto", "Solver", "Status", "RowBound", "Stats"]
OTHERS = [
    "require",
    "first_guesses",
    "project_",
    "average",
    "PROGRESS",
    "Enum",
    "dataclass",
    "math",
    "np",
    "prod",
]


@pytest.mark.parametrize("name", [*CLASSES, *OTHERS, "Any", "Mapping"])
def test_a_model_may_have_a_name_of_the_runtime(name: str) -> None:
    made = {}
    for title in (name, "Net"):
        text = PROGRAM.format(name=title, more="@backward implicit")
        torch.manual_seed(0)
        module = getattr(implicit_dsl.loads(text, standalone=True), title)()
        assert isinstance(module, nn.Module)
        y = module(torch.ones(2, 6))
        y.sum().backward()
        module.project_()
        made[title] = y, module.W.grad
    torch.testing.assert_close(made["Net"], made[name], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["require", "first_guesses", "starts", "weights", "x0", "torch"])
def test_a_state_may_have_a_name_of_the_runtime(name: str) -> None:
    text = PROGRAM.format(name="Net", more="").replace("x[n]", f"{name}[n]").replace("W*x", f"W*{name}")
    module = implicit_dsl.loads(text.replace("= x", f"= {name}"), standalone=True).Net()

    assert (2, 6) == module(torch.ones(2, 6)).shape


def sources() -> Iterator[tuple[Path, str, ast.Module]]:
    for path in RUNTIME:
        text = path.read_text(encoding="utf-8")
        yield path, text, ast.parse(text)


def top(tree: ast.Module) -> set[str]:
    """What the top level of a file defines or imports."""
    found: set[str] = set()
    for node in tree.body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.Assign(targets=targets):
                found |= {
                    part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)
                }
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                found |= {alias.asname or alias.name.split(".")[0] for alias in names}
    return found - {"annotations", "_"}


def test_renaming_reaches_all_that_means_the_top_level_and_nothing_else() -> None:
    for path, text, tree in sources():
        names = {name: f"{name}_Z9" for name in top(tree)}
        rows = text.split("\n")
        for statement in tree.body:
            if not isinstance(statement, ast.Import | ast.ImportFrom):
                rows = renamed(rows, statement, names)
        after = "\n".join(rows)

        assert text == after.replace("_Z9", "")
        waiting = [symtable.symtable(after, str(path), "exec")]
        while waiting:
            table = waiting.pop()
            waiting += table.get_children()
            for symbol in table.get_symbols():
                name = symbol.get_name()
                if table.get_type() != "module" and symbol.is_global():
                    assert name not in names, f"{path.name}: `{name}` is read in {table.get_name()}"
                elif table.get_type() != "module" and not symbol.is_free():
                    assert not name.endswith("_Z9"), f"{path.name}: `{name}` in {table.get_name()} is local"


def test_one_file_can_hold_all_of_the_runtime_that_programs_use(monkeypatch: pytest.MonkeyPatch) -> None:
    of_the_package = {"System", "BlockOperator", "certify", "Certificate", "DenseEquilibrium"}
    of_the_package |= {"prune_", "Pruned", "perron_bounds", "PerronBounds"}

    carried = inlined(set(runtime.__all__) - of_the_package, "implicitc_test", Names(standalone=True))
    module = types.ModuleType("carried")
    monkeypatch.setitem(sys.modules, "carried", module)
    vars(module).update(F=torch.nn.functional, torch=torch, Tensor=Tensor, nn=nn)
    lines = ["from __future__ import annotations", *carried.imports, *carried.lines]
    exec(builtins.compile("\n".join(lines), "carried.py", "exec"), vars(module))

    assert vars(module).keys() >= set(runtime.__all__) - of_the_package
