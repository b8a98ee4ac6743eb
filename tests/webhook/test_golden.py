"""Manifests before and after, to be read: `golden/<what is done>/<case>.yaml` and `<case>.out.yaml`.

`UPDATE_GOLDEN=1 pytest tests/webhook/test_golden.py` rewrites what comes out; the diff is reviewed like code.
"""

import copy
import json
import os
from pathlib import Path

import jsonpatch
import pytest
import yaml

from webhook import identity
from webhook.config import Settings
from webhook.decision import decide, labelled
from webhook.injection import inject, uninject
from webhook.names import Action
from webhook.service import build_service
from webhook.stamp import stamp
from webhook.workload import get, put, template_path

GOLDEN = Path(__file__).parent / "golden"
SETTINGS = Settings(image="metrics-sidecar:golden")


def cases(folder):
    found = sorted(path for path in (GOLDEN / folder).glob("*.yaml") if not path.name.endswith(".out.yaml"))
    return [pytest.param(path, id=path.stem) for path in found]


def injected(obj):
    path = template_path(obj)
    template = get(obj, path)
    if decide(template, labelled(), SETTINGS).action is not Action.INJECT:
        return obj
    return put(obj, path, inject(template, SETTINGS, identity.of_workload(obj) if path else None))


def check(path, actual):
    out = path.with_suffix(".out.yaml")
    if os.environ.get("UPDATE_GOLDEN") == "1":
        out.write_text(yaml.safe_dump(json.loads(json.dumps(actual)), sort_keys=False, width=110))
    assert actual == yaml.safe_load(out.read_text())


@pytest.mark.parametrize("path", cases("inject"))
def test_inject(path):
    before = yaml.safe_load(path.read_text())
    after = injected(copy.deepcopy(before))
    check(path, after)
    assert injected(after) == after
    where = template_path(after)
    assert put(after, where, uninject(get(after, where))) == before
    patch = jsonpatch.make_patch(before, after)
    assert {operation["op"] for operation in patch} <= {"add", "replace"}  # what is null is replaced
    assert patch.apply(before) == after


@pytest.mark.parametrize("path", cases("stamp"))
def test_stamp(path):
    check(path, stamp(yaml.safe_load(path.read_text()))[0])


@pytest.mark.parametrize("path", cases("service"))
def test_service(path):
    check(path, build_service(yaml.safe_load(path.read_text()), SETTINGS))
