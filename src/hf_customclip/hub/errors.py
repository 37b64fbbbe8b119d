"""Errors of publishing, as one line each that says what was wrong and what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

# The client's HTTP library is httpx or httpx2, by version; this is the base of its errors in either.
HTTPError: type[Exception] = HfHubHTTPError.__mro__[1]
TRANSIENT_STATUS = (408, 425, 429, 500, 502, 503, 504)
# Another commit came first (412), or one is being made right now (409): look again, then try again.
CONFLICT_STATUS = (409, 412)
# What the client can raise for a request that went wrong. ValueError: it parses answers it did not expect,
# and RuntimeError: it wraps failures of uploads.
CLIENT_ERRORS = (HTTPError, OSError, ValueError, RuntimeError)
NO_TOKEN = (
    "no token was found; run `hf auth login`, set HF_TOKEN, or pass token=, with a token that may write."
)


class PublishError(OSError):
    """A model was not published. The message is one line: what was wrong and what to do about it."""


def causes(error: BaseException) -> Iterator[BaseException]:
    """`error` and what it was raised from, outermost first."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__


def status_of(error: BaseException) -> int | None:
    """HTTP status behind `error`, or None when no answer came."""
    answers = (cause.response for cause in causes(error) if isinstance(cause, HfHubHTTPError))
    return next((int(answer.status_code) for answer in answers), None)


def is_transient(error: BaseException) -> bool:
    """Whether trying again can help: the network broke, or the Hub was overloaded or at fault."""
    if isinstance(error, (OfflineModeIsEnabled, HFValidationError)):
        return False
    status = status_of(error)
    if status is not None:
        return status in TRANSIENT_STATUS
    # JSON that does not parse is an error page of a gateway in front of the Hub.
    return any(
        isinstance(cause, (HTTPError, ConnectionError, json.JSONDecodeError)) for cause in causes(error)
    )


def explain(error: BaseException, api: HfApi, repo_id: str, sent: bool = False) -> PublishError:
    """The `PublishError` for whatever the client raised while publishing to `repo_id`.

    Args:
        sent: whether a commit was sent by then, whose answer may be what was lost.
    """
    outcome = "may not be published" if sent and is_transient(error) else "was not published"
    return PublishError(f"{repo_id} {outcome}: {_reason(error, api, repo_id)}")


def _reason(error: BaseException, api: HfApi, repo_id: str) -> str:
    first = next((cause for cause in causes(error) if isinstance(cause, HfHubHTTPError)), error)
    if isinstance(first, HFValidationError):
        return f"that is no repository name ({first_line(first)}); use user/name or organization/name."
    if isinstance(first, OfflineModeIsEnabled):
        return "offline mode is on; unset HF_HUB_OFFLINE and push again."
    if isinstance(first, LocalTokenNotFoundError):
        return NO_TOKEN
    if isinstance(first, GatedRepoError):
        return f"it is gated and this account has no access; ask for it at {api.endpoint}/{repo_id}."
    if isinstance(first, RevisionNotFoundError):
        return "that revision does not exist there; name a branch, not a tag or a commit."
    status = status_of(first)
    if status in (401, 403) or isinstance(first, RepositoryNotFoundError):
        return _no_right(api, repo_id)
    if status == 429:
        return "the Hub limits the rate of requests and went on doing so; wait some minutes and push again."
    if status is not None and status >= 500:
        return f"the Hub failed with status {status} again and again ({first_line(first)}); push again later."
    if status in CONFLICT_STATUS:
        return "others kept committing to it at the same time; push again when they are done."
    if is_transient(error):
        return (
            f"{api.endpoint} could not be reached ({first_line(first)}); check the connection and push again."
        )
    return (
        f"the Hub said: {first_line(first)}; put that right and push again."
        if status
        else f"{first_line(first)}."
    )


def _no_right(api: HfApi, repo_id: str) -> str:
    """Tell a wrong token, a read-only one and a foreign namespace apart by asking whose token it is."""
    try:
        me = api.whoami()
    except LocalTokenNotFoundError:
        return NO_TOKEN
    except CLIENT_ERRORS as error:
        if status_of(error) == 401:
            return (
                "the Hub did not accept the token; make a new one that may write at "
                f"{api.endpoint}/settings/tokens and log in with `hf auth login`."
            )
        return "the Hub refused it; check that the token is valid and may write to this repository."
    user, access = me["name"], (me.get("auth") or {}).get("accessToken") or {}
    if access.get("role") == "read":
        return (
            f"the token of {user} may only read; make one that may write at {api.endpoint}/settings/tokens "
            "and log in with `hf auth login`."
        )
    namespace, _, name = repo_id.rpartition("/")
    if namespace in (user, ""):
        return f"the token of {user} has no right to write to it; give the token write access to {repo_id}."
    return (
        f"{user} may not write under {namespace}; push to {user}/{name}, or ask {namespace} for write access."
    )


def first_line(error: BaseException) -> str:
    """An error's text in one line: what the Hub said where it said something."""
    if isinstance(error, HfHubHTTPError):
        text = (error.server_message or str(error)).strip().splitlines()[0].split(" (Request ID")[0]
    else:
        text = " ".join(str(error).split()) or type(error).__name__
    return text.rstrip(". ")
