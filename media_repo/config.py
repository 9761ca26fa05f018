"""The settings of the media repository."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from homeserver.runtime.config import section, setting
from homeserver.runtime.config_forms import Form

SIZE: Final = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")
DAY_MS = 24 * 3600 * 1000


@section("media")
class MediaConfig:
    """Files that users upload, and copies of those of other servers."""

    path: Path = setting(Path("media"), help="The folder of the files. Relative to data_dir.")
    max_upload_bytes: int = setting(50 * 1024 * 1024, help="The largest upload.", minimum=1024)
    max_remote_bytes: int = setting(
        100 * 1024 * 1024, help="The largest file that is fetched from another server.", minimum=1024
    )
    remote_timeout_ms: int = setting(
        120_000, help="How long fetching a file from another server may take.", minimum=1_000, maximum=3_600_000
    )
    max_pending_uploads: int = setting(
        20, help="How many media IDs a user may have asked for without uploading the content yet.", minimum=1
    )
    pending_upload_lifetime_ms: int = setting(
        DAY_MS, help="How long after asking for a media ID its content may be uploaded.", minimum=60_000
    )
    unauthenticated_before_ts_ms: int = setting(
        0,
        help="The old endpoints, which ask for no access token, serve only what was uploaded or fetched before this "
        "time, in milliseconds since 1970. 0: nothing.",
        minimum=0,
    )
    thumbnail_sizes: list[str] = setting(
        ["32x32", "96x96", "320x240", "320x320", "640x480", "640x640", "800x600"],
        help="Widths and heights of thumbnails. A request gets the smallest that is large enough.",
        form=Form('such as "320x240"', lambda text: SIZE.fullmatch(text) is not None),
    )
    thumbnail_threads: int = setting(1, help="How many thumbnails are made at once.", minimum=1, maximum=64)
    max_image_pixels: int = setting(
        32_000_000,
        help="Larger images get no thumbnail; all frames of an animation count. A pixel takes up to 8 bytes of memory.",
        minimum=10_000,
    )
