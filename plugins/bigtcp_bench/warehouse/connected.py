"""One database: its version, and transactions that are repeated when another writer was in the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import URL
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from bigtcp_bench import __version__
from bigtcp_bench.errors import InvalidInput, WarehouseError, WrongVersion
from bigtcp_bench.settings import without_secrets
from bigtcp_bench.warehouse import migrate
from bigtcp_bench.warehouse.engine import WRITES, engine_of, is_transient, prepared
from bigtcp_bench.warehouse.records import rows_of
from bigtcp_bench.warehouse.upsert import upsert

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")

_retrying = Retrying(
    retry=retry_if_exception(is_transient),
    stop=stop_after_attempt(5),
    wait=wait_random_exponential(multiplier=0.1, max=3),
    reraise=True,
)
#: What helps where the database's encoding lacks a character.
_UTF8 = "; a database that is made with ENCODING 'UTF8' holds every text"


class Connected:
    """A database, SQLite or PostgreSQL, in which each read and each write is one transaction.

    Raises WarehouseError, in one sentence, when it cannot be used, and InvalidInput for what it cannot hold.
    """

    def __init__(self, url_or_engine: str | URL | sa.Engine) -> None:
        engine = prepared(url_or_engine) if isinstance(url_or_engine, sa.Engine) else engine_of(url_or_engine)
        self.engine = engine
        self._writer = engine.execution_options(**{WRITES: True})

    def __repr__(self) -> str:
        return f"Warehouse({self.url!r})"

    @property
    def url(self) -> str:
        """Return the URL without its secrets."""
        return without_secrets(self.engine.url.render_as_string(hide_password=True))

    def migrate(self, revision: str = "head") -> tuple[str | None, str | None]:
        """Bring the tables up to ``revision``, and return their version before and after.

        Creates them in an empty database, whose version is None. Raises WrongVersion when a newer package has made
        them.
        """
        before = self.read(migrate.current)
        self._refuse_newer(before)
        self._in_one_sentence(lambda: migrate.upgrade(self.engine, revision))
        return before, self.read(migrate.current)

    def check_version(self) -> None:
        """Raise WrongVersion unless the tables are exactly of the version that this package works with."""
        found, wanted = self.read(migrate.current), migrate.head()
        if found != wanted:
            self._refuse_newer(found)
            raise WrongVersion(
                f"the tables of the warehouse {self.url} are of version {found or 'none'}, this package works "
                f"with version {wanted}: run `bigtcp-bench warehouse migrate`"
            )

    def _refuse_newer(self, found: str | None) -> None:
        if found is not None and not migrate.is_known(found):
            raise WrongVersion(
                f"the tables of the warehouse {self.url} are of version {found}, which bigtcp-bench {__version__} "
                f"(version {migrate.head()}) does not know: a newer one made them; install that one here"
            )

    def read(self, work: Callable[[sa.Connection], T]) -> T:
        """Return ``work(connection)``, run in one read transaction."""

        def once() -> T:
            with self.engine.begin() as connection:
                return work(connection)

        return self._repeated(once)

    def write(self, work: Callable[[sa.Connection], T]) -> T:
        """Return ``work(connection)``, run in one write transaction; repeated if another writer was in the way."""

        def once() -> T:
            with self._writer.begin() as connection:
                return work(connection)

        return self._repeated(once)

    def _repeated(self, once: Callable[[], T]) -> T:
        return self._in_one_sentence(lambda: _retrying(once))

    def _in_one_sentence(self, call: Callable[[], T]) -> T:
        try:
            return call()
        # What is wrong with a value is said to whoever gave it, who need not know where the warehouse is.
        except IntegrityError as error:
            raise InvalidInput(
                f"the warehouse refuses a row, probably of an unknown run: {_first_line(error)}"
            ) from error
        except UnicodeEncodeError as error:
            found = error.object[error.start]
            raise InvalidInput(
                f"a text holds {found!a} (U+{ord(found):04X}), which the warehouse's database cannot hold: "
                f"its encoding is {error.encoding}{_UTF8}"
            ) from error
        except DataError as error:
            found = _first_line(error)
            advice = _UTF8 if "in encoding" in found else ""
            raise InvalidInput(
                f"the warehouse's database cannot hold or compare a value: {found}{advice}"
            ) from error
        except OverflowError as error:
            raise InvalidInput(f"the warehouse's database cannot hold or compare a value: {error}") from error
        except DBAPIError as error:
            missing = getattr(error.orig, "sqlstate", "") == "42P01" or "no such table" in str(error.orig)
            advice = ": run `bigtcp-bench warehouse migrate`" if missing else ""
            raise WarehouseError(
                f"the warehouse {self.url} cannot be used: {_first_line(error)}{advice}"
            ) from error

    def _store(self, run_id: int, table: sa.Table, model: Any, rows: Iterable[Any]) -> None:
        name = table.name.removeprefix("bigtcp_")
        checked = with_run(run_id, rows_of(model, rows, f"{name} of run {run_id}"))
        if checked:
            self.write(lambda connection: upsert(connection, table, checked))

    def _frame_of_run(self, table: sa.Table, run_id: int) -> pd.DataFrame:
        columns = [column for column in table.c if column.name != "run_id"]
        return self._frame(sa.select(*columns).where(table.c.run_id == run_id).order_by(*table.primary_key))

    def _frame(self, statement: sa.Select[Any]) -> pd.DataFrame:
        from bigtcp_bench.warehouse.frames import frame_of

        return self.read(lambda connection: frame_of(connection, statement))


def with_run(run_id: int, rows: Sequence[Any]) -> list[dict[str, Any]]:
    """Return ``rows`` as those of a run."""
    # No row holds another model, so there is nothing to dump within it.
    return [{"run_id": run_id, **vars(row)} for row in rows]


def _first_line(error: DBAPIError) -> str:
    return str(error.orig).strip().partition("\n")[0]
