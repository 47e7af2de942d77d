"""Kernel releases that are known to break BIG TCP although their devices say that they can do it."""

from __future__ import annotations

import re

#: Linux 6.7 (commit 24ab059d2ebd, also taken into 6.6.y) lets a device's IPv6 limit hold for IPv4 packets too.
#: Fixed by e609c959a939 in 6.12, 6.11.3, 6.10.14 and 6.6.55; 6.7 to 6.9 had no more releases. Series → first good
#: patch level.
_IPV4_FIXED_IN = {(6, 6): 55, (6, 7): None, (6, 8): None, (6, 9): None, (6, 10): 14, (6, 11): 3}


def lacks_ipv4_fix(release: str) -> bool:
    """Return whether ``uname -r`` names a release that segments big IPv4 packets where only IPv4 is raised.

    A distribution may have taken the fix into a release that says otherwise; nothing on the node tells.
    """
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", release)
    if found is None:
        return False
    series = int(found[1]), int(found[2])
    if series not in _IPV4_FIXED_IN:
        return False
    fixed_in = _IPV4_FIXED_IN[series]
    return fixed_in is None or int(found[3] or 0) < fixed_in
