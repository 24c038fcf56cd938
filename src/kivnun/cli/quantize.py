"""`kivnun quantize`: a model folder in whole-number weights, with Olive's flags."""

import typer

ABOUT = "Export a model with int4 or int8 weights, and prove how far it answers the same."
USAGE = "-m MODEL [-a ADAPTER] [FLAGS]"


def quantize(context: typer.Context) -> None:
    """Export a model with int4 or int8 weights and prove how far it answers the same; Olive's flags."""
    from kivnun.cli.auto_opt import ship
    from kivnun.cli.olive_words import read_words
    from kivnun.olive.ship_commands import QUANTIZE, SHIP_FLAGS

    ship(read_words(QUANTIZE, context.args, SHIP_FLAGS, about=ABOUT, usage=USAGE))
