"""Exit codes, and errors as lines on stderr."""

from __future__ import annotations

import typer

from app.errors import ServingError

OK = 0
FAILED = 1
USAGE = 2
"""Typer's own, for wrong options and arguments."""
REFUSED = 3
NO_ANSWER = 4

EPILOG = f"""\b
Exit codes:
  {OK}  it worked
  {FAILED}  the platform failed, is not ready, or cannot start
  {USAGE}  the command line is wrong
  {REFUSED}  the gateway refused the request (4xx)
  {NO_ANSWER}  no answer: cannot connect, or the connection broke
"""


def report(error: Exception) -> int:
    """Write the error to stderr and return the exit code that it means."""
    from ml_serve_client import ApiError, ConnectionFailed, NoResponse  # noqa: PLC0415 - brings httpx, which help does not need

    if isinstance(error, ConnectionFailed):
        hint = "" if isinstance(error, NoResponse) else "; is it running? start it with: ml-serve up"
        complain(f"{error}{hint}")
        return NO_ANSWER
    if isinstance(error, ApiError):
        complain(str(error))
        return REFUSED if 400 <= error.status < 500 else FAILED
    if isinstance(error, ServingError):
        complain(*error.message.splitlines())
    else:
        complain(f"{type(error).__name__}: {error}; 'ml-serve --debug …' shows where")
    return FAILED


def complain(*messages: str) -> None:
    """One line each on stderr; what a terminal would obey is left out, for messages may come from elsewhere."""
    for message in messages:
        line = "".join(character if character.isprintable() else " " for character in message)
        typer.echo(f"{typer.style('error:', fg='red')} {' '.join(line.split())}", err=True)
