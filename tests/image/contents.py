"""What is to be true of the files and the configuration of both images."""

import re
import stat
from email.parser import HeaderParser

from tests.image.building import REPOSITORY

_PREFIX = "org.opencontainers.image."


def installed(image):
    """Return the distributions below /app/lib: version by name."""
    found = {}
    for metadata in (image.root / "app/lib").glob("*.dist-info/METADATA"):
        fields = HeaderParser().parsestr(metadata.read_text())
        found[_normalized(fields["Name"])] = fields["Version"]
    return found


def locked(requirements):
    """Return what a lock file names: version by name."""
    lines = (REPOSITORY / "requirements" / requirements).read_text().splitlines()
    pins = [match for line in lines if (match := re.match(r"([\w.-]+)==([\w.+!-]+)", line))]
    return {_normalized(pin[1]): pin[2] for pin in pins}


def of_others(image, user):
    """Return the paths below /app that the user could change, or could not read."""
    uid, gid = (int(part) for part in user.split(":"))
    wrong = []
    for path in [image.root / "app", *(image.root / "app").rglob("*")]:
        status = path.lstat()
        changeable = uid == status.st_uid or gid == status.st_gid or status.st_mode & 0o022
        wanted = 0o005 if stat.S_ISDIR(status.st_mode) else 0o004
        if changeable or status.st_mode & wanted != wanted:
            wrong.append(f"{stat.filemode(status.st_mode)} {path}")
    return wrong


def traces_of_the_builder(image):
    """Return what the build was given to reach packages from here, as far as it is still there."""
    names = [variable.partition("=")[0] for variable in image.config["Env"]]
    files = [path for path in ("etc/pip.conf", "requirements.txt") if (image.root / path).exists()]
    return [name for name in names if name.startswith("PIP_") or "proxy" in name.lower()] + files


def labels(image):
    """Return the image's OCI annotations, without their common prefix."""
    return {
        key.removeprefix(_PREFIX): value
        for key, value in image.config["Labels"].items()
        if key.startswith(_PREFIX)
    }


def compiled_at_start(output):
    """Return the modules that Python compiled from source, from the output of `python3 -v`."""
    loaded = re.findall(r"^# code object from (.*)$", output, re.MULTILINE)
    assert loaded, output[-2000:]
    return [path for path in loaded if not path.strip("'").endswith(".pyc")]


def _normalized(name):
    return re.sub(r"[-_.]+", "-", name).lower()
