"""Ten thousand reviews, such as no API server sends among them: every one is let through, or is none.

`REVIEWS_SEED` chooses other ones; a failure names its seed.
"""

import asyncio
import base64
import copy
import json
import os
import random
from collections import Counter
from pathlib import Path

import jsonpatch
import pytest
import yaml

from tests.webhook.running import Running, review
from webhook import names
from webhook.admission.review import NotAReviewError, Review
from webhook.injection import inject
from webhook.workload import get, template_path

COUNT = 10_000
SEED = int(os.environ.get("REVIEWS_SEED", "4"))
GOLDEN = Path(__file__).parent / "golden"
OBJECTS = [yaml.safe_load(path.read_text()) for path in sorted(GOLDEN.glob("*/*.yaml"))]
WORKLOADS = [obj for obj in OBJECTS if template_path(obj)]
PODS = [{"kind": "Pod", **get(obj, template_path(obj))} for obj in OBJECTS if template_path(obj) is not None]
KEYS = [
    *names.OVERRIDES,
    names.INJECT_LABEL,
    names.STATUS_ANNOTATION,
    names.STAMPED_ANNOTATION,
    "metadata",
    "labels",
    "annotations",
    "spec",
    "containers",
    "initContainers",
    "template",
    "jobTemplate",
    "env",
    "ports",
    "resources",
    "ownerReferences",
    "",
    "a/b~c",
    "ключ",
]
SCALARS = [
    None,
    True,
    False,
    0,
    -1,
    1.5,
    10**30,
    "",
    "true",
    "false",
    "x" * 300,
    "\ud800",
    "\0",
    "🦀",
    "99999",
    "{}",
]


def some_json(rng, depth=0):
    kind = rng.random()
    if depth > 3 or kind < 0.5:
        return rng.choice(SCALARS)
    if kind < 0.75:
        return [some_json(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(KEYS): some_json(rng, depth + 1) for _ in range(rng.randrange(4))}


def nodes(obj):
    """Every place in an object, as its parent and its key there."""
    todo = [obj]
    while todo:
        here = todo.pop()
        for key in here if isinstance(here, dict) else range(len(here)):
            yield here, key
            if isinstance(here[key], dict | list):
                todo.append(here[key])


def damage(rng, obj):
    """Replace, remove, add or exchange something, anywhere."""
    places = list(nodes(obj))
    if not places:
        return
    here, key = rng.choice(places)
    match rng.randrange(5):
        case 0:
            here[key] = some_json(rng)
        case 1:
            del here[key]
        case 2 if isinstance(here, dict):
            here[rng.choice(KEYS)] = some_json(rng)
        case 3:
            there, other = rng.choice(places)
            if isinstance(there, dict) or other < len(there):
                here[key] = copy.deepcopy(there[other]) if other in there or isinstance(there, list) else None
        case _:
            here[key] = rng.choice(SCALARS)


def labelled(rng, obj):
    for target in (obj, obj.get("spec", {}).get("template")):
        if isinstance(target, dict) and rng.random() < 0.7:
            meta = target.setdefault("metadata", {})
            meta["labels"] = {
                **(meta.get("labels") or {}),
                names.INJECT_LABEL: rng.choice(["true", "true", "false", "yes"]),
            }
    return obj


def huge(rng):
    pod = labelled(rng, yaml.safe_load((GOLDEN / "inject" / "pod.yaml").read_text()))
    match rng.randrange(5):
        case 0:
            pod["metadata"]["annotations"] = {"a": "x" * rng.randrange(250_000, 270_000)}
        case 1:
            pod["spec"]["containers"] = [{"name": f"c{number}"} for number in range(2000)]
        case 2:
            pod["spec"]["deep"] = json.loads('{"a":' * 200 + "1" + "}" * 200)
        case 3:
            pod["metadata"]["labels"] = {f"l{number}": "x" for number in range(3000)}
        case 4:
            pod["spec"]["containers"][0]["args"] = ["x" * 1000] * 1000
    return pod


def one(rng, number):
    """Return a path and the bytes to send there."""
    path = rng.choice(["/pod", "/pod", "/namespace", "/workload"])
    kind = rng.choice([WORKLOADS if path == "/workload" else PODS] * 9 + [OBJECTS])
    obj = huge(rng) if number % 200 == 0 else labelled(rng, copy.deepcopy(rng.choice(kind)))
    for _ in range(rng.choice([0, 0, 1, 1, 2, 5])):
        damage(rng, obj)
    old = copy.deepcopy(rng.choice(OBJECTS)) if rng.random() < 0.3 else None
    content = review(
        obj,
        uid=f"uid-{number}",
        operation=rng.choice([*["CREATE"] * 7, "UPDATE", "DELETE", "CONNECT"]),
        old=old,
        namespace=rng.choice(["shop", "shop", "ns", "kube-system", ""]),
        dryRun=rng.random() < 0.1,
    )
    if rng.random() < 0.05:
        content["request"]["subResource"] = "status"
    if rng.random() < 0.1:
        content["request"].pop(rng.choice(list(content["request"])))
    if rng.random() < 0.1:
        damage(rng, content)
    raw = json.dumps(content).encode()
    if rng.random() < 0.03:
        raw = raw[: rng.randrange(len(raw))]
    elif rng.random() < 0.03:
        place = rng.randrange(len(raw))
        raw = raw[:place] + bytes([rng.randrange(256)]) + raw[place + 1 :]
    return path, raw


def check(path, raw, status, body):
    """Return what came of it."""
    try:
        expected = Review.parse(raw)
    except NotAReviewError:
        assert status == 400, (status, raw[:500])
        return "refused"
    assert status == 200, (status, body, raw[:500])
    response = json.loads(body)["response"]
    assert response["allowed"] is True
    assert response["uid"] == expected.uid
    assert all(len(warning) <= 256 for warning in response.get("warnings", []))
    assert "the injector failed" not in str(response.get("warnings")), raw[:2000]
    if "patch" not in response:
        return "unchanged"
    before = expected.request["object"]
    after = jsonpatch.apply_patch(before, json.loads(base64.b64decode(response["patch"])))
    assert after != before
    if path != "/workload":
        assert expected.operation == "CREATE"
        assert inject(after, None) == after, "the exporter is in it"
        return "injected"
    return "stamped"


async def send_all(running, reviews):
    outcomes = Counter()
    queue = iter(reviews)

    async def client(session):
        for path, raw in queue:
            async with session.post(running.url + path, data=raw) as response:
                outcomes[check(path, raw, response.status, await response.read())] += 1

    async with running.session(limit=8) as session, asyncio.TaskGroup() as clients:
        for _ in range(8):
            clients.create_task(client(session))
    return outcomes


@pytest.mark.parametrize("seed", [SEED])
def test_every_review_is_let_through(seed):
    rng = random.Random(seed)
    with Running() as running:
        outcomes = asyncio.run(send_all(running, (one(rng, number) for number in range(COUNT))))
        assert outcomes.total() == COUNT
        # All sorts were among them.
        assert all(outcomes[kind] > COUNT / 50 for kind in ("refused", "unchanged", "injected", "stamped")), (
            outcomes
        )
        for webhook in names.HANDLERS:
            assert running.metric("metrics_sidecar_webhook_failed_open_total", webhook=webhook) == 0
        assert running.metric("metrics_sidecar_webhook_refused_total", code="400") == outcomes["refused"]
        assert running.rss() <= 80
