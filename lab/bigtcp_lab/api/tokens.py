"""Who is asking: bearer tokens of the administrator and of service accounts."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field


@dataclass(frozen=True)
class User:
    """An authenticated user with the groups that access rules may name."""

    name: str
    groups: tuple[str, ...]

    @property
    def is_admin(self) -> bool:
        """Return whether access rules do not apply to this user."""
        return "system:masters" in self.groups


@dataclass
class Tokens:
    """All valid tokens; they live as long as the process."""

    #: The token of the administrator, for the kubeconfig.
    admin: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    _accounts: dict[tuple[str, str], str] = field(default_factory=dict)

    def service_account(self, namespace: str, name: str) -> str:
        """Return the token of a service account, made at the first call."""
        return self._accounts.setdefault((namespace, name), secrets.token_urlsafe(24))

    def user(self, token: str) -> User | None:
        """Return whom ``token`` belongs to, or ``None``."""
        if secrets.compare_digest(token.encode(), self.admin.encode()):
            return User("kubernetes-admin", ("system:masters", "system:authenticated"))
        for (namespace, name), known in self._accounts.items():
            if secrets.compare_digest(token.encode(), known.encode()):
                groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")
                return User(f"system:serviceaccount:{namespace}:{name}", groups)
        return None
