"""The errors that a caller can act on: each a class with a stable code and the HTTP status that carries it.

Everything else that is raised is a fault of ours and is let crash, logged once, at the edge.
"""

from collections.abc import Sequence
from typing import ClassVar

from tallymarks.values import Model


class FieldError(Model):
    """One thing that is wrong: what, where (`param`, a dotted path) and the refused value, cut to a readable length."""

    message: str
    param: str | None = None
    value: str | None = None


class Refusal(Exception):  # noqa: N818 - it is an answer, not a failure of the program
    """A request, or a part of one, that is refused."""

    code: ClassVar[str]
    status: ClassVar[int]
    message: ClassVar[str]

    def __init__(self, detail: str = "", *, errors: Sequence[FieldError] = ()) -> None:
        """Keep what the caller needs to act: a sentence, and each wrong field."""
        super().__init__(detail or self.message)
        self.detail = detail
        self.errors = tuple(errors)

    @classmethod
    def of(cls, param: str, value: object, detail: str = "") -> "Refusal":
        """Name the one field that is wrong, with its value."""
        text = detail or cls.message
        return cls(text, errors=[FieldError(message=text, param=param, value=shown(value))])


def shown(value: object, length_max: int = 200) -> str | None:
    """Give a refused value as a text that is safe to send back and to log."""
    if value is None:
        return None
    text = value if isinstance(value, str) else repr(value)
    return cut(text.encode("utf-8", "backslashreplace").decode(), length_max)


def cut(text: str, length_max: int) -> str:
    """Give a text of at most so many characters, whose last one tells that there were more."""
    return text if len(text) <= length_max else text[: length_max - 1] + "…"


class ErrorBody(Model):
    """Every error of the API."""

    code: str
    """Stable: what a program acts on."""
    message: str
    """The same for every error of this code."""
    detail: str
    """What was wrong this time."""
    errors: tuple[FieldError, ...]
    """Each wrong field."""

    @classmethod
    def of(cls, refusal: Refusal) -> "ErrorBody":
        """Give the body of a refusal."""
        return cls(code=refusal.code, message=refusal.message, detail=refusal.detail, errors=refusal.errors)


class InvalidRequest(Refusal):
    """Something of the request is not of its form; `errors` has each field."""

    code, status, message = "InvalidRequest", 400, "The request is not valid."


class CustomerNotFoundInUpdate(Refusal):
    """The page answers 400 here, where reading an unknown customer is a 404."""

    code, status, message = "CustomerNotFound", 400, "There is no such customer."


class CustomerNotFound(Refusal):
    """No customer of the tenant has this id."""

    code, status, message = "CustomerNotFound", 404, "There is no such customer."


class CustomerAlreadyExists(Refusal):
    """The id is taken by a customer who was registered before."""

    code, status, message = "CustomerAlreadyExists", 409, "A customer with this customerId was registered before."


class EmailAlreadyExists(Refusal):
    """Another customer of the tenant has this address, in whatever spelling of upper and lower case."""

    code, status, message = "EmailAlreadyExists", 400, "Another customer has this email address."


class AccountLocked(Refusal):
    """The customer's account takes no redemption."""

    code, status, message = "AccountLocked", 400, "The customer's account is locked."


class InsufficientPoints(Refusal):
    """The redemption would take the balance below zero."""

    code, status, message = "InsufficientPoints", 400, "The balance does not cover the redemption."


class BalanceOutOfRange(Refusal):
    """The points would carry the balance beyond what a balance can hold."""

    code, status, message = "BalanceOutOfRange", 400, "The balance would pass its bound of 10^15 points."


class EventNotFound(Refusal):
    """The event in the path does not exist."""

    code, status, message = "EventNotFound", 404, "There is no such event."


class TooManyEffects(Refusal):
    """What follows from one event has no end in sight: its rules feed each other."""

    code, status, message = "TooManyEffects", 400, "The event would have too many effects."


class EventIdTaken(Refusal):
    """The eventId belongs to an event of another kind, customer or amount: it is no repetition of this one."""

    code, status, message = "EventIdTaken", 409, "Another event has this eventId."


class ReversedEventNotFound(Refusal):
    """The customer has no such event, or none that was assessed yet: whose else it may be is not told."""

    code, status, message = "ReversedEventNotFound", 400, "The customer has no such event to reverse."


class EventNotReversible(Refusal):
    """Only what orders and transactions gave can be taken back."""

    code, status, message = "EventNotReversible", 400, "Only an order or a transaction can be reversed."


class AmountExceedsRest(Refusal):
    """More than is left of the event's value."""

    code, status, message = "AmountExceedsRest", 400, "The amount is more than what is left to reverse."


class AlreadyReversed(Refusal):
    """All of the event has been taken back."""

    code, status, message = "AlreadyReversed", 409, "The event has been reversed as a whole."


class SegmentNotFound(Refusal):
    """The body names a segment that the tenant does not have."""

    code, status, message = "SegmentNotFound", 400, "There is no such segment."


class SegmentNotActive(Refusal):
    """Only an active segment, whose date has not passed, takes members."""

    code, status, message = "SegmentNotActive", 400, "The segment takes no members."


class MembershipNotFound(Refusal):
    """The customer is not a current member of the segment."""

    code, status, message = "MembershipNotFound", 404, "The customer is not a member of this segment."


class ResourceNotFound(Refusal):
    """No rule, segment or key of the tenant has this id."""

    code, status, message = "NotFound", 404, "There is no such resource."


class AlreadyExists(Refusal):
    """The id or name that the new one asks for is taken."""

    code, status, message = "AlreadyExists", 409, "One with this id or name exists."


class OwnKey(Refusal):
    """A key that disabled or demoted itself could lock the tenant out."""

    code, status, message = "OwnKey", 409, "A key cannot disable or demote itself: use another admin key."


class LimitReached(Refusal):
    """The tenant has as many of these as it may have."""

    code, status, message = "LimitReached", 409, "The tenant has as many of these as it may have."


class StatusChangeNotAllowed(Refusal):
    """The rule's status has another that follows it, or none."""

    code, status, message = "StatusChangeNotAllowed", 409, "This status does not follow the one that is."


class RuleNotEditable(Refusal):
    """What the rule says is as it was when it took effect, and stays so."""

    code, status, message = "RuleNotEditable", 409, "What this rule says cannot change."


class SearchTooBroad(Refusal):
    """The search ran into its time limit."""

    code, status, message = "SearchTooBroad", 400, "The search took too long: narrow it by customer or by date."


class Unauthorized(Refusal):
    """A credential is missing, wrong or disabled; which of them is not told."""

    code, status, message = "Unauthorized", 401, "The credentials are missing or wrong."


class Forbidden(Refusal):
    """The key's role does not allow this call."""

    code, status, message = "Forbidden", 403, "This call needs a key of role admin."


class RouteNotFound(Refusal):
    """Nothing is served under this path."""

    code, status, message = "NotFound", 404, "Nothing is served under this path."


class MethodNotAllowed(Refusal):
    """The path is served, the method is not."""

    code, status, message = "MethodNotAllowed", 405, "This path does not take this method."


class BodyTooLarge(Refusal):
    """The body is over the bound of its call."""

    code, status, message = "BodyTooLarge", 413, "The body is too large."


class UnsupportedMediaType(Refusal):
    """A body that does not say it is JSON, or is compressed."""

    code, status, message = "UnsupportedMediaType", 415, "The body must be application/json, and not compressed."


class RequestTimeout(Refusal):
    """The request's head or body did not arrive in time."""

    code, status, message = "RequestTimeout", 408, "The request did not arrive in time."


class TooManyRequests(Refusal):
    """The key has had as many requests as it may have in a second."""

    code, status, message = "TooManyRequests", 429, "The key makes more requests than it may."


class HeadTooLarge(Refusal):
    """The request line and the headers have more bytes or lines than a request may have."""

    code, status, message = "HeadTooLarge", 431, "The request line and the headers are too large."


class Unavailable(Refusal):
    """The broker or the database is away; sending the same again is safe, whatever became of this one."""

    code, status, message = "Unavailable", 503, "A part of the service is away: try again."


class InternalError(Refusal):
    """A fault of ours; the caller gets a request id to name and nothing else."""

    code, status, message = "InternalError", 500, "The request failed."
