"""One short file per method; its name on the command line is the file's name, its content one `METHOD`."""
