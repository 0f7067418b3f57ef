"""The served document, walked: for each call requests that between them name every id that the call takes."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.integration.api.given import Json
from tests.parts import ApiClient

DOCUMENT = "/swagger/v1/swagger.json"
DEPTH_MAX = 8
"""How deep bodies are filled in: deeper than any id lies."""

LATER = "2026-03-01T00:00:00.000Z"
"""Where a span of time ends that begins at the example of an instant."""


@dataclass(frozen=True)
class Slot:
    """A place where a request names something: what kind of name it takes."""

    kind: str


@dataclass(frozen=True)
class Request:
    """A request with slots still to fill."""

    call: str
    method: str
    path: str
    query: Mapping[str, object] = field(default_factory=dict)
    body: object = None

    @property
    def has_slots(self) -> bool:
        """Whether it names anything."""
        return "{" in self.path or any(map(has_slot, self.query.values())) or has_slot(self.body)

    def filled(self, names: Mapping[str, str]) -> tuple[str, Json, object]:
        """Give the path, the query and the body with these names, by kind."""
        path = re.sub(r"\{(\w+)\}", lambda found: names[found[1]], self.path)
        query: Any = filled(self.query, names)
        return path, query, filled(self.body, names)


def filled(value: object, names: Mapping[str, str]) -> object:
    """Put names into slots, wherever they are."""
    match value:
        case Slot(kind):
            return names[kind]
        case dict():
            return {name: filled(part, names) for name, part in value.items()}
        case list():
            return [filled(part, names) for part in value]
    return value


def has_slot(value: object) -> bool:
    """Whether something is named anywhere in it."""
    match value:
        case Slot():
            return True
        case dict():
            return any(map(has_slot, value.values()))
        case list():
            return any(map(has_slot, value))
    return False


class Document:
    """The document, and what can be made of it."""

    def __init__(self, document: Json, kinds: Sequence[str]) -> None:
        """Take the document, and what a slot is called beside those that take a uuid."""
        self._document = document
        self._kinds = frozenset(kinds)

    @classmethod
    async def served(cls, api: ApiClient, kinds: Sequence[str] = ()) -> "Document":
        """Ask the api for it."""
        return cls((await api.call("GET", DOCUMENT, headers={})).body, kinds)

    def operations(self) -> Iterator[tuple[str, str, Json]]:
        """Each call: method, path and what is said of it."""
        for path, operations in self._document["paths"].items():
            for method, operation in operations.items():
                yield method.upper(), path, operation

    def requests(self) -> Iterator[Request]:
        """For each call a request with what it must have, and one more for each thing that it may name."""
        for method, path, operation in self.operations():
            queries = [{}, *self._queries(operation)]
            bodies = list(self._bodies(operation))
            for query in queries:
                for body in bodies if query == {} else bodies[:1]:
                    yield Request(f"{method} {path}", method, path, query, body)

    def _queries(self, operation: Json) -> Iterator[Json]:
        named = {
            parameter["name"]: next(self._examples(parameter["name"], parameter["schema"], 0))
            for parameter in operation.get("parameters", [])
            if parameter["in"] == "query"
        }
        for name, example in named.items():
            if has_slot(example):
                yield {name: example}

    def _bodies(self, operation: Json) -> Iterator[object]:
        if "requestBody" not in operation:
            yield None
            return
        yield from self._examples("", operation["requestBody"]["content"]["application/json"]["schema"], 0)

    def _examples(self, name: str, schema: Json, depth: int) -> Iterator[object]:
        """Values of a schema: a plain one first, and one for each slot that there is."""
        if depth > DEPTH_MAX:
            return
        if "$ref" in schema:
            reference = self._document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
            schema = {**reference, "required": [*reference.get("required", []), *schema.get("required", [])]}
        options = schema.get("anyOf") or schema.get("oneOf")
        if options:
            for option in options:
                if option != {"type": "null"}:
                    yield from self._examples(name, option, depth + 1)
        elif name in self._kinds or schema.get("format") == "uuid":
            yield Slot(name)
        elif schema.get("type") == "object":
            yield from self._objects(schema, depth)
        elif schema.get("type") == "array":
            yield from self._arrays(name, schema, depth)
        else:
            yield _scalar(name, schema)

    def _objects(self, schema: Json, depth: int) -> Iterator[Json]:
        every = {
            name: list(self._examples(name, form, depth + 1)) for name, form in schema.get("properties", {}).items()
        }
        said = [name for name, form in schema.get("properties", {}).items() if "const" in form]
        must = {name: every[name][0] for name in (*schema.get("required", ()), *said) if every.get(name)}
        yield must
        for name, examples in every.items():
            for example in examples[1:] if name in must else examples:
                if has_slot(example):
                    yield {**must, name: example}

    def _arrays(self, name: str, schema: Json, depth: int) -> Iterator[list[object]]:
        examples = list(self._examples(name, schema["items"], depth + 1))
        if not schema.get("minItems"):
            yield []
        else:
            yield examples[:1]
            examples = examples[1:]
        yield from ([example] for example in examples if has_slot(example))


def _scalar(name: str, schema: Json) -> object:
    if name == "toAt":
        return LATER
    if "const" in schema or "enum" in schema:
        return schema.get("const", schema.get("enum", [None])[0])
    match schema.get("type"):
        case "integer" | "number":
            return max(schema.get("minimum", 1), 1)
        case "boolean":
            return True
    return (schema.get("examples") or ["1"])[0]
