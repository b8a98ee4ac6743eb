"""What hypothesis makes: pods such as people write, and JSON such as nobody should."""

import string

from hypothesis import strategies as st

from webhook import names

words = st.text(string.ascii_lowercase + string.digits + "-.", min_size=1, max_size=12)
texts = st.text(max_size=12)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
unknown = st.dictionaries(words.map("x-{}".format), json_values, max_size=3)

OURS = [
    names.INJECT_LABEL,
    names.INJECTED_LABEL,
    names.WORKLOAD_LABEL,
    names.STATUS_ANNOTATION,
    names.DEFAULT_CONTAINER_ANNOTATION,
    names.STAMPED_ANNOTATION,
    *names.OVERRIDES,
]
values = st.sampled_from(["true", "false", "", "native", "container", "9998", "100m", "{}", "web"]) | texts


def pairs(extra=()):
    """Labels or annotations: absent, null, empty, with ours among them or without."""
    return st.none() | st.dictionaries(
        st.sampled_from([*OURS, *extra]) | words, values | st.none(), max_size=4
    )


def _object(required=None, **optional):
    return st.builds(
        lambda known, more: {**more, **known},
        st.fixed_dictionaries(required or {}, optional=optional),
        unknown,
    )


ports = st.lists(
    _object(
        containerPort=st.integers(1, 65535) | st.just(9999), protocol=st.sampled_from(["TCP", "UDP", None])
    ),
    max_size=3,
)
env = st.lists(_object({"name": words | st.just(names.PORT_ENV)}, value=texts), max_size=3)
containers = _object(
    {"name": words | st.sampled_from(["metrics", "metrics-sidecar", "metrics-sidecar-2"])},
    image=words,
    ports=ports | st.none(),
    env=env | st.none(),
    restartPolicy=st.sampled_from(["Always", None]),
    resources=st.just({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "100m"}}) | st.none(),
)
owners = st.lists(
    st.fixed_dictionaries(
        {
            "apiVersion": st.sampled_from(["apps/v1", "batch/v1", "argoproj.io/v1alpha1"]),
            "kind": st.sampled_from(["ReplicaSet", "Job", "StatefulSet", "Rollout"]),
            "name": words | st.just("nightly-29000000"),
            "controller": st.booleans(),
        }
    ),
    max_size=2,
)
metadata = _object(
    name=words,
    namespace=words | st.just("kube-system"),
    labels=pairs(["pod-template-hash"]),
    annotations=pairs([names.MIRROR_ANNOTATION]),
    ownerReferences=owners,
)
specs = _object(
    {"containers": st.lists(containers, min_size=1, max_size=3)},
    initContainers=st.none() | st.lists(containers, max_size=2),
    restartPolicy=st.sampled_from(["Always", "Never", "OnFailure", None]),
    hostNetwork=st.booleans(),
    nodeSelector=st.none()
    | st.just({"kubernetes.io/os": "windows"})
    | st.dictionaries(words, words, max_size=2),
    resources=st.none() | st.just({"limits": {"cpu": "2", "memory": "3Gi"}}),
)
pods = _object({"spec": specs}, metadata=metadata | st.none(), apiVersion=st.just("v1"), kind=st.just("Pod"))
templates = _object({"spec": specs}, metadata=metadata)
workloads = st.builds(
    lambda kind, meta, template: {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": meta,
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": template},
    },
    st.sampled_from(["Deployment", "StatefulSet", "ReplicaSet", "Rollout"]),
    metadata,
    templates,
)


@st.composite
def broken(draw, base=pods | workloads):
    """An object in which something is replaced by JSON of any kind, or taken away."""
    obj = draw(base)
    for _ in range(draw(st.integers(1, 3))):
        here = obj
        while True:
            keys = list(here) if isinstance(here, dict) else list(range(len(here)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(here[key], dict | list) and draw(st.booleans()):
                here = here[key]
                continue
            if draw(st.booleans()):
                here[key] = draw(json_values)
            else:
                del here[key]
            break
    return obj


hostile = json_values | broken()
