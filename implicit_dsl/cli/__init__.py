"""`implicitc`: one file per command, and here what they share a door with.

Nothing is imported before it is needed: `implicitc --help` loads no command, a command
only what it uses, and only those that take weights load torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from implicit_dsl._collector import collector_at_rest

FINE, FOUND, USAGE, INTERNAL, INTERRUPTED, PIPE_CLOSED = 0, 1, 2, 3, 130, 141

COMMANDS = {
    "compile": "write the PyTorch module of a program",
    "check": "say what is wrong with a program, and write nothing",
    "fmt": "lay out programs, with their comments and their meaning as they are",
    "show": "list the blocks of the model, its loops and their proofs",
    "plot": "draw where the matrices A, B, C, D have entries",
    "graph": "draw the network as a diagram",
    "matrices": "compute A, B, C, D, b, d with the weights",
    "verify": "prove that each loop has one equilibrium, with the weights",
    "certify": "prove how accurate it stays when inputs are disturbed, with weights and data",
    "report": "write one page about a trained model: matrices, proofs, what outputs depend on",
    "discover": "write the architecture that is left in trained weights as a program",
    "explain": "tell about a message or an operator",
    "version": "print the version",
}

_HELP = """\
implicitc: networks as equations in, PyTorch modules out.

    model Net                                    # net.impl
        input u[784]
        state x[100] ~ relu(Dense(100) * u)      # x = φ(A x + B u + b)
        output y[10] = Dense(10) * x             # y = C x + D u + d
    end

usage: implicitc COMMAND [FILE…] [options]

{commands}

Try `implicitc compile net.impl`, then `from net import Net` in Python.
`implicitc COMMAND --help` shows the options of a command, with examples."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code, and raises nothing."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        with collector_at_rest():  # a short life: what is garbage goes with the process
            code = _guarded(words)
        _flush()
        return code
    except BrokenPipeError:
        # whoever read our output has enough, as in `implicitc show net.impl | head -3`
        _abandon_output()
        return PIPE_CLOSED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:  # all that is expected was handled where it could be named
        from implicit_dsl.cli.messages import fail
        from implicit_dsl.files import reason

        _abandon_output()
        where = f" `{error.filename}`" if error.filename else ""
        fail(f"the system refused{where}: {reason(error)}")
        return FOUND


def _guarded(words: list[str]) -> int:
    """Run, and turn a mistake of ours into a request to report it."""
    from implicit_dsl.cli.messages import Refusal, fail, internal

    try:
        return _run([word for word in words if word != "--debug"])
    except Refusal as refused:
        fail(refused.message, refused.help)
        return refused.code
    except SystemExit as stop:  # argparse, once it has printed help
        return stop.code if isinstance(stop.code, int) else USAGE
    except OSError:
        raise
    except Exception as error:
        internal(error, "--debug" in words)
        return INTERNAL


def _run(words: list[str]) -> int:
    command, rest = (words[0], words[1:]) if words else ("", [])
    if command == "help":
        command, rest = (rest[0], ["--help"]) if rest else ("--help", [])
    if command in COMMANDS:
        from importlib import import_module

        return int(import_module(f"implicit_dsl.cli.{command}").main(rest))
    if command in ("-h", "--help"):
        print(help_text())
        return FINE
    if command in ("-V", "--version"):
        return _run(["version", *rest])
    if not words:
        print(help_text(), file=sys.stderr)
        return USAGE
    return _unknown(command, rest)


def help_text() -> str:
    """The page of `implicitc --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {doc}" for name, doc in COMMANDS.items()]
    return _HELP.format(commands="\n".join(lines))


def _unknown(command: str, rest: list[str]) -> int:
    import difflib

    from implicit_dsl.cli.messages import fail

    if command.endswith(".impl") or os.path.isfile(command):
        fail("a command comes first", f"write `implicitc compile {command}`, or `implicitc check {command}`")
        return USAGE
    what = "option" if command.startswith("-") else "command"
    close = difflib.get_close_matches(command, COMMANDS, 1, cutoff=0.5)
    again = " ".join(["implicitc", *close, *rest])
    fail(
        f"there is no {what} `{command}`",
        f"did you mean `{again}`?" if close else f"there are {', '.join(COMMANDS)}",
    )
    return USAGE


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


def _abandon_output() -> None:
    """Let the interpreter end quietly: it would flush standard output once more, and fail."""
    import contextlib

    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
