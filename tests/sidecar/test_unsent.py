"""Answers that nobody reads are bounded, and counted no longer than the server keeps them."""

from sidecar.unsent import UnsentAnswers


def test_an_answer_is_handed_on_whole():
    unsent = UnsentAnswers(limit=10)
    assert b"".join(unsent.admit({}, b"0123456789")) == b"0123456789"


def test_the_server_s_own_way_to_send_files_is_used():
    unsent = UnsentAnswers(limit=10)
    assert unsent.admit({"wsgi.file_wrapper": lambda file: ("wrapped", file.read())}, b"0123") == (
        "wrapped",
        b"0123",
    )


def test_what_waits_leaves_room_for_the_limit_only():
    unsent = UnsentAnswers(limit=10)
    first = unsent.admit({}, b"012345")
    assert unsent.admit({}, b"01234") is None
    second = unsent.admit({}, b"0123")
    assert (b"".join(first), b"".join(second)) == (b"012345", b"0123")


def test_what_the_server_let_go_of_waits_no_more():
    unsent = UnsentAnswers(limit=10)
    answer = unsent.admit({}, b"0123456789")
    assert unsent.admit({}, b"0") is None
    del answer
    assert unsent.admit({}, b"0") is not None


def test_one_answer_may_be_larger_than_the_limit():
    assert UnsentAnswers(limit=10).admit({}, b"0123456789A") is not None
