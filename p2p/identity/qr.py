"""An invite as a picture for the camera of a phone or a laptop."""

import io

from fedcore.errors import ConfigError


def terminal_qr(text: str) -> str:
    """Return the QR code of an invite as text, two rows of squares a line.

    Raises:
        ConfigError: the invite is too long for a picture, or ``segno`` is missing.
    """
    out = io.StringIO()
    _code(text).terminal(out, compact=True, border=2)  # type: ignore[attr-defined]
    return out.getvalue()


def svg_qr(text: str, *, scale: int = 4) -> str:
    """Return the QR code of an invite as an SVG picture, ``scale`` pixels a square.

    Raises:
        ConfigError: the invite is too long for a picture, or ``segno`` is missing.
    """
    out = io.BytesIO()
    _code(text).save(out, kind="svg", scale=scale, xmldecl=False)  # type: ignore[attr-defined]
    return out.getvalue().decode()


def _code(text: str) -> object:
    """Return the code of the text in capitals, for which QR codes need a third less."""
    try:
        import segno
    except ImportError as error:
        raise ConfigError("QR codes need: pip install segno") from error
    try:
        return segno.make_qr(text.upper(), error="l", boost_error=False)
    except segno.DataOverflowError as error:
        raise ConfigError(
            f"an invite of {len(text)} characters is too long for a QR code; make one "
            "with fewer addresses"
        ) from error
