"""The commands as people type them."""

import subprocess
import sys

import pytest

from webhook import names
from webhook.__main__ import main


def test_the_help_lists_every_command(capsys):
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert all(f"  {command} " in text for command in ("serve", "inject", "uninject"))


def test_the_version(capsys):
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"{names.VERSION}\n"


@pytest.mark.parametrize("arguments", [[], ["implode"], ["serve", "--loud"]])
def test_wrong_arguments_are_said(capsys, arguments):
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert "metrics-sidecar-webhook" in capsys.readouterr().err


def test_importing_the_package_starts_and_loads_nothing():
    loaded = "[name for name in sys.modules if name.startswith(('webhook.', 'kopf', 'aiohttp'))]"
    code = f"import sys, webhook; print({loaded})"
    assert subprocess.check_output([sys.executable, "-W", "error", "-c", code], text=True) == "[]\n"
