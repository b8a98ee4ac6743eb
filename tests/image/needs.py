"""What this machine must have to build images and to run them as a cluster would."""

import os
import shutil

PROGRAMS = {
    "buildah": "buildah",
    "mmdebstrap": "mmdebstrap",
    "runc": "runc",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "unshare": "util-linux",
}
"""Programs, and the Debian packages that hold them."""


def missing() -> str:
    """Say in one sentence what is missing; nothing if nothing is."""
    lacks = [] if os.geteuid() == 0 else ["root"]
    lacks += [
        f"{program} (Debian package {package})"
        for program, package in PROGRAMS.items()
        if not shutil.which(program)
    ]
    return f"images cannot be built and run without {', '.join(lacks)}" if lacks else ""
