"""`inject` and `uninject` on manifests: every byte that is not ours stays, and there is a way back."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import jsonpatch
import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tests.webhook import strategies
from tests.webhook.test_textedit import Writer
from webhook import names
from webhook.config import Settings
from webhook.offline import objects as offline_objects
from webhook.offline.command import _File
from webhook.offline.objects import Done, Request
from webhook.offline.text import stream
from webhook.offline.texts import Known, rewrite

DATA = Path(__file__).parents[1] / "data" / "offline"
MANIFESTS = sorted(path for path in DATA.iterdir() if path.suffix in {".yaml", ".json"})
MODES = list(itertools.product((False, True), repeat=2))
WORKLOADS = {
    "Deployment",
    "StatefulSet",
    "DaemonSet",
    "ReplicaSet",
    "ReplicationController",
    "Job",
    "CronJob",
    "Pod",
}


def run(content, **request):
    """The bytes of a manifest after a command, and what was said."""
    file = _File.of("manifest", None, content)
    asked = Request(Settings(), **request)
    known = Known()
    known.learn(file.parts, asked)
    result = rewrite(file.parts, known, asked)
    return result.text.encode(file.codec, file.errors), result


def patches(content, **request):
    file = _File.of("manifest", None, content)
    asked = Request(Settings(), **request)
    known = Known()
    known.learn(file.parts, asked)
    return rewrite(file.parts, known, asked, patch=True)


class Loose(yaml.CSafeLoader):
    """PyYAML's own idea of what a manifest says, with tags of other people read as strings."""


for tag in ("!", "tag:"):
    Loose.add_multi_constructor(tag, lambda loader, _, node: loader.construct_scalar(node))


def objects(content):
    """What a manifest says, as parsers say that we did not write."""
    file = _File.of("manifest", None, content)
    text = file.text.removeprefix("\ufeff")
    if text.lstrip()[:1] == "{":
        decoder, found = json.JSONDecoder(), []
        while text := text.lstrip():
            obj, end = decoder.raw_decode(text)
            found.append(obj)
            text = text[end:]
        return found
    # By way of JSON, in which nothing is shared.
    return json.loads(json.dumps([obj for obj in yaml.load_all(text, Loader=Loose) if obj is not None]))


def without_services(found):
    """The objects but for the Services that were written; and how many those were."""
    kept, dropped = [], 0
    for obj in found:
        if offline_objects.is_our_service(obj):
            dropped += 1
        elif isinstance(obj, dict) and obj.get("kind") == "List":
            items, inside = without_services(obj["items"])
            dropped += inside
            kept.append({**obj, "items": items})
        else:
            kept.append(obj)
    return kept, dropped


def applied(obj, namespaces, request):
    if isinstance(obj, dict) and str(obj.get("kind", "")).endswith("List"):
        return {**obj, "items": [applied(item, namespaces, request) for item in obj["items"]]}
    return offline_objects.apply(obj, namespaces, request)[0]


def test_there_are_enough_manifests_of_every_kind():
    assert len(MANIFESTS) >= 60
    text = "".join(path.read_text("utf-8", "replace") for path in MANIFESTS)
    for kind in [*WORKLOADS, "Rollout", "CloneSet", "PodTemplate", "List", "CustomResourceDefinition"]:
        assert f"kind: {kind}\n" in text.replace("\r", "\n")


@pytest.mark.parametrize(("everything", "with_service"), MODES)
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_there_and_back_byte_for_byte(path, everything, with_service):
    before = path.read_bytes()
    injected, result = run(before, everything=everything, with_service=with_service)
    assert not result.errors
    assert not [outcome for outcome in result.outcomes if outcome.failed]
    changed = any(outcome.done in {Done.INJECTED, Done.ADDED} for outcome in result.outcomes)
    assert (injected != before) is changed
    again, _ = run(injected, everything=everything, with_service=with_service)
    assert again == injected
    back, undone = run(injected, undo=True)
    assert back == before
    assert not [outcome for outcome in undone.outcomes if outcome.failed]


@pytest.mark.parametrize(("everything", "with_service"), MODES)
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_other_parsers_read_what_the_rules_say(path, everything, with_service):
    before = path.read_bytes()
    injected, result = run(before, everything=everything, with_service=with_service)
    found, services = without_services(objects(injected))
    namespaces = {
        obj["metadata"]["name"]: obj
        for obj in objects(before)
        if isinstance(obj, dict) and obj.get("kind") == "Namespace"
    }
    request = Request(Settings(), everything=everything)
    assert found == [applied(obj, namespaces, request) for obj in objects(before)]
    assert services == sum(outcome.done is Done.ADDED for outcome in result.outcomes)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_what_a_parser_of_yaml_1_2_reads_it_reads_after_an_injection_too(path):
    def loads(content):
        text = _File.of("manifest", None, content).text
        try:
            return list(YAML(typ="safe", pure=True).load_all(text))
        except (YAMLError, ValueError, NotImplementedError):
            return None

    before = path.read_bytes()
    if loads(before) is not None:
        after, _ = run(before, everything=True, with_service=path.suffix == ".yaml")
        assert loads(after) is not None


@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_patches_say_the_same_as_the_text(path, everything):
    before = path.read_bytes()
    injected, _ = run(before, everything=everything)
    found = patches(before, everything=everything).patches
    documents = objects(before)
    assert [
        jsonpatch.apply_patch(obj, patch) for obj, patch in zip(documents, found, strict=True)
    ] == objects(injected)
    back = patches(injected, undo=True).patches
    assert [
        jsonpatch.apply_patch(obj, patch) for obj, patch in zip(objects(injected), back, strict=True)
    ] == documents


REPORTS = {
    "deployment-labelled-template.yaml": ["Deployment/shop/web: injected pod_label"],
    "deployment-labelled-workload.yaml": ["Deployment/-/api: injected workload_label"],
    "deployment-opted-out.yaml": ["Deployment/-/quiet: skipped opted_out"],
    "deployment-exporter-by-hand.yaml": ["Deployment/-/manual: skipped runs_exporter"],
    "deployment-host-network.yaml": ["Deployment/-/host: skipped host_network"],
    "deployment-one-space.yaml": ["Deployment/-/narrow: skipped not_labelled"],
    "daemonset.yaml": ["DaemonSet/kube-system/agent: skipped system_namespace"],
    "pod.yaml": ["Pod/-/alone: injected pod_label"],
    "pod-one-shot.yaml": ["Pod/-/once-: skipped not_labelled"],
    "replicaset.yaml": ["ReplicaSet/-/rs: injected pod_label", "ReplicaSet/-/owned: skipped owned"],
    "statefulset.yaml": ["Service/-/db: unchanged no_template", "StatefulSet/-/db: injected workload_label"],
    "cronjob.yaml": ["CronJob/-/nightly: injected workload_label"],
    "rollout.yaml": ["Rollout/-/canary: injected pod_label"],
    "crd.yaml": [
        "CustomResourceDefinition/-/things.example.com: unchanged no_template",
        "Thing/-/thing: injected pod_label",
    ],
    "multi-document.yaml": [
        "Namespace/-/team: unchanged no_template",
        "Deployment/team/one: injected namespace_label",
        "Deployment/other/two: skipped not_labelled",
        "Deployment/team/three: injected namespace_label",
    ],
    "list.yaml": [
        "ConfigMap/-/cm: unchanged no_template",
        "Deployment/-/a: injected pod_label",
        "Job/-/b: skipped not_labelled",
    ],
    "nothing.yaml": [],
    "only-comments.yaml": [],
    "not-an-object.yaml": ["-/-/-: unchanged no_object"] * 4,
}


@pytest.mark.parametrize("name", REPORTS)
def test_the_report_has_a_line_for_each_object(name):
    _, result = run((DATA / name).read_bytes())
    assert [f"{found.subject}: {found.done} {found.code}" for found in result.outcomes] == REPORTS[name]
    assert all(found.sentence for found in result.outcomes)


def test_all_treats_everything_as_labelled_but_not_what_opted_out():
    for name, code in (("deployment-one-space.yaml", "all"), ("deployment-opted-out.yaml", "opted_out")):
        _, result = run((DATA / name).read_bytes(), everything=True)
        assert [outcome.code for outcome in result.outcomes] == [code]


BLOCK_STYLE = [
    "helm-output.yaml",
    "deployment-labelled-template.yaml",
    "deployment-four-spaces.yaml",
    "rollout.yaml",
]


@pytest.mark.parametrize("name", BLOCK_STYLE)
def test_in_block_style_lines_are_added_and_none_is_touched(name):
    before = (DATA / name).read_bytes()
    after = iter(run(before, everything=True, with_service=True)[0].splitlines())
    assert all(line in after for line in before.splitlines())


def test_additions_look_like_their_surroundings():
    injected = run((DATA / "deployment-four-spaces.yaml").read_bytes(), everything=True)[0].decode()
    assert "                -   name: metrics\n                    image: " in injected
    assert "                        -   name: METRICS_SIDECAR_PORT\n" in injected
    injected = run((DATA / "deployment-crlf.yaml").read_bytes())[0]
    assert injected.count(b"\n") == injected.count(b"\r\n")
    injected = run((DATA / "json-tabs.json").read_bytes())[0].decode()
    assert '\n\t\t\t\t\t{\n\t\t\t\t\t\t"name": "metrics",\n' in injected


def test_a_service_stands_behind_its_workload_and_once():
    before = (DATA / "statefulset.yaml").read_bytes()
    injected, result = run(before, with_service=True)
    assert [obj["kind"] for obj in objects(injected)] == ["Service", "StatefulSet", "Service"]
    assert result.outcomes[-1].code == "service_added"
    twice, result = run(injected, with_service=True)
    assert twice == injected
    assert "service_exists" in [outcome.code for outcome in result.outcomes]
    # Injected first, the Service asked for later.
    assert run(run(before)[0], with_service=True)[0] == injected


def test_a_service_that_somebody_else_wrote_stays():
    before = (DATA / "deployment-labelled-template.yaml").read_bytes()
    foreign = b"---\napiVersion: v1\nkind: Service\nmetadata: {name: web-metrics-sidecar, namespace: shop}\n"
    injected, result = run(before + foreign, with_service=True)
    assert injected.endswith(foreign)
    assert "service_exists" in [outcome.code for outcome in result.outcomes]
    assert run(injected, undo=True)[0] == before + foreign


def test_a_workload_without_a_name_gets_no_service():
    _, result = run((DATA / "job-generate-name.yaml").read_bytes(), with_service=True)
    assert [outcome.code for outcome in result.outcomes] == ["pod_label", "service_no_name"]


def test_what_live_objects_say_counts():
    """A pod that the webhook injected, fetched with kubectl, can be cleaned."""
    before = (DATA / "pod.yaml").read_bytes()
    injected, _ = run(before)
    fetched = yaml.safe_dump(objects(injected)[0]).encode()
    cleaned, result = run(fetched, undo=True)
    assert objects(cleaned) == objects(before)
    assert [outcome.code for outcome in result.outcomes] == ["removed"]


def test_an_edit_between_the_two_is_kept():
    injected, _ = run((DATA / "deployment-labelled-template.yaml").read_bytes())
    edited = injected.replace(b"web:1.2.3", b"web:1.2.4").replace(
        b"      - name: metrics\n", b"      # ours\n      - name: metrics\n"
    )
    back, _ = run(edited, undo=True)
    expected = (DATA / "deployment-labelled-template.yaml").read_bytes().replace(b"web:1.2.3", b"web:1.2.4")
    assert back == expected.replace(b"      # The default", b"      # ours\n      # The default")


BAD = b"""apiVersion: apps/v1
kind: Deployment
metadata: {name: good-one}
spec: {template: {spec: {containers: [{name: a, image: a}]}}}
---
kind: Deployment
metadata:
  name: {{ .Release.Name }}
---
kind: "unfinished
---
kind: Deployment
metadata: {name: \xff\xfe}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: twice}
spec:
  template:
    spec:
      containers: [{name: a, image: a}]
      containers: [{name: b, image: b}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: torn}
spec:
  template:
    spec:
      containers: &c
      - {name: a, image: a}
      x-again: *c
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: good-two}
spec: {template: {spec: {containers: [{name: a, image: a}]}}}
"""


def test_what_cannot_be_read_or_edited_passes_through_and_the_rest_does_not_suffer():
    after, result = run(BAD, everything=True)
    assert [error.line for error in result.errors] == [8, 10, 13]
    assert all("; expected " in str(error) for error in result.errors)
    failed = {outcome.subject: outcome for outcome in result.outcomes if outcome.failed}
    assert {subject: outcome.line for subject, outcome in failed.items()} == {
        "Deployment/-/twice": 21,
        "Deployment/-/torn": 30,
    }
    assert all(outcome.code == "cannot_edit" for outcome in failed.values())
    assert after.count(b"name: metrics,") == 2
    start, end = (
        BAD.index(b"---\nkind"),
        BAD.index(b"---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: good-two"),
    )
    assert BAD[start:end] in after
    assert run(after, undo=True)[0] == BAD


def test_one_bad_item_of_a_list_leaves_the_others_alone():
    before = b"""kind: List
apiVersion: v1
items:
- kind: Deployment
  apiVersion: apps/v1
  metadata: {name: good}
  spec: {template: {spec: {containers: [{name: a, image: a}]}}}
- kind: Deployment
  apiVersion: apps/v1
  metadata: {name: bad}
  spec: {template: {spec: {containers: &c [{name: a, image: a}], x: *c}}}
- 7
- kind: Deployment
  apiVersion: apps/v1
  metadata: {name: fine}
  spec: {template: {spec: {containers: [{name: a, image: a}]}}}
"""
    after, result = run(before, everything=True, with_service=True)
    assert [outcome.code for outcome in result.outcomes if outcome.failed] == ["cannot_edit"]
    assert after.count(b"name: metrics,") == 2
    assert run(after, undo=True)[0] == before


@pytest.mark.parametrize(
    ("content", "line", "what"),
    [
        (b'{"a": 1,,}', 1, "not JSON: ','; expected a string in double quotes"),
        (b'{\n  "a": 1\n  "b": 2\n}', 3, "not JSON: '\"'; expected a comma or a closing brace"),
        (b'{"a": [1, 2}', 1, "not JSON: '}'; expected a comma or a closing bracket"),
        (b"a: b\n c: d\n", 2,
         "not YAML: mapping values are not allowed in this context; expected a Kubernetes object"),
        (b"a: \x01\n", 1,
         "not YAML: control characters are not allowed; expected text without control characters"),
        (b"a: \xff\n", 1, "bytes that are not UTF-8; expected UTF-8, or UTF-16 with a byte order mark"),
        (b"a: *b\n", 1, "the alias *b without an anchor; expected an anchor before it"),
        (b"a: &a\n  b: *a\n", 2, "the alias *a inside its own anchor; expected no recursion"),
        (b"[a]: b\n", 1, "a key that is not a scalar; expected a string"),
        (b"<<: 1\n", 1, "a merge of what is not a mapping; expected `<<: *name` of a mapping"),
        (b"a: " + b"[" * 5000, 1, "deep nesting; expected at most 200 levels"),
        (b"[" * 5000, 1, "deep nesting; expected at most 200 levels"),
    ],
)  # fmt: skip
def test_errors_say_where_and_what_was_expected(content, line, what):
    after, result = run(content, everything=True)
    assert after == content
    assert [(error.line, str(error)) for error in result.errors] == [(line, what)]


def test_aliases_that_expand_without_bound_are_an_error():
    lines = [f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 10)}]" for n in range(9)]
    content = "\n".join(["a: &a [x]", *lines, ""]).encode()
    after, result = run(content, everything=True)
    assert after == content
    assert "without bound" in str(result.errors[0])


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data(), st.sampled_from(["Deployment", "Job", "Pod", "CronJob"]), st.booleans())
def test_property_any_pod_in_any_handwriting(data, kind, with_service):
    pod = data.draw(strategies.pods)
    assume(isinstance(pod, dict))
    template = {key: pod[key] for key in ("metadata", "spec") if key in pod}
    spec = {"template": template}
    spec = {"jobTemplate": {"spec": spec}} if kind == "CronJob" else spec
    obj = {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "x"}, "spec": spec}
    text = Writer(data.draw).document(
        {**template, "kind": "Pod", "apiVersion": "v1"} if kind == "Pod" else obj
    )
    assume(not stream.split(text)[0].error)
    before = text.encode("utf-8", "surrogateescape")
    injected, result = run(before, everything=True, with_service=with_service)
    assert not result.errors
    # Whatever happened, there is a way back; and what failed was left as it is.
    assert run(injected, undo=True)[0] == before or any(
        outcome.code == "already_injected" for outcome in result.outcomes
    )


def test_the_annotation_of_our_services_has_our_prefix():
    assert names.OFFLINE_ANNOTATION.startswith(names.PREFIX + "/")


# The command itself.


def command(*arguments, stdin=b"", cwd=None):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONWARNINGS": "error"}
    return subprocess.run(
        [sys.executable, "-m", "webhook", *map(str, arguments)],
        input=stdin, capture_output=True, check=False, timeout=60, cwd=cwd, env=environment,
    )  # fmt: skip


def test_a_pipe_there_and_back():
    before = (DATA / "helm-output.yaml").read_bytes()
    injected = command("inject", "--with-service", "-f", "-", stdin=before)
    assert injected.returncode == 0
    assert "Deployment/-/release-shop: injected  pod_label  the pod is labelled" in injected.stderr.decode()
    back = command("uninject", "-f", "-", stdin=injected.stdout)
    assert back.returncode == 0
    assert back.stdout == before


def test_a_directory_is_one_stream_in_the_order_of_its_names(tmp_path):
    for name in (
        *(
            "job.yaml",
            "json-stream.json",
            "deployment-directives.yaml",
            "deployment-bom.yaml",
            "nothing.yaml",
        ),
        *("json-compact.json", "multi-document-ends-with-dots.yaml", "deployment-no-newline.yaml"),
    ):
        (tmp_path / name).write_bytes((DATA / name).read_bytes())
    (tmp_path / "notes.txt").write_text("not: [a manifest")
    done = command("inject", "--all", "--with-service", "-f", tmp_path)
    assert done.returncode == 0
    found = [
        (obj["kind"], obj["metadata"]["name"])
        for obj in yaml.load_all(done.stdout.decode(), Loader=Loose)
        if obj
    ]
    assert [name for kind, name in found if kind != "Service"] == [
        "api", "directives", "web", "migrate", "compact", "first", "second", "third", "dotted",
    ]  # fmt: skip
    assert sum(kind == "Service" for kind, _ in found) == 9


def test_in_place_changes_only_what_changes(tmp_path):
    for name in ("job.yaml", "deployment-utf16.yaml", "only-comments.yaml"):
        (tmp_path / name).write_bytes((DATA / name).read_bytes())
        (tmp_path / name).chmod(0o640)
    untouched = (tmp_path / "only-comments.yaml").stat().st_ino
    done = command("inject", "-i", "-f", tmp_path)
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"initContainers" in (tmp_path / "job.yaml").read_bytes()
    assert "metrics-sidecar" in (tmp_path / "deployment-utf16.yaml").read_bytes().decode("utf-16")
    assert (tmp_path / "only-comments.yaml").stat().st_ino == untouched
    assert (tmp_path / "job.yaml").stat().st_mode & 0o777 == 0o640
    assert command("uninject", "-i", "-f", tmp_path).returncode == 0
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (DATA / path.name).read_bytes()


def test_labelled_namespaces_count_across_files(tmp_path):
    (tmp_path / "a.yaml").write_text("kind: Deployment\nmetadata: {name: d, namespace: n}\n"
                                     "spec: {template: {spec: {containers: [{name: a}]}}}\n")  # fmt: skip
    (tmp_path / "b.yaml").write_text(
        f'kind: Namespace\nmetadata: {{name: n, labels: {{{names.INJECT_LABEL}: "true"}}}}\n'
    )
    assert b"d: injected  namespace_label" in command("inject", "-f", tmp_path).stderr


def test_settings_come_from_flags():
    before = (DATA / "job.yaml").read_bytes()
    flags = (
        "--image registry.example/x:2 --port 9000 --cpu 10m --memory 32Mi --mode container --run-as-user none"
    )
    done = command("inject", "-f", "-", *flags.split(), stdin=before)
    [obj] = objects(done.stdout)
    container = obj["spec"]["template"]["spec"]["containers"][-1]
    assert container["image"] == "registry.example/x:2"
    assert container["env"][0]["value"] == "9000"
    assert container["resources"]["limits"] == {"cpu": "10m", "memory": "32Mi"}
    assert "runAsUser" not in container["securityContext"]


def test_patches_are_a_line_for_each_document():
    done = command("inject", "--output", "patch", "-f", DATA / "statefulset.yaml")
    first, second = map(json.loads, done.stdout.splitlines())
    assert first == []
    assert second[-1]["path"] == "/spec/template/spec/containers/1"


def test_ignored_settings_of_a_workload_are_said():
    done = command("inject", "-f", DATA / "deployment-default-container.yaml")
    assert b"Deployment/-/defaulted: warning  metrics-sidecar.io/cpu='lots' is ignored" in done.stderr


def test_a_bad_document_is_status_1_and_the_output_is_complete():
    done = command("inject", "--all", "--quiet", "-f", "-", stdin=BAD)
    assert done.returncode == 1
    assert done.stdout.count(b"name: metrics,") == 2
    assert done.stdout.endswith(BAD[-3:])
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 5
    assert "stdin:10: not YAML: while scanning a quoted scalar" in done.stderr.decode()
    assert [line for line in lines if line.startswith("Deployment/-/twice: skipped  cannot_edit  stdin:21: ")]


def test_what_is_not_there_is_status_1_and_the_rest_is_done(tmp_path):
    (tmp_path / "empty").mkdir()
    missing = tmp_path / "missing.yaml"
    done = command("inject", "-f", missing, "-f", tmp_path / "empty", "-f", DATA / "job.yaml")
    assert done.returncode == 1
    assert (
        f"{missing}: no such file or directory; expected a readable file or directory" in done.stderr.decode()
    )
    assert "empty: no manifests in it; expected *.yaml, *.yml or *.json" in done.stderr.decode()
    assert b"initContainers" in done.stdout


def test_nothing_to_do_is_status_0():
    for content in (b"", (DATA / "deployment-one-space.yaml").read_bytes()):
        done = command("inject", "-f", "-", stdin=content)
        assert (done.returncode, done.stdout) == (0, content)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["inject"], "-f"),
        (["inject", "-f", "-", "--port", "99999"], "--port='99999'; expected 1..65535"),
        (["inject", "-f", "-", "--mode", ""], "--mode=''; expected a value"),
        (["inject", "-f", "-", "-i"], "--in-place: expected files"),
        (["uninject", "-f", "-", "--all"], "unrecognized arguments: --all"),
    ],
)
def test_wrong_arguments_are_status_2(arguments, said):
    done = command(*arguments)
    assert done.returncode == 2
    assert said in done.stderr.decode()
    assert done.stdout == b""


def test_a_broken_pipe_is_quiet(tmp_path):
    (tmp_path / "big.yaml").write_bytes((DATA / "helm-output.yaml").read_bytes() * 100)
    with subprocess.Popen(
        [sys.executable, "-m", "webhook", "inject", "-q", "-f", tmp_path / "big.yaml"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 1
