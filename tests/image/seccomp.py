"""The default seccomp profile of container engines, in the form that runc takes.

Engines keep one profile with conditions for all capabilities, architectures and kernels; a runtime gets what
holds for one container. https://github.com/containers/common/blob/main/docs/containers-seccomp.json.5.md
"""

import json
import os
from pathlib import Path
from typing import Any

PROFILE = Path("/usr/share/containers/seccomp.json")
"""Debian's package of buildah brings it along."""

_ARCHITECTURES = {"x86_64": ("SCMP_ARCH_X86_64", "amd64"), "aarch64": ("SCMP_ARCH_AARCH64", "arm64")}


def profile_without_capabilities() -> dict[str, Any]:
    """Return what a container without any capability may call, as linux.seccomp of runc's config.json."""
    profile = json.loads(PROFILE.read_text())
    architecture, name = _ARCHITECTURES[os.uname().machine]
    return {
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile["defaultErrnoRet"],
        "architectures": [
            architecture,
            *next(
                entry["subArchitectures"]
                for entry in profile["archMap"]
                if entry["architecture"] == architecture
            ),
        ],
        "syscalls": [
            {key: rule[key] for key in ("names", "action", "args", "errnoRet") if rule.get(key) is not None}
            for rule in profile["syscalls"]
            if _holds(rule, name)
        ],
    }


def _holds(rule: dict[str, Any], architecture: str) -> bool:
    includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
    return (
        not includes.get("caps")
        and architecture in (includes.get("arches") or [architecture])
        and architecture not in (excludes.get("arches") or [])
        and _release() >= _numbers(includes.get("minKernel") or "0")
    )


def _release() -> tuple[int, ...]:
    return _numbers(os.uname().release.partition("-")[0])


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])
