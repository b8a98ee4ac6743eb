"""Names that others rely on."""

import sidecar
from webhook import names
from webhook.names import Note, Reason


def test_the_version_is_that_of_the_project():
    assert sidecar.__version__ == names.VERSION


def test_every_reason_is_a_code_and_a_sentence():
    for reason in (*Reason, *Note):
        assert str(reason) == reason.value == reason.name.lower()
        assert not reason.sentence.endswith(".")
        assert len(reason.sentence) <= 100


def test_a_port_name_has_at_most_fifteen_characters():
    assert len(names.PORT_NAME) <= 15
