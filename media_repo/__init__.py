"""The media repository: uploads and downloads, thumbnails, previews of URLs, media of other servers, retention.

Nothing is here yet. Files will go to a folder or to S3; processing may run in processes of its own; only homeserver.main
will import this package.
"""
