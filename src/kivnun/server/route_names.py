"""The routes of an application by the addresses that they answer, for requests that are refused before any route."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.routing import compile_path


@dataclass(frozen=True)
class NamedRoute:
    """A route at one of its addresses.

    Attributes:
        name: As requests are counted by, such as `/files/{file_id}`.
        address: With its beginning, such as `/v1/files/{file_id}`.
        methods: Of HTTP.
        pattern: What the whole path of a request must be.
    """

    name: str
    address: str
    methods: frozenset[str]
    pattern: re.Pattern[str]


def name_routes(routers: Iterable[tuple[str, APIRouter]]) -> list[NamedRoute]:
    """The routes of an application, in the order in which they are tried.

    Args:
        routers: Each with the beginning of its addresses.
    """
    return [
        NamedRoute(
            route.path, prefix + route.path, frozenset(route.methods or ()), compile_path(prefix + route.path)[0]
        )
        for prefix, router in routers
        for route in router.routes
        if isinstance(route, APIRoute)
    ]


def find_route(routes: Sequence[NamedRoute], method: str, path: str) -> NamedRoute | None:
    """The route that would answer a request.

    Args:
        routes: Of the application.
        method: Of HTTP.
        path: As the routes know it.
    """
    return next((each for each in routes if method in each.methods and each.pattern.match(path)), None)
