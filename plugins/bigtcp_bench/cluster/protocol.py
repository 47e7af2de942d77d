"""What a window is made of: the names and times that runs, restores and the guardian in the cluster agree on."""

from __future__ import annotations

LEASE_NAME = "bigtcp-bench"
STATE_NAME = "bigtcp-bench-saved-state"
STATE_KEY = "state.json"
NODE_CONFIG_NAME = "zz-bigtcp-bench"
#: The guardian's CronJob, its ConfigMap, its service account and its roles.
GUARDIAN_NAME = "bigtcp-bench-guardian"
#: On the nodes (a label), on the Lease, the CiliumNodeConfig and ``cilium-config`` (an annotation): the window id.
WINDOW = "bigtcp-bench/window"
#: On the objects that a run changes: who did it.
HOLDER = "bigtcp-bench/holder"
#: On the Lease: what a task is changing right now.
IN_FLIGHT = "bigtcp-bench/in-flight"
#: On the Lease: whose window the guardian has put back, until the next one is opened.
RESTORED = "bigtcp-bench/restored"
#: On the Lease: the window whose settings a restore has undone, and when. An agent created later has the old
#: settings, so a second attempt need not restart it again.
UNDONE = "bigtcp-bench/undone"
#: On ``cilium-config`` (scope cluster): the arm that this package wrote.
ARM = "bigtcp-bench/arm"
#: Beside it: what ``cilium-config`` said before, as JSON, for a restore that has no saved state any more.
PRIOR = "bigtcp-bench/prior"
#: On the DaemonSet's pod template (scope cluster): window, arm and time of the last restart of all agents.
#: Changing it restarts them; removing it, again.
RESTARTED = "bigtcp-bench/restarted"
REVOKED = "revoked:"

#: A lease that is not renewed this long is over. Nobody renews between two tasks of a run, so this must be longer
#: than a busy scheduler takes from one task to the next, and than the API server is away in an upgrade.
LEASE_S = 600.0
RENEW_S = 20.0
#: A restore has no such gaps, and whoever takes over from a killed one should not wait long. But it must be longer
#: than a request of its is repeated while the API server is away (180 s), after the last renewal before that.
RESTORE_LEASE_S = 240.0
#: A killed Airflow task was seen to go on for up to 6 s; a request of its may be on its way for 10 s.
SETTLE_S = 12.0
#: How long a restore waits for another one that is under way.
OTHER_RESTORE_S = 300.0
