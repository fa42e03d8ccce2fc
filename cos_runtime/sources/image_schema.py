"""The columns of a DataFrame of labelled images."""

import pyarrow as pa

# `data` is the image file where `encoded`, else the pixels in planar order [channels, height, width]: uint8, or
# little-endian float32 where it is four times as long.
IMAGE_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("label", pa.int32()),
        ("channels", pa.int32()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("encoded", pa.bool_()),
        ("data", pa.binary()),
    ]
)
