"""`inject` and `uninject`: the injector without a cluster, on files and in pipes."""

import argparse
import contextlib
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from webhook import config
from webhook.offline.objects import Outcome, Request
from webhook.offline.text import stream
from webhook.offline.text.lines import Lines
from webhook.offline.text.stream import Part
from webhook.offline.texts import Known, Result, rewrite

SUFFIXES: Final = (".yaml", ".yml", ".json")
_STDIN: Final = "-"
_SETTINGS: Final = {
    "image": "the exporter's image",
    "port": "the exporter's port",
    "cpu": "CPU that it requests, and its limit",
    "memory": "memory that it requests, and its limit",
    "mode": "auto, container or native",
    "run_as_user": "its user id, or none",
    "native_sidecars": "whether the cluster has native sidecars: true or false",
    "ignored_namespaces": "namespaces left alone, with commas between",
}
_EPILOG: Final = """\
The report goes to standard error, one line for each object: kind/namespace/name: what was done, why.
Exit status: 0, also when there was nothing to do; 1 if something could not be read or edited, which then
passed through unchanged; 2 for wrong arguments. Settings come from METRICS_SIDECAR_INJECTOR_... too.
"""


def add_commands(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `inject` and `uninject` to the commands."""
    inject = subparsers.add_parser(
        "inject",
        help="put the sidecar into manifests",
        description="Put the sidecar into labelled workloads, and leave every other byte alone.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_shared(inject)
    inject.add_argument(
        "--all", action="store_true", dest="everything", help="as if everything were labelled"
    )
    inject.add_argument("--with-service", action="store_true", help="write the Service for Prometheus too")
    for setting, explained in _SETTINGS.items():
        inject.add_argument("--" + setting.replace("_", "-"), dest=setting, metavar="VALUE", help=explained)
    uninject = subparsers.add_parser(
        "uninject",
        help="take the sidecar out of manifests again",
        description="Take the sidecar out: what inject wrote becomes, byte for byte, what inject read.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_shared(uninject)
    inject.set_defaults(run=_run, undo=False, parser=inject)
    uninject.set_defaults(run=_run, undo=True, parser=uninject, everything=False, with_service=False)


def _add_shared(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "-f",
        "--filename",
        action="append",
        required=True,
        metavar="FILE|DIR|-",
        help="a manifest, a directory with manifests (*.yaml, *.yml, *.json), or - for standard input",
    )
    command.add_argument("-o", "--output", choices=("yaml", "patch"), default="yaml", help="manifests, or a "
        "JSON Patch (RFC 6902) in a line for each document")  # fmt: skip
    command.add_argument("-i", "--in-place", action="store_true", help="change the files instead of printing")
    command.add_argument("-n", "--namespace", default="", help="where objects are that do not say it")
    command.add_argument("-q", "--quiet", action="store_true", help="report only what failed")


@dataclass(slots=True)
class _File:
    """A manifest as it was read; `codec` and `errors` turn its text back into its bytes."""

    name: str
    path: Path | None
    content: bytes
    text: str
    codec: str
    errors: str
    parts: list[Part]

    @classmethod
    def of(cls, name: str, path: Path | None, content: bytes) -> "_File":
        codec, errors = "utf-8", "surrogateescape"
        for mark, wide in ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
            if content.startswith(mark) and len(content) % 2 == 0:
                codec, errors = wide, "surrogatepass"
        try:
            text = content.decode(codec, errors)
        except UnicodeDecodeError:
            codec, errors = "utf-8", "surrogateescape"
            text = content.decode(codec, errors)
        return cls(name, path, content, text, codec, errors, stream.split(text))


def _run(options: argparse.Namespace) -> int:
    try:
        return _Command(options).run()
    except BrokenPipeError:
        # Whoever reads has seen enough. Python would complain once more while it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


class _Command:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.patch = options.output == "patch"
        self.failed = False
        if options.in_place and (self.patch or _STDIN in options.filename):
            options.parser.error("--in-place: expected files, and no --output patch")
        self.request = Request(
            settings=_settings(options),
            undo=options.undo,
            everything=options.everything,
            with_service=options.with_service,
            namespace=options.namespace,
        )

    def run(self) -> int:
        files = [file for name in self.options.filename for file in self.read(name)]
        known = Known()
        for file in files:
            known.learn(file.parts, self.request)
        results: list[tuple[_File, Result]] = []
        for file in files:
            result = rewrite(file.parts, known, self.request, patch=self.patch)
            self.report(file, result)
            results.append((file, result))
        if self.options.in_place:
            for file, result in results:
                self.replace(file, result)
        else:
            self.print(results)
        return 1 if self.failed else 0

    def read(self, name: str) -> list[_File]:
        try:
            if name == _STDIN:
                return [_File.of("stdin", None, sys.stdin.buffer.read())]
            path = Path(name)
            if not path.is_dir():
                return [_File.of(name, path, path.read_bytes())]
            inside = sorted(found for found in path.iterdir() if found.suffix in SUFFIXES and found.is_file())
            if not inside:
                self.complain(f"{name}: no manifests in it; expected *.yaml, *.yml or *.json")
            return [file for found in inside for file in self.read(str(found))]
        except OSError as error:
            self.complain(
                f"{name}: {(error.strerror or str(error)).lower()}; expected a readable file or directory"
            )
            return []

    def report(self, file: _File, result: Result) -> None:
        for error in result.errors:
            self.complain(f"{file.name}:{error.line}: {error}")
        for outcome in result.outcomes:
            self.failed |= outcome.failed
            if outcome.failed or not self.options.quiet:
                _say(_line(file, outcome))
        for subject, sentence in result.warnings:
            _say(f"{subject}: warning  {sentence}")

    def complain(self, problem: str) -> None:
        self.failed = True
        _say(problem)

    def print(self, results: list[tuple[_File, Result]]) -> None:
        out = sys.stdout.buffer
        if self.patch:
            for _, result in results:
                for changes in result.patches:
                    out.write(json.dumps(changes, separators=(",", ":")).encode() + b"\n")
        elif len(results) == 1:
            out.write(_bytes(*results[0]))
        else:
            _print_joined(out, results)
        out.flush()

    def replace(self, file: _File, result: Result) -> None:
        content = _bytes(file, result)
        if file.path is None or content == file.content:
            return
        try:
            _replace(file.path.resolve(), content)
        except OSError as error:
            self.complain(f"{file.name}: {(error.strerror or str(error)).lower()}; expected a writable file")


def _settings(options: argparse.Namespace) -> config.Settings:
    environment = {name: value for name, value in os.environ.items() if name.startswith(config.PREFIX)}
    settings, messages = config.settings(environment)
    for setting in _SETTINGS:
        if (value := getattr(options, setting, None)) is None:
            continue
        variable = config.PREFIX + setting.upper()
        environment[variable] = value
        settings, _ = config.settings(environment)
        _, wrong = config.settings({variable: value})
        messages = [message for message in messages if variable not in message]
        flag = "--" + setting.replace("_", "-")
        if not value.strip():
            wrong = [f"config: {variable}={value!r}; expected a value"]
        messages += [message.replace(f"config: {variable}", flag) for message in wrong]
    if messages:
        options.parser.error("; ".join(messages))
    return settings


def _line(file: _File, outcome: Outcome) -> str:
    where = f"{file.name}:{outcome.line}: " if outcome.line else ""
    return f"{outcome.subject}: {outcome.done.value}  {outcome.code}  {where}{outcome.sentence}"


def _say(line: str) -> None:
    # A closed standard error is no reason to leave the output incomplete.
    with contextlib.suppress(OSError, ValueError):
        print(line.encode("utf-8", "backslashreplace").decode(), file=sys.stderr)  # noqa: T201


def _bytes(file: _File, result: Result) -> bytes:
    return result.text.encode(file.codec, file.errors)


def _print_joined(out: IO[bytes], results: list[tuple[_File, Result]]) -> None:
    """Print several files as one stream of YAML documents."""
    ended = True
    for _, result in results:
        for piece in _pieces(result):
            text = piece.removeprefix("\ufeff")
            if not text.strip():
                continue
            text = text if ended else stream.separator(text) + text
            out.write(text.encode("utf-8", "surrogateescape"))
            if not Lines(text).ended:
                out.write(Lines(text).eol.encode())
            ended = False


def _pieces(result: Result) -> list[str]:
    """The text of a file, cut where JSON values follow each other, which YAML does not allow."""
    if any(part.document is not None and part.document.json for part in result.parts):
        return [part.text for part in result.parts]
    return [result.text]


def _replace(path: Path, content: bytes) -> None:
    """Write a file at once, so that it is never half of it."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as new:
            new.write(content)
        Path(temporary).chmod(path.stat().st_mode & 0o7777)
        Path(temporary).replace(path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise
