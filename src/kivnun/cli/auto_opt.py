"""`kivnun auto-opt`, and what it shares with `optimize -m` and `quantize`: a model folder in the form that is asked."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from kivnun.cli.output import tell

if TYPE_CHECKING:
    from kivnun.olive.flags import Given
    from kivnun.shipping import Order

ABOUT = "Merge a model with its adapter, export it for onnxruntime-genai, and prove that it answers the same."
USAGE = "-m MODEL [-a ADAPTER] [FLAGS]"


def auto_opt(context: typer.Context) -> None:
    """Merge a model with its adapter, export it to ONNX and prove parity; Olive's flags."""
    from kivnun.cli.olive_words import read_words
    from kivnun.olive.ship_commands import AUTO_OPT, SHIP_FLAGS

    ship(read_words(AUTO_OPT, context.args, SHIP_FLAGS, about=ABOUT, usage=USAGE))


def ship(given: "Given") -> None:
    """Ship what the flags of `auto-opt`, `optimize -m` or `quantize` ask for."""
    from kivnun.cli.olive_words import Said, tell_translation
    from kivnun.cli.shipped import print_forms
    from kivnun.models.own_code import say_own_code
    from kivnun.models.resolve import resolve_model
    from kivnun.olive.ship_commands import translate_shipment
    from kivnun.optimization.certificate import read_certificate
    from kivnun.shipping import Order, ship_folder

    shipment = translate_shipment(given)
    tell_translation(shipment.translation, given)
    code = say_own_code(resolve_model(shipment.model).folder)
    if code:
        tell(f"  {shipment.model}: {code}")
    order = Order(
        shipment.model, Path(shipment.adapter) if shipment.adapter else None, shipment.settings, shipment.data
    )
    out = Path(shipment.output)
    if given.is_true("dry_run"):
        _say_plan(order, as_json=given.is_true("json"))
        return
    try:
        with Said(given) as said:
            ship_folder(order, out, log=said.show)
    except KeyboardInterrupt:
        # The status is typer's: 130, the shells' word for Ctrl-C.
        tell("interrupted; nothing half-made is left")
        raise
    certificate = read_certificate(out)
    if given.is_true("json"):
        typer.echo(json.dumps(json.loads(certificate.to_json()), ensure_ascii=False))
        return
    print_forms(certificate.rows)
    typer.echo(f"model: {out}\ncertificate: {out / 'parity.json'} ({certificate.verdict})")
    typer.echo(f"verify elsewhere: kivnun verify {out}")


def _say_plan(order: "Order", *, as_json: bool) -> None:
    from kivnun.cli.olive_words import say_plan
    from kivnun.shipping import plan_order

    say_plan(plan_order(order), as_json=as_json)
