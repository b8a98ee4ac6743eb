"""What the Dockerfiles say, without building them."""

import re

import pytest

import sidecar
from tests.image.building import REPOSITORY
from webhook import names

VERSIONS = {"Dockerfile.sidecar": sidecar.__version__, "Dockerfile.webhook": names.VERSION}


@pytest.mark.parametrize("dockerfile", VERSIONS)
def test_the_label_has_the_version_of_the_code(dockerfile):
    assert arguments(dockerfile)["VERSION"] == VERSIONS[dockerfile]


@pytest.mark.parametrize("dockerfile", VERSIONS)
def test_the_default_bases_have_one_python_and_name_no_registry(dockerfile):
    bases = {arguments(dockerfile)[key] for key in ("BUILD_IMAGE", "RUNTIME_IMAGE")}
    assert {re.fullmatch(r"python:(3\.\d+)-slim", base)[1] for base in bases} == {"3.13"}


def arguments(dockerfile):
    text = (REPOSITORY / dockerfile).read_text()
    return dict(re.findall(r"^ARG (\w+)=(.*)$", text, re.MULTILINE))
