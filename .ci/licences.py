"""Checks that the licences of everything nmfcore needs allow its use in BSD-licensed work: `python .ci/licences.py`.

Run in an environment where nmfcore is installed with its extras. What it needs, and what that needs, is followed
through the metadata of the installed packages; a package whose licence is not known to be permissive is an error.
Optional packages that are not installed are passed over.
"""

import re
import sys
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

EXTRAS = ("app", "dask", "disk", "serve", "heic")
PERMISSIVE = re.compile(
    r"\b(BSD|MIT|HPND|Apache|ISC|PSFL?|Python-2\.0|Python Software Foundation|Unlicense|Zlib|0BSD|CC0|Blue ?Oak)\b",
    re.IGNORECASE,
)
RESTRICTIVE = re.compile(r"\b(A?GPL|GNU|SSPL|proprietary|non-?commercial)", re.IGNORECASE)


def closure(name, extras=()):
    """Return {name: metadata} of an installed package and of all that it needs."""
    found, rest = {}, [(name, frozenset(extras))]
    seen = set()
    while rest:
        name, extras = rest.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            about = metadata.metadata(name)
        except metadata.PackageNotFoundError:
            continue
        found[canonicalize_name(name)] = about
        for line in metadata.requires(name) or ():
            wanted = Requirement(line)
            if wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in (*extras, "")):
                rest.append((wanted.name, frozenset(wanted.extras)))
    return found


def licence_of(about):
    """Return what a package says of its licence: an expression, else its classifiers, else the text's first line."""
    if about.get("License-Expression"):
        return about["License-Expression"]
    classifiers = [
        line.rpartition("::")[2].strip() for line in about.get_all("Classifier") or () if "License ::" in line
    ]
    return ", ".join(classifiers) or (about.get("License") or "unknown").strip().splitlines()[0]


def main():
    """Print name, version and licence of each package; return 1 if one is not permissive."""
    refused = []
    for name, about in sorted(closure("nmfcore", EXTRAS).items()):
        licence = licence_of(about)
        print(f"{name} {about['Version']}: {licence}")
        if not PERMISSIVE.search(licence) or RESTRICTIVE.search(licence):
            refused.append(name)
    if refused:
        print(f"not known to allow use in BSD-licensed work: {', '.join(refused)}", file=sys.stderr)
    return bool(refused)


if __name__ == "__main__":
    sys.exit(main())
