"""How hypothesis runs here."""

from hypothesis import HealthCheck, settings


def examples(number):
    """Try so many examples, however long each takes: the machine may be busy with other tests."""
    return settings(max_examples=number, deadline=None, suppress_health_check=[HealthCheck.too_slow])
