"""A folder of shards as parquet files that Hugging Face datasets reads, and the Hub shows, without us.

OUT/README.md                                    the card
OUT/data/train-00000-of-00003.parquet            columns image {bytes, path}, label, key; labels where there
                                                 are several, and metadata if there is any
"""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fracgen.shards.data_card import CardText, card_head, feature, label_feature, to_yaml_head
from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.manifest import Manifest
from fracgen.shards.reader import EncodedSample, ShardFolder, read_labels
from fracgen.shards.sample import LABELS

FILE_BYTES = 500 << 20
"""Of a parquet file, about: what the Hub advises."""
ROW_GROUP_ROWS, ROW_GROUP_BYTES = 100, 64 << 20
"""Of a row group, at most: the Hub's viewer reads one to show a page of 100 rows."""
_ARROW_FUNCTIONS = {"bool": "bool_", "int64": "int64", "float64": "float64", "string": "string"}


def export_parquet(shards: ShardFolder, out: Path, text: CardText, *, file_bytes: int = FILE_BYTES) -> list[str]:
    """Write all samples to `out`, an empty folder, in the order in which the tars hold them; returns the files' names.

    Images are stored as they are, not encoded anew. text: of the card. The bytes follow from the set and the version of
    pyarrow. Raises UsageError where pyarrow is missing, DataError where a sample cannot be read or has other metadata.
    """
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise UsageError("pyarrow is not installed: pip install 'fracgen[datasets]'") from None
    manifest = shards.manifest
    first = next(iter(shards.read_encoded_shard(0)))
    metadata = _without_labels(first.metadata, manifest.multi_label) if manifest.layout.metadata else {}
    schema = _schema(shards, metadata)
    (out / "data").mkdir()
    names = []
    groups = _groups([shard.bytes for shard in manifest.shards], file_bytes)
    for number, group in enumerate(groups):
        name = f"data/{manifest.layout.split}-{number:05d}-of-{len(groups):05d}.parquet"
        with pq.ParquetWriter(out / name, schema, compression="snappy") as writer:
            samples = itertools.chain.from_iterable(map(shards.read_encoded_shard, group))
            for rows in _row_groups(samples):
                writer.write_table(_table(rows, schema, manifest))
        names.append(name)
    (out / "README.md").write_text(_card(shards, text, metadata), "utf-8")
    return names


def _without_labels(metadata: Mapping[str, Any], multi_label: bool) -> Mapping[str, Any]:
    """What a sample's metadata says beside its labels, which have a column of their own where they are several."""
    return {name: value for name, value in metadata.items() if name != LABELS} if multi_label else metadata


def _groups(sizes: Sequence[int], file_bytes: int) -> list[list[int]]:
    """Numbers of tars, those of each file together: neighbours, of about so many bytes."""
    count = min(len(sizes), max(1, -(-sum(sizes) // file_bytes)))
    return [list(range(len(sizes) * number // count, len(sizes) * (number + 1) // count)) for number in range(count)]


def _row_groups(samples: Iterator[EncodedSample]) -> Iterator[list[EncodedSample]]:
    rows: list[EncodedSample] = []
    num_bytes = 0
    for sample in samples:
        if rows and (len(rows) == ROW_GROUP_ROWS or num_bytes + len(sample.image_bytes) > ROW_GROUP_BYTES):
            yield rows
            rows, num_bytes = [], 0
        rows.append(sample)
        num_bytes += len(sample.image_bytes)
    if rows:
        yield rows


def _labels_of(row: EncodedSample, num_classes: int) -> list[int]:
    try:
        return list(read_labels(row, num_classes))
    except DataError as error:
        raise DataError(f"sample {row.key}: {error}") from error


def _table(rows: Sequence[EncodedSample], schema: Any, manifest: Manifest) -> Any:
    import pyarrow as pa

    columns: dict[str, list[Any]] = {
        "image": [{"bytes": row.image_bytes, "path": f"{row.key}.{manifest.image.extension}"} for row in rows],
        "label": [row.label for row in rows],
        "key": [row.key for row in rows],
    }
    if manifest.multi_label:
        columns[LABELS] = [_labels_of(row, manifest.num_classes) for row in rows]
    if "metadata" in schema.names:
        columns["metadata"] = [_without_labels(row.metadata, manifest.multi_label) for row in rows]
    try:
        return pa.Table.from_pydict(columns, schema=schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise DataError(f"samples {rows[0].key} to {rows[-1].key}: metadata of another type ({error})") from error


def _features(shards: ShardFolder, metadata: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The columns as `datasets` writes them in YAML."""
    columns = [
        {"name": "image", "dtype": "image"},
        {"name": "label", "dtype": label_feature(shards.manifest)},
        {"name": "key", "dtype": "string"},
    ]
    if shards.multi_label:
        columns.append({"name": LABELS, "sequence": label_feature(shards.manifest)})
    return [*columns, {"name": "metadata", **feature(metadata)}] if metadata else columns


def _schema(shards: ShardFolder, metadata: Mapping[str, Any]) -> Any:
    """The arrow schema; `datasets` finds its features, with the class names, in its metadata."""
    import pyarrow as pa

    names = list(shards.manifest.class_names)
    features: dict[str, Any] = {
        "image": {"_type": "Image"},
        "label": {"names": names, "_type": "ClassLabel"},
        "key": {"dtype": "string", "_type": "Value"},
    }
    columns = [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("label", pa.int64()),
        ("key", pa.string()),
    ]
    if shards.multi_label:
        features[LABELS] = {"feature": features["label"], "_type": "List"}
        columns.append((LABELS, pa.list_(pa.int64())))
    if metadata:
        features["metadata"] = _hf_type(feature(metadata))
        columns.append(("metadata", _arrow_type(feature(metadata))))
    described = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema(columns, metadata=described)


def _arrow_type(described: Mapping[str, Any]) -> Any:
    """The arrow type of a feature as YAML has it."""
    import pyarrow as pa

    if "struct" in described:
        return pa.struct([(each["name"], _arrow_type(each)) for each in described["struct"]])
    inner = _inner(described)
    return getattr(pa, _ARROW_FUNCTIONS[described["dtype"]])() if inner is None else pa.list_(_arrow_type(inner))


def _hf_type(described: Mapping[str, Any]) -> Any:
    """The same as JSON in the schema's metadata has it."""
    if "struct" in described:
        return {each["name"]: _hf_type(each) for each in described["struct"]}
    inner = _inner(described)
    if inner is None:
        return {"dtype": described["dtype"], "_type": "Value"}
    return {"feature": _hf_type(inner), "_type": "List"}


def _inner(described: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What a list is a list of; None where it is none."""
    if "list" in described:
        return {"struct": described["list"]}
    inner = described.get("sequence")
    return {"dtype": inner} if isinstance(inner, str) else inner


def _card(shards: ShardFolder, text: CardText, metadata: Mapping[str, Any]) -> str:
    manifest, split = shards.manifest, shards.manifest.layout.split
    head = card_head(manifest, text)
    head["tags"] = [tag for tag in head["tags"] if tag != "webdataset"]
    head["configs"] = [{"config_name": "default", "data_files": [{"split": split, "path": f"data/{split}-*.parquet"}]}]
    head["dataset_info"] = {**head["dataset_info"], "features": _features(shards, metadata)}
    title = text.title or manifest.layout.name
    return f"""{to_yaml_head(head)}
# {title}

{manifest.num_samples:,} images of {manifest.num_classes:,} classes, exported by fracgen from shards whose recipe has
the sha256 {manifest.recipe_hash}.

```python
import datasets

rows = datasets.load_dataset("PATH/OF/THIS/FOLDER", split="{split}")
```
"""
