"""What the locked packages bring with them: known vulnerabilities, and licences.

    audit.py vulnerabilities [--strict]
        asks pip-audit about requirements/run.txt. Exit 1 if anything is known, or, with --strict, if not everything
        could be asked about. Without a network nothing can: then it says so and exits 0, as `make check` works offline.
    audit.py licences [--write]
        compares what is installed with requirements/licences.txt. Exit 1 for a package that is not in it, whose licence
        changed, or that nobody has allowed.

pip-audit takes a service that knows no package for a clean bill of health; here such packages count as not audited.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path

HERE = Path(__file__).parent
LICENCES = HERE / "licences.txt"
LOCKS = ("run.txt", "dev.txt")
ASK_S = 60
SERVICE_S = "5"
ALLOWED = {
    "Apache 2.0", "Apache License, Version 2.0", "Apache Software License", "Apache-2.0", "BSD", "BSD License",
    "BSD-2-Clause", "BSD-3-Clause", "EPL-2.0", "ISC", "LGPL-3.0-only", "MIT", "MIT License", "MIT-0", "MIT-CMU",
    "MPL-2.0", "Mozilla Public License 2.0 (MPL 2.0)", "PSF-2.0", "Public Domain",
    "Python Software Foundation License",
}  # fmt: skip
_NO_LICENCE = {"OSI Approved", "DFSG approved"}


def main(arguments: list[str]) -> int:
    """Run one of the two and give its exit status."""
    match arguments:
        case ["vulnerabilities", *rest]:
            return vulnerabilities(strict="--strict" in rest)
        case ["licences", "--write"]:
            LICENCES.write_text(
                "".join(f"{name} {licence}\n" for name, licence in sorted(installed().items()))
            )
            return 0
        case ["licences"]:
            return report("licences", licence_problems(installed(), written()))
    sys.stderr.write(__doc__ or "")
    return 2


def report(what: str, problems: list[str]) -> int:
    """Say what is wrong."""
    for problem in problems:
        sys.stderr.write(f"{what}: {problem}\n")
    return 1 if problems else 0


# -- vulnerabilities ------------------------------------------------------------------------------------


def vulnerabilities(*, strict: bool) -> int:
    """Ask, and judge the answer."""
    command = [
        sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes", "--progress-spinner", "off",
        "--timeout", SERVICE_S, "--format", "json", "--requirement", str(HERE / "run.txt"),
    ]  # fmt: skip
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=ASK_S, check=False)  # noqa: S603
        answer = json.loads(ran.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        answer = {"dependencies": []}
    problems, audited = judge(answer)
    locked = len(names("run.txt"))
    if audited < locked:
        sys.stderr.write(
            f"vulnerabilities: {audited} of {locked} packages audited; is there a way to pypi.org?\n"
        )
    return report("vulnerabilities", problems) or int(strict and audited < locked)


def judge(answer: dict[str, list[dict]]) -> tuple[list[str], int]:
    """What is wrong, and how many packages the service knew anything about at all."""
    asked = [each for each in answer["dependencies"] if "skip_reason" not in each]
    problems = [
        f"{each['name']} {each['version']}: {found['id']}, fixed in {', '.join(found['fix_versions']) or 'no version'}"
        for each in asked
        for found in each["vulns"]
    ]
    return problems, len(asked)


# -- licences -------------------------------------------------------------------------------------------


def names(lock: str) -> set[str]:
    """The packages of a lock file."""
    return set(
        re.findall(r"^([a-z0-9._-]+)==", (HERE / lock).read_text(), flags=re.MULTILINE | re.IGNORECASE)
    )


def installed() -> dict[str, str]:
    """Each locked package that is installed here, with its licence as it says it."""
    locked = {name for lock in LOCKS for name in names(lock)}
    found = {
        re.sub(r"[-_.]+", "-", each.metadata["Name"]).lower(): licence_of(each) for each in distributions()
    }
    return {name: licence for name, licence in found.items() if name in locked}


def licence_of(package: Distribution) -> str:
    """The licence's name: the expression, else the classifiers, of which one may be chosen, else the first line."""
    told = package.metadata
    classified = [
        each.rpartition(" :: ")[2] for each in told.get_all("Classifier", []) if each.startswith("License ::")
    ]
    chosen = " OR ".join(sorted(set(classified) - _NO_LICENCE))
    first_line = (told.get("License") or "").strip().partition("\n")[0]
    return told.get("License-Expression") or chosen or first_line or "unknown"


def written() -> dict[str, str]:
    """What requirements/licences.txt says."""
    lines = LICENCES.read_text().splitlines()
    return {name: licence for name, _, licence in (line.partition(" ") for line in lines)}


def licence_problems(here: dict[str, str], known: dict[str, str]) -> list[str]:
    """What somebody must look at before it is shipped."""
    refused = [f"{name}: {licence} is not allowed" for name, licence in known.items() if not allowed(licence)]
    return [*_unknown(here, known), *refused]


def _unknown(here: dict[str, str], known: dict[str, str]) -> Iterator[str]:
    for name, licence in here.items():
        if name not in known:
            yield f"{name}: {licence}; is new here: look at it, then make licences"
        elif known[name] != licence:
            yield f"{name}: {licence}, and was {known[name]}: look at it, then make licences"


def allowed(licence: str) -> bool:
    """Whether one of the alternatives is allowed, with everything that it joins."""
    return any(
        all(part.strip() in ALLOWED for part in choice.split(" AND ")) for choice in licence.split(" OR ")
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
