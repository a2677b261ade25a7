"""The rules of the house: what may import what, what ships, and how large a file may grow."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "implicit_dsl"
NOUNS = {
    "demands",
    "guarantees",
    "source",
    "errors",
    "syntax",
    "shapes",
    "names",
    "graph",
    "model",
    "opened",
    "matrices",
    "schedule",
    "header",
    "vocabulary",
}
STAGES = {
    "parse",
    "resolve",
    "certify",
    "assemble",
    "emit",
    "compiler",
    "loading",
    "cli",
    "formatting",
    "translation",
}


def imports(path: Path) -> set[str]:
    """The modules that a file imports, also lazily and inside of functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "lazy_module":
            found.add(node.args[0].value)  # type: ignore[attr-defined]
    return found


def stage_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "implicit_dsl" else ""


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def test_runtime_and_nouns_know_no_stage() -> None:
    for path in sources():
        place = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if place in NOUNS | {"operators", "runtime", "pictures", "train", "analysis", "page"}:
            # what trains may load programs that it writes, as a user would
            stages = STAGES - {"loading"} if place == "train" else STAGES
            known = {stage_of(module) for module in imports(path)} & stages
            assert not known, f"{path.name} imports {known}"


def test_stages_do_not_know_each_other() -> None:
    allowed = {
        "assemble": {"certify"},
        "formatting": {"parse"},
        "compiler": STAGES,
        "loading": STAGES,
        "translation": STAGES,
        "cli": STAGES,
    }
    for path in sources():
        place = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if place in STAGES:
            known = {stage_of(module) for module in imports(path)} & STAGES - {place}
            assert known <= allowed.get(place, set()), f"{path} imports {known}"


def test_each_library_has_its_place() -> None:
    places = {
        "lark": {"parse"},
        "jinja2": {"emit", "page"},
        "networkx": {"analysis", "graph", "pictures", "schedule"},
        "torch": {
            "analysis",
            "cli",
            "discovery",
            "loading",
            "operators",
            "page",
            "runtime",
            "train",
            "translation",
        },
        "PIL": {"pictures"},
        "pygments": {"highlighting"},
        "scipy": {"analysis", "matrices", "operators", "runtime", "train"},
        "scipy.sparse": {"analysis", "matrices", "runtime", "train"},
    }
    for path in sources():
        place = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for library in imports(path):
            top = library.split(".")[0]
            if top in places:
                assert place in places[top], f"{path} imports {library}"


def test_files_stay_small() -> None:
    for path in sources():
        lines = len(path.read_text(encoding="utf-8").split("\n"))
        assert lines <= 401, f"{path} has {lines} lines: it is telling you that it has become a folder"


def test_every_package_is_listed_and_every_data_folder_ships() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    listed = set(project["tool"]["setuptools"]["packages"])
    folders = {p.parent for p in sources()} | {PACKAGE / "explain", PACKAGE / "std"}
    on_disk = {"implicit_dsl", *(".".join(p.relative_to(ROOT).parts) for p in folders)}

    assert listed == on_disk | {"implicit_dsl.grammar", "implicit_dsl.codegen"}
    assert not list((ROOT / "grammar").glob("*.py")) + list((ROOT / "codegen").glob("*.py"))


def loaded_by(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint('\\n'.join(sys.modules), file=sys.stderr)"
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return {name.split(".")[0] for name in found.stderr.split("\n")}


def test_checking_loads_no_heavy_library() -> None:
    heavy = {"torch", "numpy", "scipy", "networkx", "jinja2", "matplotlib", "PIL"}
    program = "model M()\\n input u[3]\\n output y = Dense(2)*u\\nend\\n"
    imported = "from implicit_dsl.compiler import check\nfrom implicit_dsl.source import Source"
    check = f"{imported}\ncheck(Source('{program}'))"

    assert not heavy & loaded_by(check)
    assert not (heavy | {"lark"}) & loaded_by("import implicit_dsl.cli")


def test_compiling_does_not_load_torch() -> None:
    program = "model M()\\n input u[3]\\n output y = Dense(2)*u\\nend\\n"

    assert "torch" not in loaded_by(f"import implicit_dsl\nimplicit_dsl.compile('{program}')")


def test_functions_of_the_package_are_no_modules() -> None:
    import implicit_dsl

    for path in PACKAGE.glob("*"):
        assert path.stem not in set(implicit_dsl.__all__) - {"__version__"}
