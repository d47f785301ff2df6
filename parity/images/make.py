"""Writes what Pillow makes of small pictures: decoded, and resized by its bilinear filter.

Needs Pillow, numpy and pyarrow. `pictures.parquet` has good rows and `broken.parquet` bad ones, in the layout of
Hugging Face's image data sets; `resized.json` has sizes and values. `colours.parquet` is a set that a network learns.
"""

import io
import json
import pathlib

import numpy as np
import PIL
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

HERE = pathlib.Path(__file__).parent
random = np.random.default_rng(7)


def picture(width, height):
    """Smooth colours with some noise, so that JPEG has something to lose."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / (3 + c)) * 60 + np.cos(y / (4 + c)) * 60 + 128 for c in range(3)]
    noise = random.integers(-30, 30, (height, width, 3))
    return np.clip(np.stack(waves, -1) + noise, 0, 255).astype(np.uint8)


def encoded(values, kind, **options):
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind, **options)
    return buffer.getvalue()


def table(name, rows):
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {
        "image": pa.array([row[0] for row in rows], image),
        "label": pa.array([row[1] for row in rows], pa.int64()),
    }
    pq.write_table(pa.table(columns), HERE / name, row_group_size=len(rows) // 2)


sizes = [((32, 32), (16, 16)), ((32, 32), (12, 20)), ((19, 7), (8, 8)), ((9, 14), (21, 30)), ((5, 5), (5, 2))]
resized = []
for (width, height), (new_width, new_height) in sizes:
    values = picture(width, height)
    made = Image.fromarray(values).resize((new_width, new_height), Image.Resampling.BILINEAR)
    case = {
        "from": [width, height],
        "to": [new_width, new_height],
        "pixels": values.flatten().tolist(),
        "resized": np.asarray(made).flatten().tolist(),
    }
    resized.append(case)

rows, decoded = [], []
for kind, options in [
    ("PNG", {}),
    ("JPEG", {"quality": 90, "subsampling": 0}),
    ("WEBP", {"lossless": True}),
    ("JPEG", {"quality": 75, "subsampling": 0}),
]:
    data = encoded(picture(24, 16), kind, **options)
    rows.append(({"bytes": data, "path": f"{len(rows)}.{kind.lower()}"}, len(rows)))
    decoded.append(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).flatten().tolist())

good = rows[1][0]["bytes"]
broken = [
    ({"bytes": rows[0][0]["bytes"][:60], "path": None}, 0),
    ({"bytes": b"not a picture", "path": None}, 1),
    ({"bytes": good, "path": None}, 12),
    ({"bytes": good, "path": None}, None),
    (None, 2),
    ({"bytes": b"", "path": None}, 2),
]
# Three colours, of which the brightest is the class.
colours = []
for number in range(90):
    values = random.integers(0, 120, (8, 8, 3)).astype(np.uint8)
    values[..., number % 3] += 120
    colours.append(({"bytes": encoded(values, "PNG"), "path": None}, number % 3))
table("colours.parquet", colours)
table("pictures.parquet", rows)
table("broken.parquet", broken)
text = {"pillow": PIL.__version__, "resized": resized, "decoded": decoded}
(HERE / "resized.json").write_text(json.dumps(text, separators=(",", ":")) + "\n")
