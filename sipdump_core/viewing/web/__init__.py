"""The page of ``sipdump-read web``: drawn on the server, for a browser on the same machine and nobody else."""
