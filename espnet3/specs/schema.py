"""`python -m espnet3.specs.schema`: write `schemas/*.json` from the models, or `--check` them.

Those of older versions stay as they were.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from espnet3.specs.finishing import FINISHING
from espnet3.specs.models import PERSISTED, PersistedModel
from espnet3.specs.removal import Removal

ALL: tuple[type[PersistedModel], ...] = (*PERSISTED, *FINISHING, Removal)
FOLDER = Path(__file__).resolve().parents[2] / "schemas"


def schema_text(model: type[PersistedModel]) -> str:
    """The JSON Schema of a persisted model, as the text of its file."""
    schema = model.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return json.dumps(schema, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def main(argv: list[str]) -> int:
    """Write the schemas, or with `--check` say which are not current (exit code 1)."""
    wanted = {f"{model.title}.v{model.version}.json": schema_text(model) for model in ALL}
    older = {f"{model.title}.v{n}.json" for model in ALL for n in range(1, model.version)}
    if argv == ["--check"]:
        paths = (path for path in FOLDER.glob("*.json") if path.name not in older)
        found = {path.name: path.read_text(encoding="utf-8") for path in paths}
        stale = sorted(n for n in wanted.keys() | found.keys() if wanted.get(n) != found.get(n))
        if stale:
            print(f"schemas/ is not current: {', '.join(stale)}; run `make schemas`")
        return 1 if stale else 0
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.json"):
        if old.name not in wanted.keys() | older:
            old.unlink()
    for name, text in wanted.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
