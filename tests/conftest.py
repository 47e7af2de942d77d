"""What all tests need: an Airflow home of their own, set before anything imports Airflow."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

_HOME = tempfile.mkdtemp(prefix="bigtcp-bench-tests-")
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)

# Never the home of the person who runs the tests, and none of their connections either.
for _name in [name for name in os.environ if name.startswith("AIRFLOW") or name == "KUBECONFIG"]:
    del os.environ[_name]
os.environ["AIRFLOW_HOME"] = _HOME
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
