"""The media repository: uploads, downloads, thumbnails, previews, remote media. Not here yet."""
