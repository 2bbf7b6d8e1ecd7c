"""What looks like personal data or a secret: the rules of :class:`ntmem.Scrubber`, and which a text may concern.

**Invariants**

- Every pattern is linear: repeats are bounded, or possessive behind a look-behind that lets them begin once a run.
- A rule whose pattern can match a text is among :func:`suspected` of it: what that leaves out was looked at.
- Digits are ASCII digits. What is a number and nothing more is no phone, card or address: see each check.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cached_property
from ipaddress import AddressValueError, IPv6Address
from typing import TypeAlias

Span: TypeAlias = "tuple[int, int] | None"
Check: TypeAlias = "Callable[[re.Match[str]], Span]"

KINDS = ("PRIVATE_KEY", "REDACTED", "AWS_KEY", "JWT", "API_KEY", "EMAIL", "SSN", "CREDIT_CARD", "IP", "PHONE")
"""What is found, by the name that takes its place. What comes first wins where two would take the same text."""

SHORTEST = 5
"""Characters of the shortest text that a rule finds something in: ``://a@``."""
SAFE_NAME = 20
"""Characters of the shortest name, such as those of fields, that may be a secret."""


class Rule:
    """A pattern of a kind, compiled when it is first needed; `check` says which part of a match goes, if any."""

    def __init__(self, kind: str, pattern: str, check: Check | None = None, flags: int = re.ASCII) -> None:
        self.kind = kind
        self._pattern, self._flags, self._check = pattern, flags, check

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        return re.compile(self._pattern, self._flags)

    def find(self, text: str) -> list[tuple[int, int]]:
        """Return where it is in a text, in order: the group `value` of its pattern, all of a match without one."""
        found = []
        group, check = "value" if "value" in self.pattern.groupindex else 0, self._check
        for match in self.pattern.finditer(text):
            span = match.span(group) if check is None else check(match)
            if span is not None:
                found.append(span)
        return found


# -- checks


def _value_with_digit(match: re.Match[str]) -> Span:
    return match.span("value") if any(map(str.isdigit, match["value"])) else None


def _key_with_digit(match: re.Match[str]) -> Span:
    return match.span() if any(map(str.isdigit, match[0])) else None


def _digits(text: str) -> str:
    return "".join(filter(str.isdigit, text))


def _is_ssn(digits: str) -> bool:
    """Whether nine digits can be a number of the US social security."""
    return digits[:3] not in ("000", "666") and digits[0] != "9" and digits[3:5] != "00" and digits[5:] != "0000"


def _ssn(match: re.Match[str]) -> Span:
    return match.span("value") if _is_ssn(_digits(match["value"])) else None


_ISSUERS = re.compile(
    r"""4(?:.{12}|.{15}|.{18})                                      # Visa
    | 5[1-5].{14}|(?:222[1-9]|22[3-9].|2[3-6]..|27[01].|2720).{12}  # Mastercard
    | 3[47].{13}                                                    # American Express
    | (?:6011|64[4-9].|65..).{12,15}                                # Discover
    | (?:30[0-5]|309|36.|38.|39.).{11}                              # Diners Club
    | 35(?:2[89]|[3-8].).{12,15}                                    # JCB
    | 62.{14,17}                                                    # UnionPay
    | 220[0-4].{12,15}                                              # Mir
    | (?:5018|5020|5038|5893|6304|6759|676[1-3]).{9,15}             # Maestro""",
    re.VERBOSE,
)


def is_card(digits: str) -> bool:
    """Whether digits have the length of an issuer's cards, and the last checks the others (Luhn, ISO/IEC 7812)."""
    if not _ISSUERS.fullmatch(digits):
        return False
    numbers = [int(each) for each in digits[::-1]]
    doubled = sum(sum(divmod(2 * each, 10)) for each in numbers[1::2])
    return (sum(numbers[::2]) + doubled) % 10 == 0


def _card(match: re.Match[str]) -> Span:
    return match.span() if is_card(_digits(match[0])) else None


def _ipv4(match: re.Match[str]) -> Span:
    parts = match[0].split(".")
    return match.span() if all(int(each) < 256 and str(int(each)) == each for each in parts) else None


def _ipv6(match: re.Match[str]) -> Span:
    """A valid address; not a slice such as 10::20, nor words such as dead::beef."""
    start = match.start()
    for text in (match[0], match[0][:-1]):  # the last may end a sentence
        try:
            IPv6Address(text)
        except AddressValueError:
            continue
        groups = text.split(":")
        if any(map(str.isdigit, text)) and (len(groups) > 4 or max(map(len, groups)) > 2):
            return start, start + len(text)
    return None


_THOUSANDS = re.compile(r"\+[0-9]{1,3}(?:\.[0-9]{3})+")


def _international(match: re.Match[str]) -> Span:
    """A number with its country code; not an amount such as +1.250.000.000, nor one of fewer than ten digits."""
    digits = _digits(match[0])
    if _THOUSANDS.fullmatch(match[0]) or len(digits) < (10 if len(digits) == len(match[0]) - 1 else 8):
        return None
    if digits[0] == "1" and (len(digits) != 11 or digits[1] in "01"):
        return None
    return match.span()


def _national(match: re.Match[str]) -> Span:
    return match.span() if 9 <= len(_digits(match[0])) <= 11 else None


def _separated(match: re.Match[str]) -> Span:
    return None if match["value"].isdigit() else match.span("value")


# -- rules

_PEM = Rule(
    "PRIVATE_KEY",
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----(?:[^-]|-(?!----))*+"
    r"(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----)?",
)
_USERINFO = Rule("REDACTED", r"(?<=://)[^\s/?#\"'<>]+(?=@)")
_PARAMETER = Rule(
    "REDACTED",
    r"[?&;#](?:[\w.-]{0,40}[_.-])?(?:(?:api|app|access|auth|client|private|secret|subscription)?[_-]?(?:key|token)"
    r"|secret|signature|sig|hmac|passwd|password|passphrase|pwd|credentials?|authorization|auth)="
    r"(?P<value>[^&\s#\"'<>]++)",
    flags=re.ASCII | re.IGNORECASE,
)
_PASSWORD = Rule(
    "REDACTED",
    r"(?<![A-Za-z0-9])(?:password|passwd|passphrase|pwd)[\"']?\s{0,2}[=:]\s{0,2}[\"']?(?P<value>[^\s\"'&,;<>]{3,}+)",
    flags=re.ASCII | re.IGNORECASE,
)
_AWS_SECRET = Rule(
    "AWS_KEY",
    r"(?:aws|secret)[_ -]?(?:secret[_ -]?)?(?:access[_ -]?)?(?:key|token)[\"']?[\s=:\"']{1,6}"
    r"(?P<value>[A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])",
    flags=re.ASCII | re.IGNORECASE,
)
_AWS = Rule("AWS_KEY", r"(?<![A-Za-z0-9])A(?:KIA|SIA|ROA|IDA|GPA|NPA|NVA|IPA|BIA|CCA)[A-Z0-9]{16}(?![A-Za-z0-9])")
_JWT = Rule("JWT", r"(?<![\w-])eyJ[\w-]{8,}+\.[\w-]{8,}+(?:\.[\w-]++){0,3}")
_ASSIGNED = Rule(
    "API_KEY",
    r"(?<![A-Za-z0-9])(?:(?:api|app|access|auth|client|consumer|private|secret|signing|encryption|master|refresh"
    r"|session|bearer|id)[_ -]?(?:key|token|secret)|secret)[\"']?\s{0,2}[=:]\s{0,2}[\"']?"
    r"(?P<value>[^\s\"'&,;<>(){}]{8,}+)",
    flags=re.ASCII | re.IGNORECASE,
)
_BEARER = Rule(
    "API_KEY",
    r"(?<![A-Za-z0-9])(?:bearer|(?:authorization:\s{0,3})(?:basic|token|apikey))\s{1,3}(?P<value>[\w.~+/-]{16,}+=*+)",
    _value_with_digit,
    re.ASCII | re.IGNORECASE,
)
_API_KEY = Rule(
    "API_KEY",
    r"(?<![A-Za-z0-9])(?:sk-[\w-]{20,}+|[prs]k_(?:live|test)_[A-Za-z0-9]{16,}+|gh[oprsu]_[A-Za-z0-9]{30,}+"
    r"|github_pat_\w{20,}+|xox[a-z]-[A-Za-z0-9-]{16,}+|xapp-[A-Za-z0-9-]{16,}+|AIza[\w-]{35}|glpat-[\w-]{16,}+"
    r"|hf_[A-Za-z0-9]{30,}+|npm_[A-Za-z0-9]{30,}+|pypi-[\w-]{16,}+|SG\.[\w-]{16,}+\.[\w-]{16,}+|ya29\.[\w-]{20,}+)",
    _key_with_digit,
)
_EMAIL = Rule(
    "EMAIL",
    r"(?<![\w.%+'-])[\w.%+'-]++@(?:[\w-]{1,63}\.)+(?:xn--[\w-]{2,59}|[^\W\d_]{2,24})(?!\w)",
    flags=0,
)
_SSN = Rule("SSN", r"(?<![\w.-])(?P<value>[0-9]{3}-[0-9]{2}-[0-9]{4})(?![\w-]|\.[0-9])", _ssn)
_SSN_NAMED = Rule(
    "SSN",
    r"(?<![A-Za-z0-9])(?:ssn|social[ _-]security)(?:[ _-]?(?:number|num|no))?\.?[\"']?[ :=#]{0,3}(?:is )?[\"']?"
    r"(?P<value>[0-9]{3}[ .-]?[0-9]{2}[ .-]?[0-9]{4})(?!\w|[.-][0-9])",
    _ssn,
    re.ASCII | re.IGNORECASE,
)
_CARD = Rule("CREDIT_CARD", r"(?<![\w.$+-])[0-9]{13,19}(?!\w|[.-][0-9])", _card)
_CARD_GROUPED = Rule(
    "CREDIT_CARD",
    r"(?<![\w.$+-])(?<![0-9] )(?:[0-9]{4}([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{1,4}(?:\1[0-9]{1,3})?"
    r"|[0-9]{4}([ -])[0-9]{6}\2[0-9]{4,5})(?!\w|[ .-][0-9])",
    _card,
)
_IPV6 = Rule("IP", r"(?<![\w:.])[0-9A-Fa-f:.]{6,45}+(?![\w:.])", _ipv6)
_IPV4 = Rule(
    "IP", r"(?<![\w.$])(?<!ersion )(?<!ersion=)(?<!ersion: )(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?!\w|\.\w|,[0-9])", _ipv4
)
_INTERNATIONAL = Rule(
    "PHONE",
    r"(?<![\w+.])\+(?:[17]|2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]"
    r"|(?:2[1-689]|3[578]|42|5[09]|6[7-9]|8[0578]|9[679])[0-9])(?:[ .()/-]{0,2}[0-9]){6,13}(?![0-9]|[.,][0-9])",
    _international,
)
_AREA = Rule("PHONE", r"(?<![\w.-])(?:1[ .-])?\([2-9][0-9]{2}\)[ .-]?[0-9]{3}[ .-][0-9]{4}(?!\w|[.,-][0-9])")
_DASHED = Rule("PHONE", r"(?<![\w.$/+-])(?:1[.-])?[2-9][0-9]{2}([.-])[0-9]{3}\1[0-9]{4}(?!\w|[.,/-][0-9])")
_TRUNK = Rule(
    "PHONE",
    r"(?<![\w.,:/+-])(?<![0-9] )(?:\(0[1-9][0-9]{0,3}\)[ -]?[0-9]{3,4}[ -]?[0-9]{3,4}"
    r"|0[1-9][0-9]{0,3}([ ./-])[0-9]{2,8}(?:\1[0-9]{2,4}){0,3})(?!\w|[ .,:/-][0-9])",
    _national,
)
_PHONE_NAMED = Rule(
    "PHONE",
    r"(?<![A-Za-z])(?:phone|tel|telephone|mobile|cell|fax|whatsapp)(?: (?:no|number))?[.:#= ]{1,4}"
    r"(?P<value>\(?[0-9](?:[ .()/-]{0,2}[0-9]){6,13})(?!\w|[.,-][0-9])",
    _separated,
    re.ASCII | re.IGNORECASE,
)

_AWS_BEGINS = re.compile(r"A(?:KIA|SIA|ROA|IDA|GPA|NPA|NVA|IPA|BIA|CCA)[A-Z0-9]{16}").search
_UNDERSCORED = re.compile(r"k_(?:live|test)_|gh[oprsu]_|github_pat_|hf_|npm_").search
_WORDS = re.compile(r"key|token|secret|pass|pwd|sig|auth|hmac|credential").search
_DIGITS = re.compile(r"[0-9][ .()/-]{0,2}[0-9][ .()/-]{0,2}[0-9](?:[ .()/-]{0,2}[0-9]){4}").search
_NUMBERS = (_SSN, _SSN_NAMED, _CARD, _CARD_GROUPED, _INTERNATIONAL, _AREA, _DASHED, _TRUNK, _PHONE_NAMED)


def is_harmless(text: str) -> bool:
    """Whether a text is too short for any rule, or a name such as those of fields."""
    size = len(text)
    return size < 6 or (size < SAFE_NAME and text.isidentifier())


def suspected(text: str) -> list[Rule]:
    """Return the rules that may find something in a text, in the order in which they are asked.

    A look for letters takes some 20 ns whatever the length; that for digits goes through the text once.
    """
    rules: list[Rule] = []
    has_at, has_hyphen, is_long = "@" in text, "-" in text, len(text) >= 20
    is_named = False
    low = text.lower()
    if "=" in text or ":" in text:
        is_named = _WORDS(low) is not None
    if has_hyphen and "-----BEGIN " in text:
        rules.append(_PEM)
    if has_at and "://" in text:
        rules.append(_USERINFO)
    if is_named:
        rules += (_PARAMETER, _PASSWORD)
    if is_long:
        if "secret" in low or "aws" in low:
            rules.append(_AWS_SECRET)
        if "A" in text and _AWS_BEGINS(text):
            rules.append(_AWS)
        if "eyJ" in text:
            rules.append(_JWT)
        if "bearer" in low or "authorization" in low:
            rules.append(_BEARER)
    if is_named:
        rules.append(_ASSIGNED)
    if is_long and (
        (has_hyphen and ("sk-" in text or "xox" in text or "xapp-" in text or "glpat-" in text or "pypi-" in text))
        or ("_" in text and _UNDERSCORED(text))
        or "AIza" in text
        or "SG." in text
        or "ya29." in text
    ):
        rules.append(_API_KEY)
    if has_at:
        rules.append(_EMAIL)
    if ":" in text and text.count(":") > 1:
        rules.append(_IPV6)
    if "." in text and text.count(".") > 2:
        rules.append(_IPV4)
    if _DIGITS(text):
        rules += _NUMBERS
    return rules
