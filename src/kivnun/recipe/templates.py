"""The `{field}` placeholders of prompt templates: one reading of them for every floor."""

from string import Formatter


def template_fields(template: str) -> tuple[str, ...]:
    """The field names of a template in the order in which they stand; `{{` and `}}` are plain braces.

    Raises:
        ValueError: When braces do not match, or a placeholder is more than a plain field name.
    """
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"braces do not match ({error}); a plain brace is written {{{{ or }}}}") from error
    fields: list[str] = []
    for _, field, spec, conversion in parts:
        if field is None:
            continue
        if not field.strip():
            raise ValueError("{} names no field; a plain brace is written {{ or }}")
        if spec or conversion or any(mark in field for mark in "[]\"'\n") or field != field.strip():
            raise ValueError(f"{{{field}}} is not a plain field name; a plain brace is written {{{{ or }}}}")
        fields.append(field)
    return tuple(fields)
