"""Records as they are: JSON lines, Parquet, and a folder that the package `datasets` loads.  Nothing is lost."""

import io
from typing import Any

from handrail.feedback.formats.lines import json_text
from handrail.feedback.formats.options import Made, Options, jsonl
from handrail.feedback.formats.said import Kept, Sayings

_FIELDS = """`prompt` is a list of messages. A ranking has `responses` and their `places`: 1 is the best, equal places are ties.
`margin` is by how much the better should lead, in reward; `label` is the id of the label in the feedback store.
"""


def handrail(said: Sayings, options: Options) -> Made:
    """One of our own records a line; fields that hold their default are left out."""
    lines = {name: (s.record.model_dump(mode="json", exclude_defaults=True) for s in some) for name, some in said.tables.items()}
    return Made(jsonl(lines), "For `handrail sft`, `handrail reward` and `handrail dpo`, one record a line.")


def parquet(said: Sayings, options: Options) -> Made:
    """A Parquet file for each type of record."""
    return Made({f"{name}.parquet": content for name, content in _tables(said).items()}, "Parquet; `prompt` is a list of messages.")


def datasets(said: Sayings, options: Options) -> Made:
    """A dataset's folder: the first type of record that there is in data/, each other one a configuration of its own.

    The card names no licence unless `options.licence` does: whoever publishes has to say.
    """
    tables = _tables(said)
    folders = {name: "data" if first else name for name, first in zip(tables, [True, *[False] * len(tables)], strict=False)}
    files = {f"{folder}/train-00000-of-00001.parquet": tables[name] for name, folder in folders.items()}
    return Made(files | {"README.md": _card(folders, said.counts, options.licence)})


def _tables(said: Sayings) -> dict[str, bytes]:
    import pyarrow as pa

    text, number, texts = pa.string(), pa.float64(), pa.list_(pa.string())
    shared = {"criterion": text, "labeller": text, "label": text}
    columns = {
        "rankings": {
            "responses": texts,
            "places": pa.list_(pa.int32()),
            "margin": number,
            "weight": number,
            "models": texts,
            "scores": pa.list_(number),
            **shared,
        },
        "ratings": {"response": text, "score": number, **shared},
        "demonstrations": {"response": text, "author": text, "label": text},
    }
    return {name: _parquet([_row(s.record) for s in some], columns[name]) for name, some in said.tables.items() if some}


def _row(record: Kept) -> dict[str, Any]:
    """A record in columns; the prompt's meta, which has no fixed fields, as JSON."""
    messages = [{"role": m.role, "content": m.content} for m in record.prompt.messages]
    meta = json_text(record.prompt.meta) if record.prompt.meta else ""
    return {"prompt": messages, "prompt_meta": meta, **record.model_dump(mode="json", exclude={"prompt"})}


def _parquet(rows: list[dict[str, Any]], columns: dict[str, Any]) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet as pq

    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    schema = pa.schema([("prompt", pa.list_(message)), ("prompt_meta", pa.string()), *columns.items()])
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), sink, compression="zstd")
    return sink.getvalue()


def _card(folders: dict[str, str], counts: dict[str, int], licence: str) -> bytes:
    configs = [
        {"config_name": name, "data_files": [{"split": "train", "path": f"{folder}/train-*"}], "default": folder == "data"}
        for name, folder in folders.items()
    ]
    said = "\n".join(f"- `{name}`: {counts[name]} rows" for name in folders)
    ask = "" if licence else "\nThe licence is not given: whoever publishes these data says `license:` at the top of this file.\n"
    # JSON is YAML, and nothing in it can be read as anything else
    head = "".join(f"{key}: {json_text(value)}\n" for key, value in ({"license": licence} if licence else {}).items())
    head += f"configs: {json_text(configs)}\n"
    return f"---\n{head}---\n\n# Human feedback\n\n{said}\n{ask}\n{_FIELDS}".encode()
