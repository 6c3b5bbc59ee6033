"""The JSON Schema of the config file, for editors; `make schema` writes it to config/."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from truetally.settings import Settings, written


class _Schema(GenerateJsonSchema):
    def encode_default(self, dft: Any) -> Any:
        """Defaults as the config file has them: durations with a unit, and a section as none."""
        if isinstance(dft, timedelta):
            return written(dft)
        if isinstance(dft, BaseModel):
            return {}
        return super().encode_default(dft)


def schema() -> str:
    """The schema as it stands in the file."""
    content = Settings.model_json_schema(schema_generator=_Schema)
    content = {"$schema": GenerateJsonSchema.schema_dialect, **content, "title": "truetally configuration"}
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(schema())
