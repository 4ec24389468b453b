"""The verbs of the command line, one file each: arguments, and the function of the library they go to."""
