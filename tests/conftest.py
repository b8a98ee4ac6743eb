"""What every tier shares: skips are loud, and in CI they are failures."""

import os
import sys

import pytest

FORBID_SKIPS = "METRICS_SIDECAR_FORBID_SKIPS"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Turn a skip into a failure where skips are forbidden: a tier that CI does not run is not tested."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get(FORBID_SKIPS) == "1":
        report.outcome = "failed"
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.longrepr = f"{FORBID_SKIPS}=1, and this test was skipped: {reason}"
    return report


@pytest.fixture(scope="session")
def say(pytestconfig):
    """Print past pytest's capture: a first build takes minutes, and silence looks like a hang."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")

    def say(line):
        with capture.global_and_fixture_disabled():
            print(f"\n{line}", file=sys.stderr, flush=True)

    return say
