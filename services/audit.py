"""Asks a database of advisories whether a package that is installed here is known to be vulnerable.

Exit code 0: it was asked, and knows of nothing. 1: it knows of something. 2: it could not be asked,
and nothing is known. Needs the extra `supply`.
"""

import json
import subprocess
import sys

# Seconds to wait for the database, for one answer.
_PATIENCE = 15


def main() -> int:
    """Audit this environment; returns the exit code."""
    command = [sys.executable, "-m", "pip_audit", "--local", "--skip-editable", "--format=json"]
    asked = subprocess.run(
        [*command, "--progress-spinner=off", f"--timeout={_PATIENCE}"],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        audited = json.loads(asked.stdout)["dependencies"]
    except (ValueError, KeyError):
        why = (asked.stderr.strip().splitlines() or ["no answer"])[-1]
        sys.stderr.write(f"NOT AUDITED: the database of advisories gave no answer.\n  {why}\n")
        return 2
    skipped = [each for each in audited if "skip_reason" in each]
    if len(skipped) == len(audited):
        sys.stderr.write("NOT AUDITED: the database of advisories knows none of the packages.\n")
        return 2
    known = [each for each in audited if each.get("vulns")]
    for each in known:
        ids = ", ".join(vulnerability["id"] for vulnerability in each["vulns"])
        sys.stdout.write(f"{each['name']} {each['version']}: {ids}\n")
    for each in skipped:
        sys.stdout.write(f"{each['name']}: not audited, {each['skip_reason']}\n")
    count = len(audited) - len(skipped)
    sys.stdout.write(f"{count} packages audited, {len(known)} with known vulnerabilities\n")
    return 1 if known or asked.returncode else 0


if __name__ == "__main__":
    sys.exit(main())
