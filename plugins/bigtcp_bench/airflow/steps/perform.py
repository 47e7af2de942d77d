"""Does a step, and whatever ends it early: its reason is stored, and Airflow told whether to try again."""

from __future__ import annotations

import importlib
import traceback
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowSkipException,
    AirflowTaskTimeout,
)

from bigtcp_bench.airflow.steps import PHASES
from bigtcp_bench.errors import BenchError, RestoreFailed, WrongVersion

if TYPE_CHECKING:
    from bigtcp_bench.airflow.steps.step import DagRunStep


def perform(name: str, step: DagRunStep, *slot: int) -> Any:
    """Do the step of that name; return what the task leaves as its XCom.

    A run that fails for good before its setup is done is closed here: then Airflow runs no teardown.
    """
    try:
        return _reported(name, step, *slot)
    except AirflowSkipException:
        raise
    except (Exception, AirflowTaskTimeout) as failure:
        if PHASES[name] == "opening" and (step.last_try or isinstance(failure, AirflowFailException)):
            from bigtcp_bench.airflow.steps.closing import close_unopened

            close_unopened(step, failure)
        raise


def _reported(name: str, step: DagRunStep, *slot: int) -> Any:
    """Write why a step failed into the run's row; end the task at once where trying again cannot help."""
    try:
        phase = importlib.import_module(f"{__package__}.{PHASES[name]}")
        return getattr(phase, name)(step, *slot)
    except AirflowException:
        raise
    except RestoreFailed as error:
        step.add_reason(str(error))
        # The one failure that is worth many attempts: somebody may mend the node meanwhile.
        raise AirflowException(str(error)) from error
    except WrongVersion as error:
        # There is no row to write it into.
        raise AirflowFailException(str(error)) from error
    except BenchError as error:
        step.add_reason(str(error))
        raise AirflowFailException(str(error)) from error
    except Exception as error:
        step.add_reason(f"{name}: {traceback.format_exception_only(error)[-1].strip()}")
        raise
