"""What the extra of the connection ``bigtcp_slack`` may hold, checked at the door: where to, whom, and what."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, SecretStr, ValidationError

from bigtcp_bench.errors import PreconditionFailed, validation_sentence
from bigtcp_bench.notify.channel import Digest, Severity, Wanted

if TYPE_CHECKING:
    from bigtcp_bench.notify.slack.channel import SlackChannel

_NEEDED = 'it needs a bot token as password and the id of a channel as "channel" in its extra'

#: What Airflow's form for connections to Slack asks for beside the token.
_OF_THE_FORM = {"timeout", "base_url", "proxy"}

#: https://docs.slack.dev/authentication/tokens
_TOKEN = re.compile(r"xox[a-z.]*-[\w-]+|xapp-[\w-]+")

_MENTION_FORM = "must be empty, or of @channel, @here, ids of users (U0123456789) and of user groups (S0123456789)"
_MENTIONS = (
    (re.compile(r"@(channel|here|everyone)"), r"<!\1>"),
    (re.compile(r"([UW][A-Z0-9]{2,})"), r"<@\1>"),
    (re.compile(r"(S[A-Z0-9]{2,})"), r"<!subteam^\1>"),
    (re.compile(r"(<!(?:channel|here|everyone)>|<@[UW][A-Z0-9]{2,}>|<!subteam\^S[A-Z0-9]{2,}>)"), r"\1"),
)


def _channel(value: Any) -> Any:
    if not isinstance(value, str) or not re.fullmatch(r"[CGD][A-Z0-9]{2,}", value):
        raise ValueError(
            "must be the id of a channel, such as C0123456789 (in Slack: the channel's name, About, Channel ID)"
        )
    return value


def _mention(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError(_MENTION_FORM)
    return " ".join(map(_mention_markup, value.replace(",", " ").split()))


def _mention_markup(word: str) -> str:
    for form, markup in _MENTIONS:
        if form.fullmatch(word):
            return form.sub(markup, word)
    raise ValueError(_MENTION_FORM)


def _url(value: Any) -> Any:
    if not isinstance(value, str) or not re.fullmatch(r"https?://[^\s/]+(/\S*)?", value):
        raise ValueError("must be a URL that begins with http:// or https://")
    return value


Channel = Annotated[str, BeforeValidator(_channel)]
Mention = Annotated[str, BeforeValidator(_mention)]
Url = Annotated[str, BeforeValidator(_url)]


class Overrides(BaseModel):
    """What is different for one cluster."""

    model_config = Wanted.model_config

    channel: Channel | None = None
    mention: Mention | None = None
    min_severity: Severity | None = None
    digest: Digest | None = None


class ClusterSettings(Wanted):
    """What holds for one cluster. ``mention`` is Slack's markup; without a ``channel`` nothing can be sent."""

    channel: Channel | None = None
    mention: Mention = "<!channel>"


class SlackSettings(ClusterSettings):
    """What holds for every cluster that ``clusters`` says nothing of, and how Slack is reached.

    ``base_url`` and ``proxy`` are None for Slack's own address and for what the environment says.
    """

    token: SecretStr
    clusters: dict[str, Overrides] = Field({})
    base_url: Url | None = None
    proxy: Url | None = None
    #: Of each attempt. outbox.LEASE_S must stay above what all attempts of one message take together.
    timeout: int = Field(10, ge=1, le=20)

    def of(self, cluster: str) -> ClusterSettings:
        """Return what holds for ``cluster``."""
        common = {name: getattr(self, name) for name in ClusterSettings.model_fields}
        own = self.clusters.get(cluster, Overrides()).model_dump(exclude_none=True)
        return ClusterSettings.model_validate(common | own)

    def channel_of(self, cluster: str) -> SlackChannel | None:
        """Return the channel for messages of ``cluster``, or None where there is none."""
        from bigtcp_bench.notify.slack.channel import SlackChannel
        from bigtcp_bench.notify.slack.client import client_of

        own = self.of(cluster)
        return SlackChannel(client_of(self), own.channel, own.mention) if own.channel else None


def slack_settings(password: str | None, extra: Mapping[str, Any], where: str) -> SlackSettings:
    """Return the settings out of a connection's ``password`` and ``extra``; ``where`` names the connection.

    Raises PreconditionFailed with one sentence for what is wrong; no token or password of a proxy is in it.
    """
    if not password:
        raise PreconditionFailed(f"{where} has no token: {_NEEDED}")
    if "token" in extra:
        raise PreconditionFailed(f"{where} has a token in its extra: {_NEEDED}")
    # Airflow's form stores what was left empty in it.
    given = {name: value for name, value in extra.items() if value or name not in _OF_THE_FORM}
    try:
        settings = SlackSettings.model_validate({**given, "token": password})
    except ValidationError as error:
        sentence = validation_sentence(error, where).replace(repr(given.get("proxy")), "'***'")
        raise PreconditionFailed(_TOKEN.sub("***", sentence)) from None
    if settings.channel is None and not any(one.channel for one in settings.clusters.values()):
        raise PreconditionFailed(f"{where} has no channel: {_NEEDED}")
    return settings
