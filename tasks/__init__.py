"""Side effects, one outside system a module.

Importing the package asks those systems to be quiet: MLflow reads these when it is first imported, and only tasks import it.
"""

import os

_QUIET = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_UV_AUTO_DETECT": "false",
}
for _name, _value in _QUIET.items():
    os.environ.setdefault(_name, _value)
