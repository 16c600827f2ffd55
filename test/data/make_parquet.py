# Writes pyarrow_*.parquet: rows of preference sets as another library writes them (pyarrow, any recent version).
import pyarrow as pa
import pyarrow.parquet as pq

text = lambda prefix: [f"{prefix} {i % 7} é\u2028" for i in range(300)]
plain = pa.table({
    "id": pa.array(range(300), pa.int64()),
    "video": [f"clips/{i // 2:03}.mp4" for i in range(300)],
    "prompt": text("question"),
    "chosen": text("yes"),
    "rejected": text("no"),
    "chosen_ids": pa.array([[i, i + 1, 2] if i % 2 else None for i in range(300)], pa.list_(pa.int32())),
    "rejected_ids": pa.array([[i, 2] if i % 2 else None for i in range(300)], pa.list_(pa.int64())),
    "score": pa.array([i / 3 for i in range(300)], pa.float64()),
})
for codec in ["none", "snappy", "gzip", "zstd", "brotli"]:
    pq.write_table(plain, f"pyarrow_{codec}.parquet", compression=codec, row_group_size=128)
pq.write_table(plain, "pyarrow_v2.parquet", data_page_version="2.0", compression="zstd", data_page_size=512)
pq.write_table(plain, "pyarrow_delta.parquet", use_dictionary=False, column_encoding={
    "id": "DELTA_BINARY_PACKED", "chosen": "DELTA_LENGTH_BYTE_ARRAY"})
pq.write_table(plain, "pyarrow_lz4.parquet", compression="lz4")

turn = pa.struct([("role", pa.string()), ("content", pa.string())])
chat = pa.table({
    "prompt": pa.array([[{"role": "user", "content": f"question {i}"}] for i in range(5)], pa.list_(turn)),
    "chosen": pa.array([[{"role": "assistant", "content": f"yes {i}"}] for i in range(5)], pa.list_(turn)),
    "rejected": pa.array([[{"role": "assistant", "content": f"no {i}"}] for i in range(5)], pa.list_(turn)),
    "videos": pa.array([[f"{i}.mp4"] if i else None for i in range(5)], pa.list_(pa.string())),
})
pq.write_table(chat, "pyarrow_chat.parquet")
