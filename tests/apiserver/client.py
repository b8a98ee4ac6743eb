"""A thin API client: plain dicts in, plain dicts out.

Typed client models drop fields that they do not know, which is the very thing that tests here must notice. So
objects stay what the API server said. All methods may be called from any thread; each thread has a connection
of its own, kept alive.
"""

import base64
import contextlib
import http.client
import json
import re
import select
import ssl
import tempfile
import threading
import urllib.parse
from pathlib import Path
from typing import Any, Self

import yaml

from tests.apiserver.certificates import Identity

Object = dict[str, Any]

PATCH_TYPES = {
    "json": "application/json-patch+json",
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "apply": "application/apply-patch+yaml",
}

# RFC 7234 section 5.5, as the API server writes it: 299 - "text". Quotes and backslashes inside are escaped.
_WARNING = re.compile(r'\d{3} \S+ "((?:[^"\\]|\\.)*)"')


class ApiError(Exception):
    """The API server refused. `status` is its Status object, `warnings` what it said besides."""

    def __init__(self, status: Object, warnings: list[str]) -> None:
        super().__init__(f"{status.get('code')} {status.get('reason')}: {status.get('message')}")
        self.status = status
        self.warnings = warnings

    @property
    def code(self) -> int:
        return int(self.status.get("code", 0))

    @property
    def reason(self) -> str:
        return str(self.status.get("reason", ""))

    @property
    def message(self) -> str:
        return str(self.status.get("message", ""))


class Client:
    """One user's way to one API server.

    Kinds are found by discovery, so custom resources work as soon as they are served. Writes are validated
    strictly by default, as kubectl does: with a misspelt field in its pod, a test would prove nothing.
    """

    def __init__(
        self,
        url: str,
        ca: bytes,
        *,
        identity: Identity | None = None,
        token: str | None = None,
        timeout: float = 60.0,
    ) -> None:
        address = urllib.parse.urlsplit(url)
        self._host, self._port = address.hostname or "", address.port or 443
        self._timeout = timeout
        self._token = token
        self._tls = ssl.create_default_context(cadata=ca.decode())
        if identity is not None:
            _load(self._tls, identity)
        self._lock = threading.Lock()
        self._connections: dict[threading.Thread, http.client.HTTPSConnection] = {}
        self._resources: dict[tuple[str, str], tuple[str, bool]] = {}
        self._last = threading.local()

    @classmethod
    def from_kubeconfig(cls, path: Path) -> "Client":
        """Return a client for the current context of a kubeconfig that carries its certificates in itself."""
        config = yaml.safe_load(path.read_text())
        context = _named(config["contexts"], config["current-context"])["context"]
        cluster = _named(config["clusters"], context["cluster"])["cluster"]
        user = _named(config["users"], context["user"])["user"]
        identity = None
        if "client-certificate-data" in user:
            identity = Identity(
                base64.b64decode(user["client-certificate-data"]), base64.b64decode(user["client-key-data"])
            )
        ca = base64.b64decode(cluster["certificate-authority-data"])
        return cls(cluster["server"], ca, identity=identity, token=user.get("token"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections of all threads; the client stays usable and would open new ones."""
        with self._lock:
            for connection in self._connections.values():
                connection.close()
            self._connections.clear()

    @property
    def warnings(self) -> list[str]:
        """What this thread's last call was warned about: the texts that kubectl would print."""
        return getattr(self._last, "warnings", [])

    # --- objects -----------------------------------------------------------------------------------------

    def create(self, obj: Object, **options: Any) -> Object:
        """Create `obj` in its own namespace, or in `default` if it is namespaced and names none.

        Options of all writes: `dry_run`, `strict` (default True), `manager` (the field manager).
        """
        return self._write("POST", self._path_of(obj, collection=True), obj, **options)

    def update(self, obj: Object, *, subresource: str = "", **options: Any) -> Object:
        """Replace the whole object; a `resourceVersion` in it guards against lost updates."""
        return self._write("PUT", self._path_of(obj, subresource=subresource), obj, **options)

    def apply(self, obj: Object, *, manager: str, force: bool = False, **options: Any) -> Object:
        """Server-side apply."""
        query = {"force": "true"} if force else {}
        path = self._path_of(obj)
        return self._write("PATCH", path, obj, type_="apply", query=query, manager=manager, **options)

    def patch(
        self,
        api_version: str,
        kind: str,
        name: str,
        patch: Object | list[Object],
        namespace: str | None = None,
        *,
        type_: str = "merge",
        subresource: str = "",
        **options: Any,
    ) -> Object:
        """Patch by `json` (a list of operations), `merge` or `strategic`."""
        path = self.path(api_version, kind, name, namespace, subresource)
        return self._write("PATCH", path, patch, type_=type_, **options)

    def get(
        self, api_version: str, kind: str, name: str, namespace: str | None = None, *, subresource: str = ""
    ) -> Object:
        """Return one object."""
        found: Object = self.request("GET", self.path(api_version, kind, name, namespace, subresource))
        return found

    def find(self, api_version: str, kind: str, name: str, namespace: str | None = None) -> Object | None:
        """Return one object, or None if there is none."""
        try:
            return self.get(api_version, kind, name, namespace)
        except ApiError as error:
            if error.code == http.client.NOT_FOUND:
                return None
            raise

    def items(
        self, api_version: str, kind: str, namespace: str | None = None, *, labels: str = "", fields: str = ""
    ) -> list[Object]:
        """Return what matches, of one namespace or of all; each is whole, with apiVersion and kind."""
        query = {"labelSelector": labels, "fieldSelector": fields}
        answer = self.request("GET", self.path(api_version, kind, None, namespace), query=query)
        return [{"apiVersion": api_version, "kind": kind, **item} for item in answer["items"]]

    def delete(
        self,
        api_version: str,
        kind: str,
        name: str,
        namespace: str | None = None,
        *,
        propagation: str = "Background",
        dry_run: bool = False,
    ) -> Object:
        """Delete one object; `propagation` Background, Foreground or Orphan needs the garbage collector."""
        query = {"propagationPolicy": propagation, "dryRun": "All" if dry_run else ""}
        answer: Object = self.request("DELETE", self.path(api_version, kind, name, namespace), query=query)
        return answer

    def delete_all(self, api_version: str, kind: str, namespace: str, *, labels: str = "") -> None:
        """Delete what matches in one namespace, without a grace period."""
        query = {"labelSelector": labels, "gracePeriodSeconds": "0"}
        self.request("DELETE", self.path(api_version, kind, None, namespace), query=query)

    # --- paths -------------------------------------------------------------------------------------------

    def path(
        self,
        api_version: str,
        kind: str,
        name: str | None = None,
        namespace: str | None = None,
        subresource: str = "",
    ) -> str:
        """Return the URL path of an object, or of the collection if no name is given."""
        plural, namespaced = self._resource(api_version, kind)
        parts = [_group_path(api_version)]
        if namespaced and name is not None and namespace is None:
            namespace = "default"
        if namespaced and namespace is not None:
            parts += ["namespaces", namespace]
        parts += [part for part in (plural, name, subresource) if part]
        return "/".join(parts)

    def _path_of(self, obj: Object, *, collection: bool = False, subresource: str = "") -> str:
        metadata = obj["metadata"]
        _, namespaced = self._resource(obj["apiVersion"], obj["kind"])
        namespace = metadata.get("namespace", "default") if namespaced else None
        name = None if collection else metadata["name"]
        return self.path(obj["apiVersion"], obj["kind"], name, namespace, subresource)

    def _resource(self, api_version: str, kind: str) -> tuple[str, bool]:
        """Return the plural name and whether it is namespaced."""
        if (api_version, kind) not in self._resources:
            for resource in self.request("GET", _group_path(api_version))["resources"]:
                if "/" not in resource["name"]:
                    known = resource["name"], resource["namespaced"]
                    self._resources[api_version, resource["kind"]] = known
        try:
            return self._resources[api_version, kind]
        except KeyError:
            raise LookupError(f"the API server has no {kind} in {api_version}") from None

    # --- requests ----------------------------------------------------------------------------------------

    def _write(
        self,
        method: str,
        path: str,
        body: Object | list[Object],
        *,
        type_: str = "",
        dry_run: bool = False,
        strict: bool = True,
        manager: str = "",
        query: dict[str, str] | None = None,
    ) -> Object:
        query = {
            "dryRun": "All" if dry_run else "",
            # A JSON patch or a subresource is validated just the same; the server's own default only warns.
            "fieldValidation": "Strict" if strict else "",
            "fieldManager": manager,
            **(query or {}),
        }
        content_type = PATCH_TYPES[type_] if type_ else "application/json"
        answer: Object = self.request(method, path, body, query=query, content_type=content_type)
        return answer

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: dict[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Any:
        """Send one request and return the answer: decoded if it is JSON, else its text.

        Raises:
            ApiError: the answer's status is 400 or above.
            OSError, http.client.HTTPException: there was no answer, or half of one. Nothing is sent twice.
        """
        self._last.warnings = []
        if query := {key: value for key, value in (query or {}).items() if value}:
            path = f"{path}?{urllib.parse.urlencode(query)}"
        headers = {
            "Accept": "application/json",
            "Content-Type": content_type,
            "User-Agent": "apiserver-tests",
        }
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        payload = None if body is None else json.dumps(body).encode()
        connection = self._connection()
        try:
            connection.request(method, path, payload, headers)
            response = connection.getresponse()
            content = response.read().decode()
        except BaseException:
            # In the middle of an exchange, also when interrupted: the next one starts afresh.
            connection.close()
            raise
        self._last.warnings = _warnings(response.headers.get_all("Warning", []))
        is_json = response.headers.get_content_type() == "application/json"
        answer: Any = json.loads(content) if is_json else content
        if response.status >= http.client.BAD_REQUEST:
            no_status = {"code": response.status, "reason": response.reason, "message": content}
            raise ApiError(answer if is_json else no_status, self.warnings)
        return answer

    def _connection(self) -> http.client.HTTPSConnection:
        """Return this thread's connection, a live one: a write is not safe to repeat, so look before it."""
        thread = threading.current_thread()
        with self._lock:
            connection = self._connections.get(thread)
            if connection is None:
                for gone in [other for other in self._connections if not other.is_alive()]:
                    self._connections.pop(gone).close()
                connection = http.client.HTTPSConnection(
                    self._host, self._port, timeout=self._timeout, context=self._tls
                )
                self._connections[thread] = connection
        if connection.sock is not None and _has_input(connection.sock):
            # Between exchanges the server has nothing to say but goodbye: it stopped or was restarted.
            connection.close()
        return connection


def _load(tls: ssl.SSLContext, identity: Identity) -> None:
    """Load a client certificate, which the ssl module only reads from files."""
    with tempfile.TemporaryDirectory() as folder:
        tls.load_cert_chain(*identity.write(Path(folder), "client"))


def _has_input(sock: Any) -> bool:
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    return bool(poller.poll(0))


def _named(entries: list[Object], name: str) -> Object:
    return next(entry for entry in entries if entry["name"] == name)


def _group_path(api_version: str) -> str:
    return f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"


def _warnings(headers: list[str]) -> list[str]:
    found = []
    for header in headers:
        # http.client reads headers as Latin-1; the API server writes UTF-8.
        with contextlib.suppress(UnicodeError):
            header = header.encode("latin-1").decode()
        found += [re.sub(r"\\(.)", r"\1", text) for text in _WARNING.findall(header)]
    return found
