"""An S3 stand-in for trying the team server out: moto's, which keeps objects in memory, here with a folder they outlive it in.

``python s3.py FOLDER PORT BUCKET...`` serves on loopback until SIGTERM, then writes the objects to the folder. It checks no keys.
The bucket ``ready`` is there once all objects of the folder are.
"""

import signal
import sys
from pathlib import Path

from moto.server import ThreadedMotoServer


def main(folder: Path, port: int, *buckets: str) -> None:
    """Serve the buckets, with the objects of the folder, until a signal comes."""
    import boto3

    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
    server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
    server.start()
    about = {"aws_access_key_id": "team", "aws_secret_access_key": "none", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", **about)
    for bucket in buckets:
        client.create_bucket(Bucket=bucket)
        for path in sorted(file for file in (folder / bucket).rglob("*") if file.is_file()):
            client.upload_file(str(path), bucket, str(path.relative_to(folder / bucket)))
    client.create_bucket(Bucket="ready")
    signal.sigwait([signal.SIGTERM, signal.SIGINT])
    for bucket in buckets:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        keys = {folder / bucket / found["Key"]: found["Key"] for page in pages for found in page.get("Contents", [])}
        for path, key in keys.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            client.download_file(bucket, key, str(path))
        for path in (folder / bucket).rglob("*"):
            if path.is_file() and path not in keys:
                path.unlink()
    server.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
