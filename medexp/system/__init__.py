"""The machine and the operating system: files, disk, memory, console, the Hub's cache."""
