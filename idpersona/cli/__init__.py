"""The command line. One file per command; whatever is heavy is imported inside the commands."""
