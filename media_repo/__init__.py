"""The media repository: uploads and downloads, thumbnails, media of other servers.

    api, serverapi      endpoints for clients and for other servers
    library             from an mxc:// URI to a file, wherever it comes from
    service             what this server's users upload
    remote              other servers' media, kept as copies; multipart and redirects read their answers
    thumbnails          made once for each size, by images
    storage             the files

Only homeserver.main imports this package, and it knows other servers through the Protocol `remote.Peers`.
"""
