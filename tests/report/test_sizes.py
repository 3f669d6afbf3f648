"""Reports of the studies that are kept here are small enough to be sent to somebody."""

import json
import pathlib
import subprocess
import sys

RECORDS = pathlib.Path(__file__).parents[2] / "eval" / "records"
# In a process of its own: with every signature checked they would take five times as long.
MEASURE = """
import json, sys
from rainjax.report import report
print(json.dumps({folder: len(report(folder).html().encode()) for folder in sys.argv[1:]}))
"""


def test_reports_stay_under_three_megabytes():
    folders = sorted(str(path.parent) for path in RECORDS.glob("*/records"))
    assert len(folders) > 10
    command = [sys.executable, "-c", MEASURE, *folders]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=RECORDS.parents[1])
    assert ran.returncode == 0, ran.stderr
    sizes = json.loads(ran.stdout)
    assert {folder: size for folder, size in sizes.items() if size >= 3_000_000} == {}
    assert min(sizes.values()) > 50_000
