"""Admission reviews over TLS: how many per second of processor time, and how long each takes.

Beside the injector stands the floor: aiohttp alone, which reads each review and answers with a patch that it
has made before. Both take turns in one run, so whatever else the machine does befalls both.

The client runs on the same machine, so the times include its share; the rates are the serving process's own.
"""

import asyncio
import contextlib
import json
import logging
import os
import ssl
import statistics
import sys
import time
from typing import Any, NamedTuple

from aiohttp import web

from tests.webhook.running import PREFIX, Running, review, trusting
from webhook import logs
from webhook.config import Settings
from webhook.injection import inject
from webhook.patch import diff

SIZES = (2, 8, 36)
CONCURRENCY = (1, 16)
SECONDS = 4.0
BARS = {2: 800, 36: 300}
P99_BARS = {(8, 1): 8.0}


class Row(NamedTuple):
    """What was measured for one size of pod and one number of clients."""

    kilobytes: int
    concurrency: int
    per_core: float
    """Reviews per second of the serving process's processor time."""
    floor_per_core: float
    p50: float
    """Milliseconds."""
    p99: float


def pod(kilobytes: int) -> dict[str, Any]:
    """Return a labelled pod as the API server sends it, of about that size as JSON."""
    owner = {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "name": "web-5d8f",
        "uid": "5f1c",
        "controller": True,
    }
    containers: list[dict[str, Any]] = []
    volumes: list[dict[str, Any]] = []
    new = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": "web-5d8f-",
            "namespace": "shop",
            "labels": {"app": "web", "pod-template-hash": "5d8f", "metrics-sidecar.io/inject": "true"},
            "annotations": {"example.test/owner": "team-a"},
            "ownerReferences": [owner],
        },
        "spec": {"restartPolicy": "Always", "containers": containers, "volumes": volumes},
    }
    while len(json.dumps(new)) < kilobytes * 1000:
        number = len(containers)
        volumes.append({"name": f"v{number}", "configMap": {"name": f"config-{number}"}})
        env: list[dict[str, str]] = []
        containers.append(
            {
                "name": f"app-{number}",
                "image": f"example.test/team/app-{number}:1.{number}",
                "ports": [{"name": "http", "containerPort": 8080 + number, "protocol": "TCP"}],
                "resources": {"limits": {"cpu": "1", "memory": "1Gi"}},
                "volumeMounts": [{"name": f"v{number}", "mountPath": f"/etc/config-{number}"}],
                "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}, "periodSeconds": 10},
                "env": env,
            }
        )
        while len(env) < 30 and len(json.dumps(new)) < kilobytes * 1000:
            env.append({"name": f"SETTING_{len(env)}", "value": "some value or other"})
    return new


_Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _client(stream: _Stream, message: bytes, until: float, took: list[float]) -> None:
    reader, writer = stream
    head = f"POST /pod HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(message)}\r\n\r\n"
    request = head.encode() + message
    while time.perf_counter() < until:
        start = time.perf_counter()
        writer.write(request)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = int(answer.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        body = await reader.readexactly(length)
        took.append(time.perf_counter() - start)
        if b'"allowed": true' not in body or b'"patch"' not in body:
            raise ValueError(f"reviews: {body[:200]!r}; expected an injection")
    writer.close()
    with contextlib.suppress(OSError, ssl.SSLError):
        await writer.wait_closed()


async def _load(running: Running, message: bytes, concurrency: int, seconds: float) -> list[float]:
    took: list[float] = []
    streams = [
        await asyncio.open_connection("127.0.0.1", running.port, ssl=trusting()) for _ in range(concurrency)
    ]
    until = time.perf_counter() + seconds
    await asyncio.gather(*(_client(stream, message, until, took) for stream in streams))
    return took


def _turn(running: Running, message: bytes, concurrency: int, seconds: float) -> tuple[float, list[float]]:
    """Return the processor time that the process took, and the time of each review."""
    cpu = running.cpu()
    took = asyncio.run(_load(running, message, concurrency, seconds))
    return running.cpu() - cpu, took


def _row(injector: Running, floor: Running, kilobytes: int, concurrency: int, seconds: float) -> Row:
    message = json.dumps(review(pod(kilobytes))).encode()
    cpu, took = 0.0, list[float]()
    floor_cpu, floor_count = 0.0, 0
    for running in (injector, floor):
        _turn(running, message, concurrency, 0.3)  # warm
    for _ in range(4):
        spent, times = _turn(injector, message, concurrency, seconds / 4)
        cpu, took = cpu + spent, took + times
        spent, times = _turn(floor, message, concurrency, seconds / 8)
        floor_cpu, floor_count = floor_cpu + spent, floor_count + len(times)
    cuts = statistics.quantiles(took, n=100)
    return Row(
        kilobytes, concurrency, len(took) / cpu, floor_count / floor_cpu, cuts[49] * 1000, cuts[98] * 1000
    )


def run(seconds: float = SECONDS) -> list[Row]:
    """Print the table, and return its rows."""
    rows = []
    _say("pod    at once  reviews/s/core    bar  floor  of floor   p50 ms  p99 ms  bar")
    with Running() as injector, Running(program=("-m", "bench.reviews", "floor")) as floor:
        for kilobytes in SIZES:
            for concurrency in CONCURRENCY:
                row = _row(injector, floor, kilobytes, concurrency, seconds)
                rows.append(row)
                bar = f">={BARS[kilobytes]}" if kilobytes in BARS else ""
                p99_bar = (
                    f"<={P99_BARS[kilobytes, concurrency]:.0f}"
                    if (kilobytes, concurrency) in P99_BARS
                    else ""
                )
                _say(
                    f"{kilobytes:>2} KB  {concurrency:>7}  {row.per_core:>14.0f}  {bar:>5}"
                    f"  {row.floor_per_core:>5.0f}  {row.per_core / row.floor_per_core:>7.0%}"
                    f"  {row.p50:>7.2f}  {row.p99:>6.2f}  {p99_bar}"
                )
        _say(f"resident memory {injector.rss():.0f} MiB, bar <=80")
    return rows


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _floor() -> None:
    """Serve what no injector can be faster than, in the same library."""
    logs.configure("INFO")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(os.environ[PREFIX + "SERVE_CERTIFICATE"], os.environ[PREFIX + "SERVE_KEY"])
    before = pod(2)
    patch = json.dumps(diff(before, inject(before, Settings())))

    async def respond(request: web.Request) -> web.Response:
        uid = json.loads(await request.read())["request"]["uid"]
        return web.json_response({"response": {"uid": uid, "allowed": True, "patch": patch}})

    async def serve() -> None:
        app = web.Application(client_max_size=2**23)
        app.add_routes([web.post("/pod", respond)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        assert runner.server is not None
        listener = await asyncio.get_running_loop().create_server(runner.server, "127.0.0.1", 0, ssl=context)
        port = listener.sockets[0].getsockname()[1]
        logging.getLogger("floor").info("server: listening", extra={"port": port, "probe_port": 0})
        await asyncio.Event().wait()

    asyncio.run(serve())


if __name__ == "__main__":
    if sys.argv[1:] == ["floor"]:
        _floor()
    else:
        run()
