"""``fedcore COMMAND ...``: one door to every command, and one place for errors.

Commands are found through the entry points of the group ``fedcore.commands``, so
this package imports none of the layers above it, and only the module of the command
in use is loaded. ``fedcore --help`` imports no torch.

Exit codes: 0 done; 1 the command failed, with cause and fix in one message; 2 the
command line was wrong; 130 stopped by Ctrl-C.
"""

import argparse
import difflib
import logging
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points, version
from typing import Any, NoReturn, Protocol

from fedcore.errors import ConfigError, FedError

GROUP = "fedcore.commands"
STOPPED = 130
EVERYWHERE = "Every command also takes --quiet, --verbose and --debug."


class Command(Protocol):
    """One command; an entry point of the group ``fedcore.commands`` names an object.

    Importing its module must be cheap: heavy imports belong inside ``run``.

    Attributes:
        name: the word on the command line.
        help: one line for ``fedcore --help``.
    """

    @property
    def name(self) -> str: ...

    @property
    def help(self) -> str: ...

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments to ``parser``.

        A command with sub-commands sets the default ``_leaf`` of each to its parser,
        so that errors show the right usage.
        """
        ...

    def run(self, args: argparse.Namespace) -> int:
        """Do it and return the exit code.

        Raises:
            FedError: it failed; the message names cause and fix.
        """
        ...


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors name the nearest word that exists."""

    def error(self, message: str) -> NoReturn:
        """Print usage, the error and the nearest valid word, and exit with 2."""
        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}: {message}{_hint(message, self)}\n")


def _hint(message: str, parser: argparse.ArgumentParser) -> str:
    """Return `` (did you mean X?)`` if ``message`` is about a word close to X."""
    wrong = re.search(
        r"invalid choice: '([^']*)'|unrecognized arguments: (\S+)", message
    )
    if wrong is None:
        return ""
    if wrong[1] is not None:
        known = re.findall(r"'([^']*)'", message.partition("choose from")[2])
    else:
        known = re.findall(r"--[\w-]+", parser.format_help())
    return nearest(wrong[1] or wrong[2], known)


def nearest(word: str, known: Sequence[str]) -> str:
    """Return `` (did you mean X?)`` with the known word closest to ``word``, if any."""
    close = difflib.get_close_matches(word, known, 1)
    return f" (did you mean {close[0]}?)" if close else ""


def commands() -> Mapping[str, EntryPoint]:
    """Return the commands installed with this package and its plug-ins, by name."""
    return {e.name: e for e in sorted(entry_points(group=GROUP), key=lambda e: e.name)}


def common_parser() -> argparse.ArgumentParser:
    """Return the parser of the flags that every command takes, anywhere in the line."""
    parser = argparse.ArgumentParser(prog="fedcore", add_help=False, allow_abbrev=False)
    talk = parser.add_mutually_exclusive_group()
    talk.add_argument(
        "-q", "--quiet", action="store_true", help="say only errors and results"
    )
    talk.add_argument(
        "-v", "--verbose", action="store_true", help="log what happens, on stderr"
    )
    parser.add_argument(
        "--debug", action="store_true", help="show the traceback of an error"
    )
    return parser


def full_parser(entries: Mapping[str, EntryPoint], only: str | None = None) -> Parser:
    """Return the parser of the whole command line.

    A command that cannot be loaded is listed with the reason, and stops no other.

    Args:
        entries: the commands; each loaded one imports its module.
        only: load just this one, if it exists; the others are known by name.

    Raises:
        ConfigError: the command ``only`` cannot be loaded.
    """
    parser = Parser(
        prog="fedcore",
        description="Federated and decentralized learning: one strategy, run in "
        "simulation, through Flower, or with no server at all.",
        epilog=EVERYWHERE,
    )
    parser.add_argument("--version", action="version", version=_version())
    chosen = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, entry in entries.items():
        if only in entries and name != only:
            chosen.add_parser(name)
            continue
        try:
            _add(chosen, name, entry)
        except (Exception, SystemExit) as error:
            why = f"cannot be loaded: {type(error).__name__}: {_one_line(error)}"
            if name == only:
                raise ConfigError(f"{name} {why}; {_cure(entry)}") from error
            if name not in chosen.choices:
                chosen.add_parser(name, help=why.replace("%", "%%"))
    return parser


def _add(chosen: Any, name: str, entry: EntryPoint) -> None:
    """Load the command ``name`` and add its parser to ``chosen``."""
    command: Command = entry.load()
    about = _sentence(command.help)
    child = chosen.add_parser(
        name, help=command.help, description=about, epilog=EVERYWHERE
    )
    child.set_defaults(_command=command, _leaf=child)
    command.configure(child)


def _cure(entry: EntryPoint) -> str:
    """Return what to do about a command that cannot be loaded."""
    package = entry.dist.name if entry.dist else entry.value
    return f"reinstall or remove {package}, or see the traceback with --debug"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."


def _version() -> str:
    return f"fedcore {version('fedcore')}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (default: this process's); return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: _run(words), debug="--debug" in words)


def _run(words: Sequence[str]) -> int:
    common, rest = common_parser().parse_known_args(words)
    log_to_stderr(common.quiet, common.verbose)
    first = next((w for w in rest if not w.startswith("-")), None)
    args, extra = full_parser(commands(), first).parse_known_args(rest)
    if extra:
        args._leaf.error(f"unrecognized arguments: {' '.join(extra)}")
    vars(args).update(vars(common))
    code: int = args._command.run(args)
    sys.stdout.flush()  # a closed pipe shows here, not at exit
    return code


def guarded(action: Callable[[], int], *, debug: bool = False) -> int:
    """Return what ``action`` returns; turn what it raises into words and a code.

    This is the one border between program and user: no error passes it.
    """
    try:
        return action()
    except SystemExit as done:  # argparse: 0 after --help, 2 after a wrong line
        return done.code if isinstance(done.code, int) else 1
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        sys.stderr.write("fedcore: stopped\n")
        return STOPPED
    except Exception as error:  # noqa: BLE001 - the border itself
        return report_error(error, debug=debug)


def report_error(error: Exception, *, debug: bool = False) -> int:
    """Tell the user about ``error`` on stderr and return the exit code, 1.

    Errors raised on purpose and errors of the file system are one message with cause
    and fix. Of any other the type, message and place are named, and the traceback goes
    to a file, or to stderr when ``debug``.
    """
    if debug:
        traceback.print_exception(error)
    text = explained(error)
    if not debug and not isinstance(error, FedError | OSError):
        text = f"{text}; traceback in {_keep_traceback(error)}"
    sys.stderr.write(f"fedcore: {text}\n")
    return 1


def explained(error: Exception) -> str:
    """Return what went wrong in one line: cause and fix, or type, message and place."""
    if isinstance(error, FedError):
        return _one_line(error)
    if isinstance(error, OSError) and error.strerror:
        path = f"{error.filename}: " if error.filename else ""
        fix = "check the path, your permissions and the space left"
        return f"{path}{error.strerror}; {fix}"
    what = "; ".join([_one_line(error), *_notes(error)])
    return f"unexpected {type(error).__name__}: {what}{_place(error)}"


def _one_line(error: BaseException) -> str:
    """Return the message without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def _notes(error: Exception) -> list[str]:
    """Return the one-line notes added to ``error``, such as whose training it was."""
    return [n for n in getattr(error, "__notes__", ()) if "\n" not in n]


def _place(error: Exception) -> str:
    """Return where ``error`` was raised, outside installed libraries if possible."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "site-packages" not in f.filename] or list(frames)
    return f" (at {ours[-1].filename}:{ours[-1].lineno})" if ours else ""


def _keep_traceback(error: Exception) -> str:
    """Write the traceback of ``error`` to a new file and return its path."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="fedcore-", suffix=".log", delete=False
        ) as file:
            traceback.print_exception(error, file=file)
            return file.name
    except OSError:
        return "no file: the temporary folder is not writable; use --debug"


def log_to_stderr(quiet: bool, verbose: bool) -> None:
    """Send log records to stderr: errors if ``quiet``, all from INFO if ``verbose``."""
    level = logging.ERROR if quiet else logging.INFO if verbose else logging.WARNING
    root = logging.getLogger()
    root.setLevel(min(level, logging.WARNING))
    for old in [h for h in root.handlers if h.name == "fedcore-stderr"]:
        root.removeHandler(old)
    handler = logging.StreamHandler(sys.stderr)
    handler.name = "fedcore-stderr"
    handler.setLevel(level)
    handler.addFilter(lambda record: not record.exc_info)  # for files; we tell errors
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root.addHandler(handler)
    logging.raiseExceptions = False  # a log that fails must not bury the message


if __name__ == "__main__":
    sys.exit(main())
