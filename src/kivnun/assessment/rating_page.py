"""The page on which people rate pairs of answers: one HTML text that needs nothing from elsewhere."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATE = "rating.html.jinja"


def render_rating_page(nonce: str) -> str:
    """The page; rows are fetched by its script and shown as text, never as HTML.

    Args:
        nonce: Names the page's own script in its content security policy, so that no other one runs.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(TEMPLATE).render(nonce=nonce)


def content_policy(nonce: str) -> str:
    """The header that goes with the page: its own script and style, and requests to its own server alone.

    Args:
        nonce: As in the page.
    """
    return (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
