"""What is told where a module cannot be translated: the operator, its place, and what to do."""

from __future__ import annotations

import re

import torch.fx

_FRAME = re.compile(r'^\s*File "(?P<file>[^"]+)", line (?P<line>\d+), in .+\n\s*(?P<code>.+)$', re.MULTILINE)
_LIBRARY = re.compile(r"[/\\]torch[/\\](nn|_[a-z]+|functional|utils|fx|export)\b")


class TranslationError(ValueError):
    """A module cannot be written as a program.

    `operator` is PyTorch's name of what is missing, `module` the path of the module that calls it
    (empty for the outermost), `file` and `line` are the place of that call; each is None where
    it is not known.
    """

    def __init__(
        self,
        reason: str,
        *,
        operator: str | None = None,
        module: str | None = None,
        file: str | None = None,
        line: int | None = None,
        code: str = "",
        help: str = "",
    ) -> None:
        self.operator, self.module, self.file, self.line = operator, module, file, line
        self.reason, self.help = reason, help
        said = [f"`{operator}`: {reason}" if operator else reason]
        if module is not None:
            said.append(f"  in the module: {module or 'the outermost'}")
        if file is not None:
            said.append(f"  at: {file}:{line}" + (f": {code}" if code else ""))
        if help:
            said.append(f"  help: {help}")
        super().__init__("\n".join(said))


def refusal(node: torch.fx.Node, reason: str, help: str = "") -> TranslationError:
    """The error for a call in the traced graph."""
    file, line, code = _place(str(node.meta.get("stack_trace") or ""))
    help = help or "write it with operators of docs/translation.md, or leave it outside of the module"
    return TranslationError(
        reason, operator=operator_of(node), module=path_of(node), file=file, line=line, code=code, help=help
    )


def operator_of(node: torch.fx.Node) -> str:
    """PyTorch's name of what a node calls, `aten.topk.default`."""
    target = node.target
    return str(target if isinstance(target, (str, torch._ops.OpOverload)) else node.name)


def path_of(node: torch.fx.Node) -> str:
    """The path of the innermost module that makes this call: `encoder.0.norm1`, or '' for the outermost."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = str(stack[-1][0]) if stack else ""
    return re.sub(r"@\d+$", "", path)  # a module that is called again has the path `norm@1`


def class_of(node: torch.fx.Node) -> str:
    """The name of the class of the innermost module that makes this call."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][1]).rpartition(".")[2] if stack else ""


def _place(trace: str) -> tuple[str | None, int | None, str]:
    """The innermost line that is not of PyTorch itself, or else the innermost one."""
    frames = list(_FRAME.finditer(trace))
    own = [frame for frame in frames if not _LIBRARY.search(frame["file"])]
    for frame in (own or frames)[-1:]:
        return frame["file"], int(frame["line"]), frame["code"].strip()
    return None, None, ""
