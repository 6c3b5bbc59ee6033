"""The status socket: what truetally knows, asked over HTTP on a unix socket."""
