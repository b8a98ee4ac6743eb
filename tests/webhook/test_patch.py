"""The JSON Patch between an object and its changed copy."""

import copy

import jsonpatch
import pytest
from hypothesis import given

from tests.webhook import strategies
from webhook.config import Settings
from webhook.injection import inject, uninject
from webhook.patch import diff
from webhook.stamp import stamp


@given(strategies.json_values, strategies.json_values)
def test_it_applies_between_any_two_values(before, after):
    assert jsonpatch.apply_patch(before, diff(before, after)) == after


@given(strategies.pods)
def test_it_applies_to_the_object_as_it_came(pod):
    """The API server applies it to its own copy, where nothing is shared."""
    injected = inject(pod, Settings())
    assert jsonpatch.apply_patch(copy.deepcopy(pod), diff(pod, injected)) == injected
    assert jsonpatch.apply_patch(copy.deepcopy(injected), diff(injected, uninject(injected))) == pod


@given(strategies.broken(strategies.workloads))
def test_it_applies_to_workloads(workload):
    stamped, _ = stamp(workload)
    assert jsonpatch.apply_patch(copy.deepcopy(workload), diff(workload, stamped)) == stamped


@given(strategies.pods)
def test_what_did_not_change_is_not_in_it(pod):
    paths = {operation["path"] for operation in diff(pod, inject(pod, Settings()))}
    assert not [path for path in paths if path in ("/spec", "/spec/containers", "/spec/containers/0")]


@pytest.mark.parametrize(("before", "after"), [(1, True), (0, False), ([1], [True]), ({"a": 1}, {"a": 1.0})])
def test_equal_in_python_is_not_the_same_in_json(before, after):
    [operation] = diff(before, after)
    assert operation["op"] == "replace"


def test_keys_are_escaped():
    assert diff({}, {"a/b~c": 1}) == [{"op": "add", "path": "/a~1b~0c", "value": 1}]
