"""``idpersona …``: puts the commands together and turns errors into one line and an exit status.

Status 0: done. 1: a measured or verified thing is not as it should be, or a defect of ours. 2: bad input.
130, 143: interrupted, by Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import cast

import typer

from idpersona.cli import app as studio
from idpersona.cli import (
    arguments,
    compare,
    dataset,
    doctor,
    edit,
    evaluate,
    export,
    generate,
    identify,
    models,
    people,
    train,
)
from idpersona.errors import IdPersonaError, Interrupted

HELP = "Keep a person's or an object's identity while generating images with diffusion models."
EXAMPLE = (
    "Example: idpersona generate --photo sample:astronaut --prompt 'a photo of a smiling woman' -o me.png"
)

app = typer.Typer(
    name="idpersona",
    help=HELP,
    epilog=EXAMPLE,
    add_completion=False,
    # Plain help: markup would swallow every [default: …].
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
identify.register(app)
generate.register(app)
edit.register(app)
compare.register(app)
people.register(app)
dataset.register(app)
train.register(app)
export.register(app)
evaluate.register(app)
models.register(app)
doctor.register(app)
studio.register(app)


def _version(wanted: bool) -> None:
    if wanted:
        from idpersona import __version__

        print(f"idpersona {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Options before the command."""


root.__doc__ = HELP
# Typer carries its own copy of click in some versions and imports it in others; both have this base.
UsageProblem: type[Exception] = next(
    cls
    for cls in typer.BadParameter.__mro__
    if cls.__name__ == "ClickException" and issubclass(cls, Exception)
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status and never raises for bad input."""
    words = arguments.spread(list(sys.argv[1:] if argv is None else argv)) or ["--help"]
    try:
        status = app(words, prog_name="idpersona", standalone_mode=False)
    except Interrupted as error:
        return _fail(str(error), error.status)
    except IdPersonaError as error:
        return _fail(str(error), 2)
    except UsageProblem as error:
        return _fail(cast(typer.BadParameter, error).format_message(), 2)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", 130)
    except BrokenPipeError:
        # The reader has gone (`… | head`); keep Python from complaining when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        # With a file's name it is about the user's disc: a name too long, a folder nobody may read, no space.
        if error.filename is None:
            return _defect(error)
        return _fail(f"{os.fsdecode(error.filename)}: {error.strerror or error}", 2)
    except Exception as error:
        return _defect(error)
    if status == 130:  # some versions of typer return this instead of letting the interruption through
        return _fail("interrupted", 130)
    return status if isinstance(status, int) else 0


def _defect(error: Exception) -> int:
    if os.environ.get("IDPERSONA_DEBUG"):
        raise error
    name = type(error).__name__
    return _fail(f"internal error ({name}): {error}; a defect, IDPERSONA_DEBUG=1 shows where", 1)


def _fail(message: str, status: int) -> int:
    line = " ".join(message.split())
    print(f"idpersona: {line}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
