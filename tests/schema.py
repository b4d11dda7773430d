"""The JSON Schema keywords that docs/asyncapi.yaml uses, checked the slow obvious way; any other keyword fails."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "null": (type(None),),
}
DATE_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)\Z", re.ASCII)


def is_type(value: Any, name: str) -> bool:
    return isinstance(value, TYPES[name]) and not isinstance(value, bool)


def is_date_time(value: Any) -> bool:
    if not isinstance(value, str) or not DATE_TIME.match(value):
        return False
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return False
    return True


def valid(value: Any, schema: Mapping[str, Any], document: Mapping[str, Any]) -> bool:
    """Whether a value fits a schema of the document."""
    return all(_holds(keyword, told, value, schema, document) for keyword, told in schema.items())


def _holds(keyword: str, told: Any, value: Any, schema: Mapping[str, Any], document: Mapping[str, Any]) -> bool:
    match keyword:
        case "description" | "summary":
            return True
        case "$ref":
            found: Any = document
            for part in told.removeprefix("#/").split("/"):
                found = found[part]
            return valid(value, found, document)
        case "type":
            return any(is_type(value, name) for name in ([told] if isinstance(told, str) else told))
        case "enum":
            return value in told and not isinstance(value, bool)
        case "const":
            return bool(value == told)
        case "anyOf":
            return any(valid(value, option, document) for option in told)
        case "oneOf":
            return sum(valid(value, option, document) for option in told) == 1
        case "minimum":
            return not is_type(value, "number") or value >= told
        case "maximum":
            return not is_type(value, "number") or value <= told
        case "exclusiveMinimum":
            return not is_type(value, "number") or value > told
        case "pattern":
            return not isinstance(value, str) or re.search(told, value) is not None
        case "format":
            assert told == "date-time"
            return not isinstance(value, str) or is_date_time(value)
        case "minItems":
            return not isinstance(value, list) or len(value) >= told
        case "items":
            return not isinstance(value, list) or all(valid(item, told, document) for item in value)
        case "minProperties":
            return not isinstance(value, dict) or len(value) >= told
        case "required":
            return not isinstance(value, dict) or all(name in value for name in told)
        case "properties":
            return not isinstance(value, dict) or all(
                valid(value[name], inner, document) for name, inner in told.items() if name in value
            )
        case "propertyNames":
            return not isinstance(value, dict) or all(valid(name, told, document) for name in value)
        case "additionalProperties":
            others = (
                [value[name] for name in value if name not in schema.get("properties", {})] if isinstance(value, dict) else []
            )
            return all(told is not False and valid(other, told, document) for other in others)
    raise AssertionError(f"no check for the keyword {keyword}")
