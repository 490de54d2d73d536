"""The log as files: Parquet or JSON lines, partitioned by day, with a manifest. `docs/export.md` describes them."""
