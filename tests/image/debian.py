"""Base images made from Debian packages, for where no registry can be reached.

The two differ in all that a pair of base images may differ in. The build image is Debian as it is. The
runtime image is like an official slim image: Python lives in /usr/local and its library has no bytecode; and
it has no pip.
"""

_COMMAND = ("mmdebstrap", "--mode=root", "--variant=minbase")
_SUITE = "trixie"

_LIKE_AN_OFFICIAL_IMAGE = (
    'set -eu; cd "$1/usr"; python=$(basename lib/python3.*);'
    " rm -r local/lib/$python; mv lib/$python local/lib/; mv bin/$python local/bin/;"
    " rm bin/python3; ln -s $python local/bin/python3;"
    " find . -name __pycache__ -prune -exec rm -r {} +"
)

BASES = {
    "build": (*_COMMAND, "--include=python3,python3-pip,ca-certificates", _SUITE),
    "runtime": (*_COMMAND, "--include=python3", f"--customize-hook={_LIKE_AN_OFFICIAL_IMAGE}", _SUITE),
}
"""Commands that write an image's files as an archive to the path that is put after them."""
