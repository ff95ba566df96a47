"""Fail if the golden tests were skipped, or were not there, although their data is.

python .ci/golden_ran.py JUNIT_XML DATA_FOLDER
"""

import sys
from pathlib import Path
from xml.etree import ElementTree

report, data = sys.argv[1:]
if not Path(data).is_dir():
    print(f"golden tests: not required, {data} is absent")
    sys.exit()
cases = ElementTree.parse(report).iter("testcase")
cases = [case for case in cases if "golden" in case.get("classname", "")]
skipped = [c.get("name") for c in cases if c.find("skipped") is not None]
if not cases or skipped:
    sys.exit(f"golden tests: {len(cases)} found, skipped: {skipped}; the data is in {data}")
print(f"golden tests: all {len(cases)} ran")
