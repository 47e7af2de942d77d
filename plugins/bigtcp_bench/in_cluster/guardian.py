"""Put the cluster back when nobody else does: what the guardian's CronJob runs in the cluster under test.

Run as ``python3 -m bigtcp_bench.in_cluster.guardian orders.json``, with the token of its own service account. It
is mounted, with the other files of this folder that it imports, into any image with python3, so they use the
standard library only and no syntax newer than Python 3.9.

It does nothing while the Lease is alive; else it takes the Lease away from the run and does what every restore
does. It may not run commands in the agents' pods. In place of what an agent has been told it therefore goes by
when the agent was created, and by the limits of the devices. Whatever it does, it says in one line.

It ends with 0 when there was nothing to do or everything is verified, and with 1 when something is not as it was;
then the saved state stays, for its own next round and for everybody else who can restore.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn

from bigtcp_bench.in_cluster import hold as holding
from bigtcp_bench.in_cluster import protocol, restore
from bigtcp_bench.in_cluster.hold import CONFIGMAPS, LEASE, PODS, STATE, Check, Hold, Lost, NotRestored, Refused
from bigtcp_bench.in_cluster.protocol import GUARDIAN_NAME, NAMESPACE, Json

#: Where a pod finds the credentials of its service account.
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
#: As in ``cluster/api.py``: a request that is on its way cannot be fenced, so it must not be so for long.
REQUEST_TIMEOUT_S = 10.0
#: Answers that say "not now".
TRANSIENT_STATUSES = (429, 500, 502, 503, 504)
#: As in ``cluster/api.py``: for so long after an outage a refusal (401, 403) is only passing.
COMING_BACK_S = 30.0
OWN_JOB = f"/apis/batch/v1/namespaces/{NAMESPACE}/cronjobs/{GUARDIAN_NAME}"
OWN_FILES = f"{CONFIGMAPS}/{GUARDIAN_NAME}"


def say(text: str) -> None:
    """Print one line for people."""
    print(" ".join(text.split()), flush=True)


class Api:
    """The Kubernetes API for the account of this pod: the guardian's hands (``holding.Hands``).

    Requests are repeated for ``away_s`` seconds while the server is away; ``marker`` begins the lines of a probe.
    """

    sees_all = False
    clock: Callable[[], float] = staticmethod(time.time)
    monotonic: Callable[[], float] = staticmethod(time.monotonic)
    sleep: Callable[[float], None] = staticmethod(time.sleep)

    def __init__(self, away_s: float, marker: str) -> None:
        self.away_s = away_s
        self.marker = marker
        self._server_ahead_s = 0.0
        self._outage_at = float("-inf")

    def now(self) -> float:
        """Return the time by the API server's clock, in seconds since the epoch."""
        return self.clock() + self._server_ahead_s

    def get(self, path: str) -> Json | None:
        """Return the object at ``path``, or None if it does not exist."""
        try:
            return self._document("GET", path)
        except Refused as error:
            if error.status == 404:
                return None
            raise

    def select(self, path: str, labels: str = "", fields: str = "") -> list[Json]:
        """Return the objects below ``path`` that match both selectors."""
        given = {"labelSelector": labels, "fieldSelector": fields}
        query = urllib.parse.urlencode({key: value for key, value in given.items() if value})
        return self._document("GET", f"{path}?{query}").get("items") or []

    def change(self, method: str, path: str, body: Json, before: Check | None = None) -> Json:
        """POST, PUT or PATCH (a merge patch) and return the object as stored."""
        return self._document(method, path, body, before=before)

    def delete(self, path: str, *, uid: str | None = None, before: Check | None = None, **options: Any) -> bool:
        """Delete an object; False if it was gone already. Raises Refused if it is not the one with ``uid``."""
        body: Json = {"apiVersion": "v1", "kind": "DeleteOptions", **options}
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        try:
            self._document("DELETE", path, body, before=before)
        except Refused as error:
            if error.status == 404:
                return False
            raise
        return True

    def told(self, agent: Json) -> dict[str, str]:
        """Say that it may not ask."""
        raise Refused(f"no command may be run in pod {agent['metadata']['name']}", 403)

    def devices(self, node: str, pod: str) -> dict[str, dict[str, Any]]:
        """Return device → what the kernel of ``node`` says of it, from the log of a probe pod."""
        del node
        for line in self._answer("GET", f"{PODS}/{pod}/log").splitlines():
            _, marker, text = line.partition(self.marker)
            if not marker:
                continue
            try:
                frame = json.loads(text)
                if frame["kind"] == "probe":
                    document = json.loads(zlib.decompress(base64.b64decode(frame["doc"])))
                    devices: dict[str, dict[str, Any]] = document["snapshot"]["devices"]
                    return devices
            except (ValueError, KeyError, TypeError, zlib.error) as error:
                raise NotRestored(f"the probe pod printed something else than a probe: {error!r}") from error
        raise NotRestored("the probe pod printed no probe")

    def _document(self, method: str, path: str, body: Json | None = None, before: Check | None = None) -> Json:
        found: Json = json.loads(self._answer(method, path, body, before) or "{}")
        return found

    def _answer(self, method: str, path: str, body: Json | None = None, before: Check | None = None) -> str:
        """Make one request and return its answer; ``before`` runs ahead of every attempt. Raises Refused."""
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if method == "PATCH":
            headers["Content-Type"] = "application/merge-patch+json"
        data = json.dumps(body).encode() if body is not None else None
        last = ""
        for _ in holding.poll(self, self.away_s, 1.0):
            if before is not None:
                before()
            try:
                status, date, answer = self.send(method, path, headers, data)
            except ssl.SSLCertVerificationError as error:
                raise Refused(f"the API server's certificate is not the cluster's: {error}", 0) from error
            except (OSError, http.client.HTTPException) as error:
                last = str(error) or type(error).__name__
                self._outage_at = self.monotonic()
                continue
            self._learn_time(date)
            if status >= 500:
                self._outage_at = self.monotonic()
            coming_back = self.monotonic() < self._outage_at + COMING_BACK_S
            if status in TRANSIENT_STATUSES or (status in (401, 403) and coming_back):
                last = f"answer {status}"
                continue
            if status >= 400:
                raise Refused(f"{method} {path} was refused with {status}: {_message(answer)}", status)
            return answer
        raise Refused(f"{method} {path} had no usable answer for {self.away_s:g} s (last: {last})", 0)

    def send(self, method: str, path: str, headers: Mapping[str, str], data: bytes | None) -> tuple[int, str, str]:
        """Send one request and return status, date and text of the answer. Raises OSError if there is none."""
        host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
        host = f"[{host}]" if ":" in host else host
        # Read anew for every request: the kubelet renews the token.
        with open(f"{ACCOUNT}/token", encoding="ascii") as file:
            authorization = f"Bearer {file.read().strip()}"
        request = urllib.request.Request(
            f"https://{host}:{port}{path}", data, {**headers, "Authorization": authorization}, method=method
        )
        trusted = ssl.create_default_context(cafile=f"{ACCOUNT}/ca.crt")
        # No proxy: a variable of the image must not lead the token out of the cluster.
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusted)
        )
        try:
            with opener.open(request, timeout=REQUEST_TIMEOUT_S) as answer:
                return answer.status, answer.headers.get("Date", ""), answer.read().decode("utf-8", "replace")
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers.get("Date", ""), error.read().decode("utf-8", "replace")
        except urllib.error.URLError as error:
            if isinstance(error.reason, OSError):
                raise error.reason from error
            raise

    def _learn_time(self, date: str) -> None:
        try:
            # Whole seconds: the middle of that second is the best guess.
            self._server_ahead_s = parsedate_to_datetime(date).timestamp() + 0.5 - self.clock()
        except (TypeError, ValueError):
            return


def _message(answer: str) -> str:
    try:
        return str(json.loads(answer)["message"])
    except (ValueError, KeyError, TypeError):
        return " ".join(answer.split())[:300] or "no message"


class Guardian:
    """One round of the guardian."""

    def __init__(self, hands: holding.Hands, means: holding.Means) -> None:
        self.hands = hands
        self.means = means

    def run(self) -> int:
        """Restore if the run that had the cluster is gone; return the exit status."""
        if self._is_held(self.hands.get(LEASE)):
            return 0
        # In this order: a run that begins meanwhile changes the Lease, and has a guardian with other uids.
        own = {path: self.hands.get(path) for path in (OWN_JOB, OWN_FILES)}
        lease, saved = self.hands.get(LEASE), self.hands.get(STATE)
        if self._is_held(lease):
            return 0
        if saved is None:
            say("there is no saved state, so there is nothing to restore; the guardian is no longer needed")
            self._tidy(lease, own)
            return 0
        try:
            state = protocol.read_saved(saved)
        except protocol.Unreadable as error:
            say(f"the saved state cannot be read: {error}; the cluster must be put back by hand")
            return 1
        hold = holding.take_over(self.hands, lease, state.holder)
        if hold is None:
            say("somebody else took the cluster at the same moment; nothing to do")
            return 0
        say(f"{state.holder} is gone and has left its changes; restoring what was saved at {state.saved_at}")
        if not self._restored(hold, lease, state):
            return 1
        try:
            self._retire(own, before=hold.check)
            hold.release()
        except (Lost, Refused) as reason:
            say(f"the hold on the cluster ends by itself: {reason}")
        return 0

    def _restored(self, hold: Hold, lease: Json | None, state: protocol.SavedState) -> bool:
        in_flight = protocol.annotations_of(lease).get(protocol.IN_FLIGHT, "")
        report = holding.Report(say)
        try:
            restore.put_back(self.hands, hold, state, report, self.means, in_flight=in_flight, by="the guardian")
        except Lost as reason:
            say(str(reason))
            return False
        except (Refused, NotRestored) as error:
            if self._expire(hold):
                say(f"NOT RESTORED, the saved state stays: {error}")
            return False
        except BaseException:
            self._expire(hold)
            raise
        say(f"restored what {state.holder} had changed, and verified it")
        return True

    def _tidy(self, lease: Json | None, own: Mapping[str, Json | None]) -> None:
        """Delete itself, and the pods of a run that died before it had saved, and so changed, anything."""
        holder = ((lease or {}).get("spec") or {}).get("holderIdentity") or ""
        owner = holder.removeprefix(protocol.REVOKED)
        if not owner:
            self._retire(own)
            return
        hold = holding.take_over(self.hands, lease, owner)
        if hold is None:
            say("somebody else took the cluster at the same moment; nothing to do")
            return
        try:
            holding.delete_pods(self.hands, hold, self.means.all_pods, holding.Report(say))
            self._retire(own, before=hold.check)
            hold.release()
        except (Lost, Refused) as error:
            say(f"pods of {owner} may be left, and the hold on the cluster ends by itself: {error}")

    def _is_held(self, lease: Json | None) -> bool:
        """Return whether a run or a restore is alive, and say so."""
        if lease is None or not protocol.is_live(lease, self.hands.now()):
            return False
        age_s = self.hands.now() - protocol.epoch(lease["spec"].get("renewTime"))
        holder = lease["spec"]["holderIdentity"]
        say(f"{holder} holds the cluster and renewed its hold {age_s:.0f} s ago; nothing to do")
        return True

    def _expire(self, hold: Hold) -> bool:
        """Let the hold end at once but stay on record; return whether it was still ours to the end."""
        try:
            hold.expire()
        except Lost as reason:
            say(str(reason))
            return False
        except Refused as error:
            say(f"the hold on the cluster ends by itself: {error}")
        return True

    def _retire(self, own: Mapping[str, Json | None], before: Check | None = None) -> None:
        """Remove the guardian's ``own`` CronJob and ConfigMap, but not the running Job: its log is the report."""
        try:
            for path, found in own.items():
                if found is not None and not found["metadata"].get("deletionTimestamp"):
                    jobs = {"propagationPolicy": "Orphan"} if path == OWN_JOB else {}
                    self.hands.delete(path, uid=found["metadata"]["uid"], before=before, **jobs)
            # The CronJob stays until its Jobs are cut loose; one that ended earlier would be deleted with its log.
            for _ in holding.poll(self.hands, 30):
                if not ((self.hands.get(OWN_JOB) or {}).get("metadata") or {}).get("deletionTimestamp"):
                    return
        except Refused as error:
            say(f"the guardian's CronJob {GUARDIAN_NAME} may be still there: {error}")


def _stop(number: int, _frame: object) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # one is enough: the second must not interrupt the giving back
    sys.exit(128 + number)


def main(arguments: list[str]) -> int:
    """Do one round by the orders in the file that is named; return the exit status.

    ``orders`` are ``away_s`` and ``marker`` of ``Api``, and ``means``: the fields of ``hold.Means``.
    """
    signal.signal(signal.SIGTERM, _stop)
    with open(arguments[0], encoding="utf-8") as file:
        orders = json.load(file)
    try:
        means = holding.Means(**orders["means"])
        return Guardian(Api(orders["away_s"], orders["marker"]), means).run()
    except Refused as error:
        say(str(error))
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
