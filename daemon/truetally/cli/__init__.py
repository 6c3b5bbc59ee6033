"""The command line: a client of the status socket, and the way to start the daemon.

It is run by hand, by scripts and by shell completion, so it has to start at
once: a command is imported when it is called, and inside it whatever is heavy.
"""
