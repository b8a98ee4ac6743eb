"""Inject into, and uninject from, the text of a whole manifest; what is not ours stays byte for byte."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from webhook import shape
from webhook.names import Note
from webhook.offline import objects
from webhook.offline.objects import Done, Outcome, Request
from webhook.offline.text import stream
from webhook.offline.text.edit import change
from webhook.offline.text.lines import chomp
from webhook.offline.text.node import TextError, plain, same
from webhook.offline.text.stream import Document, Part
from webhook.offline.text.style import Style
from webhook.patch import diff
from webhook.shape import Json

ServiceKey: TypeAlias = tuple[str, str]
"""The namespace and the name of a Service."""


@dataclass(slots=True)
class Known:
    """What the whole input holds that decides about parts of it."""

    namespaces: dict[str, Json] = field(default_factory=dict)
    services: set[ServiceKey] = field(default_factory=set)

    def learn(self, parts: list[Part], request: Request) -> None:
        """Take note of the Namespaces and Services of a file."""
        for part in parts:
            for obj in _objects(_said(part)):
                if obj.get("kind") == "Namespace":
                    self.namespaces[shape.name(obj)] = obj
                elif obj.get("kind") == "Service":
                    self.services.add(_key(obj, request))


@dataclass(slots=True)
class Result:
    """What became of a file."""

    parts: list[Part] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    warnings: list[tuple[str, str]] = field(default_factory=list)
    """Subjects, and what is said of them."""
    errors: list[TextError] = field(default_factory=list)
    """What could not be read; the lines are those of the file."""
    patches: list[list[Json]] = field(default_factory=list)
    """One for each document."""

    @property
    def text(self) -> str:
        """The text of the file."""
        return "".join(part.text for part in self.parts)


def rewrite(parts: list[Part], known: Known, request: Request, *, patch: bool = False) -> Result:
    """Return a file with every object treated as asked; with `patch` the text stays, and patches tell.

    A document that cannot be read or edited passes through as it is, and is reported.
    """
    result = Result()
    if request.undo and not patch:
        parts = _without_services(parts, request, result)
    for part in parts:
        obj = _said(part)
        if part.document is not None:
            _Rewriter(part, part.document, known, request, result).run(obj, patch)
            continue
        result.parts.append(part)
        if part.error:
            result.errors.append(part.error)
            result.patches.append([])
    return result


@dataclass(slots=True)
class _Rewriter:
    """Treats one document, and adds to the result."""

    part: Part
    document: Document
    known: Known
    request: Request
    result: Result

    def run(self, before: Any, patch: bool) -> None:  # noqa: ANN401 (any JSON)
        obj = before
        if self.request.undo:
            obj = self.without_services(obj, patch)
        new, outcomes = self.treated(obj, patch)
        self.result.outcomes += outcomes
        services = self.lacking(new) if self.request.with_service else []
        if patch:
            self.patch(before, new, services)
        else:
            self.result.parts.append(self.part)
            self.add(new, services)

    def treated(self, obj: Any, patch: bool) -> tuple[Any, list[Outcome]]:  # noqa: ANN401
        """Treat the object, or the items of a list: all at once, or, where that fails, one by one."""
        done = [self.apply(item) for item in (obj["items"] if _is_list(obj) else [obj])]
        outcomes = [outcome for _, outcome in done]
        new = {**obj, "items": [item for item, _ in done]} if _is_list(obj) else done[0][0]
        if patch or same(new, obj):
            return new, outcomes
        try:
            self.edit(new)
        except TextError as error:
            if not _is_list(obj):
                return obj, [self.failed(outcomes[0], error)]
        else:
            return new, outcomes
        untouched = self.document
        items = list(obj["items"])
        for index, (item, outcome) in enumerate(done):
            before, items[index] = items[index], item
            try:
                self.edit({**obj, "items": items})
            except TextError as error:
                items[index] = before
                outcomes[index] = self.failed(outcome, error)
        if not self.request.undo and change(self.document, obj).text != untouched.text:
            # Each edit can be undone, but not all of them at once, as uninject would.
            self.document, self.part = untouched, Part(untouched.text, untouched)
            problem = TextError(1, "the edits could not be undone exactly", "objects that share less")
            return obj, [self.failed(outcome, problem) for outcome in outcomes]
        return {**obj, "items": items}, outcomes

    def apply(self, obj: Any) -> tuple[Any, Outcome]:  # noqa: ANN401
        new, outcome = objects.apply(obj, self.known.namespaces, self.request)
        if outcome.done is Done.INJECTED:
            found = objects.warnings(obj, self.request.settings)
            self.result.warnings += [(outcome.subject, sentence) for sentence in found]
        return new, outcome

    def edit(self, new: Any) -> None:  # noqa: ANN401
        """Make the document's text say something new. Raises TextError, and then changes nothing."""
        self.document = change(self.document, new, reversible=not self.request.undo)
        self.part = Part(self.document.text, self.document)

    def failed(self, outcome: Outcome, error: TextError) -> Outcome:
        line = self.document.line + error.line - 1
        return Outcome(
            outcome.subject, Done.SKIPPED, Note.CANNOT_EDIT.value, str(error), failed=True, line=line
        )

    def say(self, obj: object, done: Done, note: Note) -> Outcome:
        said = objects.outcome(obj, done, note, self.request)
        self.result.outcomes.append(said)
        return said

    def lacking(self, new: object) -> list[Json]:
        """The Services that injected workloads have not got in the input."""
        found: list[Json] = []
        for obj in filter(objects.has_sidecar, _objects(new)):
            service = objects.service_of(obj, self.request)
            if service is None:
                self.say(obj, Done.SKIPPED, Note.SERVICE_NO_NAME)
            elif _key(service, self.request) in self.known.services:
                self.say(service, Done.UNCHANGED, Note.SERVICE_EXISTS)
            else:
                self.known.services.add(_key(service, self.request))
                found.append(service)
        return found

    def add(self, new: Any, services: list[Json]) -> None:  # noqa: ANN401
        """Write Services: into the list, or as documents of their own behind this one."""
        said = [self.say(service, Done.ADDED, Note.SERVICE_ADDED) for service in services]
        if not services:
            return
        try:
            if new.get("kind") == "List":
                self.edit({**new, "items": [*new["items"], *services]})
                self.result.parts[-1] = self.part
            else:
                beside = [part for service in services for part in _beside(self.document, service)]
                self.result.parts += beside
        except TextError as error:
            self.result.outcomes[-len(said) :] = [self.failed(outcome, error) for outcome in said]

    def without_services(self, obj: Any, patch: bool) -> Any:  # noqa: ANN401
        """Take away what `add` wrote into a list."""
        ours = list(filter(objects.is_our_service, _objects(obj)))
        if not ours:
            return obj
        if not _is_list(obj):
            self.say(obj, Done.SKIPPED, Note.SERVICE_NOT_IN_PATCH)
            return obj
        said = [self.say(service, Done.REMOVED, Note.SERVICE_REMOVED) for service in ours]
        without = {**obj, "items": [item for item in obj["items"] if not objects.is_our_service(item)]}
        try:
            if not patch:
                self.edit(without)
        except TextError as error:
            self.result.outcomes[-len(said) :] = [self.failed(outcome, error) for outcome in said]
            return obj
        return without

    def patch(self, before: Any, new: Any, services: list[Json]) -> None:  # noqa: ANN401
        listed = _is_list(new) and new.get("kind") == "List"
        for service in services:
            note = (Done.ADDED, Note.SERVICE_ADDED) if listed else (Done.SKIPPED, Note.SERVICE_NOT_IN_PATCH)
            self.say(service, *note)
        self.result.parts.append(self.part)
        if not _is_list(new):
            self.result.patches.append(diff(before, new))
            return
        kept = [index for index, item in enumerate(before["items"]) if not self.gone(item)]
        changes: list[Json] = []
        for index, item in zip(kept, new["items"], strict=True):
            changes += diff(before["items"][index], item, "items", str(index))
        gone = sorted(set(range(len(before["items"]))) - set(kept), reverse=True)
        changes += [{"op": "remove", "path": f"/items/{index}"} for index in gone]
        if listed:
            changes += [{"op": "add", "path": "/items/-", "value": service} for service in services]
        self.result.patches.append(changes)

    def gone(self, item: object) -> bool:
        return self.request.undo and objects.is_our_service(item)


def _said(part: Part) -> Any:  # noqa: ANN401 (any JSON)
    """What a part says, None if that is nothing, or more than anybody can mean."""
    if part.document is None:
        return None
    try:
        return plain(part.document.root)
    except TextError as error:
        error.line += part.document.line - 1
        part.document, part.error = None, error
        return None


def _is_list(obj: object) -> bool:
    found = shape.mapping(obj)
    return shape.text(found.get("kind")).endswith("List") and isinstance(found.get("items"), list)


def _objects(obj: object) -> Iterator[Json]:
    """The object, or those in the list that it is."""
    yield from shape.mappings(shape.mapping(obj)["items"] if _is_list(obj) else [obj])


def _key(service: Json, request: Request) -> ServiceKey:
    return shape.text(shape.metadata(service).get("namespace")) or request.namespace, shape.name(service)


def _beside(document: Document, service: Json) -> list[Part]:
    """A document for a Service, to stand behind another one, in its style."""
    style = Style(document)
    if document.json:
        text = style.spread(service, "") if style.multiline else style.inline(service)
        return [Part(style.eol), Part(text, stream.read(text, json=True))]
    lines = ["---", *([style.inline(service)] if style.json else style.entries(service, 0))]
    if stream.ends_with_marker(document.text):
        lines.append("...")
    text = style.eol.join(lines)
    if style.lines.ended:
        return [Part(text + style.eol)]
    after = stream.read(document.text + style.eol)
    if after is None or not same(plain(after.root), plain(document.root)):
        line = style.lines.number(len(document.text))
        raise TextError(line, "a block scalar that ends with the file", "an empty line behind it")
    return [Part(style.eol + text)]


def _without_services(parts: list[Part], request: Request, result: Result) -> list[Part]:
    """Undo `_beside` first of all, so that what it stood behind ends again as it did when it was edited."""
    kept: list[Part] = []
    for index, part in enumerate(parts):
        obj = _said(part)
        if part.document is None or not objects.is_our_service(obj):
            kept.append(part)
            continue
        result.outcomes.append(objects.outcome(obj, Done.REMOVED, Note.SERVICE_REMOVED, request))
        if part.document.json:
            if kept and not kept[-1].text.strip():
                del kept[-1]
        elif index == len(parts) - 1 and kept and not Style(part.document).lines.ended:
            before = kept[-1]
            text = chomp(before.text)
            document = stream.read(text, before.document.line) if before.document else None
            kept[-1] = Part(text, document, before.error)
    return kept
